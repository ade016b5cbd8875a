"""Gathers what the decision about a Backup's verification looks at."""

from dataclasses import replace

from . import names
from .api.backup import Backup
from .cache import Cache
from .cluster import Cluster
from .decide import verification
from .decide.actions import Action
from .decide.run import Policy
from .exclusion import Starting, claim_blockers
from .facts import Claims, Clock, RunFinder


class VerificationFinder(RunFinder):
    """The same facts as about a Backup, but about another Job of it."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        claims: Claims,
        backup: Backup,
        policy: Policy,
        now: Clock,
        starting: Starting,
    ) -> None:
        super().__init__(cluster, cache, claims, backup, policy, now, starting)
        self._backup_done = backup
        self._job_name = self._name_job("Verification")
        self._facts = replace(self._facts, job=self._job(self._job_name))

    def decide(self) -> Action:
        """The decision on what is known so far."""
        # Now, not when the facts were gathered: others may have started since.
        blockers = tuple(claim_blockers(self._cache, self._backup_done, self._facts.claim, self._starting))
        facts = replace(self._facts, blockers=blockers)
        return verification.decide(self._backup_done, self._store(), facts, self._policy)

    def _claim_name(self) -> str:
        # Where the artifact is, whatever the store is now.
        return names.volume_of(self._backup_done.status.backup_location or "")
