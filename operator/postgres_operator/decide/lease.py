"""Who may hold the Lease, by the rules of client-go: other replicas' clocks do not matter.

Source: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from .actions import Body

# Whoever writes an absurd duration into the Lease must not stop all replicas for ever.
LONGEST_SECONDS = 3600


@dataclass(frozen=True)
class Terms:
    """What all replicas agree on; in seconds. `duration > renew_deadline > 1.2 * retry_period`."""

    duration: int
    renew_deadline: float
    retry_period: float


@dataclass(frozen=True)
class Sighting:
    """A state of the Lease (`spec`), and when this process first saw it, by its own monotonic clock."""

    spec: Body
    at: float


def look(before: Sighting | None, spec: Body, now: float) -> Sighting:
    """What is known after the Lease was seen like this: only a change shows that the holder lives."""
    return before if before and before.spec == spec else Sighting(spec, now)


def holder(spec: Body) -> str:
    """Identity of who holds it; empty where nobody does."""
    return spec.get("holderIdentity") or ""


def free_from(seen: Sighting | None, identity: str, terms: Terms) -> float:
    """The time, by the clock of the sighting, from which this identity may take it."""
    if seen is None or holder(seen.spec) in ("", identity):
        return -math.inf
    # The holder counts on its own duration, which another version of the settings may have made longer.
    return seen.at + max(terms.duration, min(seen.spec.get("leaseDurationSeconds") or 0, LONGEST_SECONDS))


def held(spec: Body | None, identity: str, terms: Terms, now: datetime) -> Body:
    """The spec by which this identity takes the Lease, or keeps it."""
    before = spec or {}
    if holder(before) == identity:
        return {**before, "leaseDurationSeconds": terms.duration, "renewTime": _micro_time(now)}
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": terms.duration,
        "acquireTime": _micro_time(now),
        "renewTime": _micro_time(now),
        "leaseTransitions": 0 if spec is None else (before.get("leaseTransitions") or 0) + 1,
    }


def released(spec: Body, now: datetime) -> Body:
    """The spec that gives it up: anybody may take it at once."""
    return {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(now)}


def _micro_time(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
