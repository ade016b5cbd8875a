"""What the resources share: base models, references, pod settings, conditions."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

Time = datetime


class ApiModel(BaseModel):
    """Immutable and in camelCase, as in YAML; fields that we do not know are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


# Kubernetes' own grammar of object names (RFC 1123 subdomain).
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NameString = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$")]


def _text(value: Any) -> Any:
    # people write `cpu: 1`, which YAML reads as a number; Kubernetes takes both
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_text),
]
Version = Annotated[str, Field(max_length=64, pattern=r"^[0-9][0-9A-Za-z.~+-]*$")]  # of PostgreSQL, as "17.6"
LabelKey = Annotated[str, Field(max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]


class Reference(ApiModel):
    """The name of an object in the same namespace."""

    name: NameString


class Resources(ApiModel):
    """Requests and limits of each container of the pod."""

    requests: Annotated[dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity], Field(max_length=3)] = {}
    limits: Annotated[dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity], Field(max_length=3)] = {}


class Toleration(ApiModel):
    """As in a Pod."""

    key: Annotated[str, Field(max_length=317)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class PodSettings(ApiModel):
    """Where the pods of a resource run and what they may use."""

    resources: Resources | None = Field(None, description="Requests and limits of each container.")
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(
        {}, description="Labels that a node must have."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(
        [], description="Taints that the pods tolerate."
    )
    image_pull_secrets: Annotated[list[Reference], Field(max_length=8)] = Field(
        [], description="Secrets of type kubernetes.io/dockerconfigjson in the same namespace."
    )


class JobSettings(PodSettings):
    """How long a Job may take."""

    active_deadline_seconds: Annotated[int, Field(ge=10, le=30 * 86400)] = Field(
        86400,
        description="The Job's pod is ended, and the Job failed (DeadlineExceeded), so long after the pod's start.",
    )
    start_deadline_seconds: Annotated[int, Field(ge=10, le=86400)] = Field(
        600,
        description="The Job is ended and failed when its pod does not run after this time "
        "(image, scheduling, volume).",
    )


class Condition(ApiModel):
    """A Kubernetes condition (metav1.Condition)."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32768)]
    observed_generation: int | None = None
    last_transition_time: Time


# At most one of each type, which server-side apply and `kubectl describe` rely on.
Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class Failure(ApiModel):
    """Why a resource failed."""

    reason: Annotated[str, Field(max_length=128)]
    message: Annotated[str, Field(max_length=32768)]


class Meta(ApiModel):
    """The part of `metadata` that decisions look at."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time = datetime.fromtimestamp(0, UTC)
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()


class Resource(ApiModel):
    """Base of the custom resources."""

    metadata: Meta

    @property
    def key(self) -> tuple[str, str, str]:
        """`(kind, namespace, name)`, as used by the cache and the queue."""
        return type(self).__name__, self.metadata.namespace, self.metadata.name

    @property
    def deleted(self) -> bool:
        """Whether deletion has been asked for."""
        return self.metadata.deletion_timestamp is not None


def dump(model: BaseModel) -> dict[str, Any]:
    """The model as JSON-ready camelCase, without what is unset."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
