"""Jobs that look at the same thing again and again, one after the other.

The name of the next one is made of its predecessor's UID, so that two leaders can only make the same one; when it is
due is seen from its predecessor, so that nothing is written while nothing changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from postgres_operator import names
from postgres_operator.api.common import Condition

from .actions import DeleteJob, Nothing
from .jobs import LOOK_AT, Job, about_pod, next_look

_REFUSED = ("QuotaExceeded", "RequestRefused", "TemplateInvalid", "JobNameTaken", "ClaimNotFound")
_AT_A_TIME = 3  # so that a clock which is far ahead, and gives up each Job at once, does not fill the namespace
GONE_RETRY_SECONDS = 2.0


def newest(jobs: Sequence[Job], hash_: str) -> Job | None:
    """The newest Job that looks at what the hash stands for, otherwise the newest one at all."""
    return max(jobs, key=lambda job: (job.verifies == hash_, job.created, job.name), default=None)


def next_name(kind: str, owner: str, hash_: str, previous: Job | None) -> str:
    """The one name that the successor of this Job can have."""
    return names.job_name(kind, owner, names.short_hash(hash_, previous.uid if previous else ""))


def refused(shown: Condition | None) -> bool:
    """Whether what is shown is that the next Job could not be made, or an earlier one not be deleted.

    That comes after the outcome of the last one, which must not take its place again: each would be written over the
    other, without end.
    """
    return shown is not None and shown.reason in _REFUSED and not about_pod(shown.message)


@dataclass(frozen=True, slots=True)
class Chain:
    """All Jobs of one owner, `last` among them, each of which has so many seconds."""

    now: datetime
    jobs: Sequence[Job]
    last: Job
    deadline: int

    @property
    def given_up_after(self) -> int:
        """Age of a Job that Kubernetes should have ended: it has lost its node, is suspended, or the like."""
        return self.deadline + 60

    @property
    def age(self) -> float:
        """Seconds since the last one was created; 0 where our clock is behind that of the API server."""
        return self._age(self.last)

    @property
    def runs(self) -> bool:
        """Whether the outcome of the last one is not known yet."""
        return not self.last.finished or (self.last.deleting and self.age < self.given_up_after)

    @property
    def given_up(self) -> bool:
        """Whether the last one does not end, so that another one is needed."""
        return self._given_up(self.last)

    @property
    def crowded(self) -> bool:
        """Whether so many do not end that there must be no more of them."""
        return sum(not job.finished for job in self.jobs) >= _AT_A_TIME

    def tidy(self) -> DeleteJob | None:
        """Delete one of those before the last one, unless it still runs."""
        for job in self.jobs:
            if job.uid != self.last.uid and not job.deleting and (job.finished or self._given_up(job)):
                return DeleteJob(job.name, job.uid, job.resource_version, GONE_RETRY_SECONDS)
        return None

    @property
    def look_again(self) -> Nothing:
        """Until the last one has ended."""
        return Nothing(next_look(self.age, (*LOOK_AT, self.deadline, self.given_up_after)))

    def _age(self, job: Job) -> float:
        return max(0.0, (self.now - job.created).total_seconds())

    def _given_up(self, job: Job) -> bool:
        return not job.finished and self._age(job) >= self.given_up_after
