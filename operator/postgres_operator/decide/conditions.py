"""Kubernetes conditions as lists of dicts, ready for a status write."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from postgres_operator.api.backup import RunStatus
from postgres_operator.api.common import Condition, dump
from postgres_operator.api.database import DatabaseStatus
from postgres_operator.api.schedule import ScheduledBackupStatus
from postgres_operator.api.store import BackupStoreStatus

from .actions import Nothing, SetStatus

Status = RunStatus | DatabaseStatus | BackupStoreStatus | ScheduledBackupStatus

# The API allows 32,768 characters; what people read in `kubectl describe` is shorter.
_MESSAGE_LIMIT = 2048


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC, to the second, as metav1.Time has it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    previous: Sequence[Condition],
    type_: str,
    status: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    now: datetime,
    generation: int,
) -> dict[str, Any]:
    """One condition; `lastTransitionTime` moves only when its status does."""
    before = next((c for c in previous if c.type == type_), None)
    since = before.last_transition_time if before and before.status == status else now
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message[:_MESSAGE_LIMIT],
        "observedGeneration": generation,
        "lastTransitionTime": timestamp(since),
    }


def find(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of that type, if any."""
    return next((c for c in conditions if c.type == type_), None)


def same(a: Sequence[Condition], b: Sequence[dict[str, Any]]) -> bool:
    """Whether writing b over a would change anything but times."""

    def strip(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(
            ({k: v for k, v in c.items() if k != "lastTransitionTime"} for c in items),
            key=lambda c: str(c["type"]),
        )

    return strip([dump(c) for c in a]) == strip(b)


def unless_same(status: Status, action: SetStatus) -> SetStatus | Nothing:
    """The action, or nothing where it would write what is there already, but for the time at which that was found."""
    before, after = dump(status), action.status
    fields = (before.keys() | after.keys()) - {"conditions", "lastDiscoveryTime"}
    unchanged = all(before.get(f) == after.get(f) for f in fields)
    return Nothing(action.after) if unchanged and same(status.conditions, after["conditions"]) else action
