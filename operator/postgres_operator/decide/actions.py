"""What a decision can ask for. `reconcile` carries it out; nothing here does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """A volume claim, as far as scheduling needs it."""

    name: str
    access_modes: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether pods on several nodes may mount it."""
        return "ReadWriteMany" in self.access_modes

    @property
    def exclusive(self) -> bool:
        """Whether only one pod at a time may mount it."""
        return "ReadWriteOncePod" in self.access_modes


class Fact(Enum):
    """Something that no watch keeps in the cache and that costs a request to learn."""

    LIVE_JOB = "the Job as the API server has it now"
    PODS = "the pods of the Job"
    REFUSALS = "warning Events of the Job: why its pods were refused"
    CLAIM = "the volume claim"
    SERVER_PODS = "the pods of the database server"
    READER_PODS = "the pods of the Job that reads the manifest"
    READER_REFUSALS = "warning Events of that Job"
    OWN_JOBS = "all Jobs of the Backup as the API server has them now"
    OWN_PODS = "the pods of all Jobs of the Backup"
    NAMESPACE = "whether the namespace is being deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """One Kubernetes Event to record on the resource."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is as it should be; look again after so many seconds, or when something changes."""

    after: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Decide again with this fact."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Write this status (all of it) and look again after so many seconds, or when something changes.

    What follows, if anything, is done at once, and only where the object was still as it is known here.
    """

    status: Body
    event: Event | None = None
    after: float | None = None
    then: "CreateJob | None" = None


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Render and create a Job, then do what follows, if anything.

    A Job of that name that is ours is as good as a new one.
    """

    name: str
    template: str
    values: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    claim: Claim | None = None  # decides where the pod may run
    service_account: str = ""  # the namespace's default one otherwise
    start_seconds: int = 0  # that its pod may take to start; its own deadline begins then
    then: SetStatus | Nothing = Nothing()


@dataclass(frozen=True, slots=True)
class Queue:
    """Do this, and look again when a slot is free and all that are ahead have one."""

    then: SetStatus | Nothing


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete the Job and its pods (foreground) and look again after so many seconds."""

    name: str
    uid: str
    resource_version: str  # a Job that has just ended is not to be deleted unseen
    after: float


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """Create the claim that backups go to by default, then decide again."""

    body: Body


@dataclass(frozen=True, slots=True)
class Provision:
    """Create what of a Database is missing, in this order (the Secret before the server), then set the status."""

    claim: Body | None = None
    secret: bool = False
    services: tuple[Body, ...] = ()
    server: Body | None = None
    then: SetStatus | Nothing = Nothing()


@dataclass(frozen=True, slots=True)
class UpdateServer:
    """Apply the StatefulSet, then set the status."""

    server: Body
    then: SetStatus


@dataclass(frozen=True, slots=True)
class CreateBackup:
    """Create the Backup of a slot, then set the status.

    A Backup of that name that the same schedule has made is as good as a new one.
    """

    body: Body
    then: SetStatus


@dataclass(frozen=True, slots=True)
class DeleteBackup:
    """Delete exactly this version of a Backup and look again after so many seconds.

    `change` is made before, if it is not empty: by it the artifact goes, too.
    """

    name: str
    uid: str
    resource_version: str
    why: str
    required: bool  # before anything else can be done
    after: float | None
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChangeBackup:
    """Merge this into exactly this version of a Backup and look again after so many seconds."""

    name: str
    resource_version: str
    why: str
    change: Mapping[str, Any]
    after: float | None = None


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    """Hold a Backup until its artifact is deleted, or let it go, and look again."""

    held: bool
    why: str
    orphaned: bool = False  # somebody may want to look after the artifact, for we cannot


Action = (
    Nothing
    | Ask
    | SetStatus
    | CreateJob
    | Queue
    | DeleteJob
    | CreateClaim
    | Provision
    | UpdateServer
    | CreateBackup
    | DeleteBackup
    | ChangeBackup
    | SetFinalizer
)
