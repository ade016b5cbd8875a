"""Settings, all from the environment; a wrong one is refused at start with pydantic's message."""

import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from . import names
from .api.database import IMAGE
from .decide.lease import LONGEST_SECONDS


class Settings(BaseSettings):
    """Each field is an environment variable of the same name in capitals; see docs/settings.md."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    watch_namespaces: Annotated[str, NoDecode] = Field("", description="Namespaces, comma-separated; all when empty.")
    job_templates_dir: Path = Path("/app/job_templates")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    probe_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    resync_seconds: Annotated[float, Field(gt=0)] = 300

    enable_leader_election: bool = True
    lease_name: Annotated[str, Field(min_length=1)] = "postgres-operator-controller-manager"
    lease_namespace: str = ""  # empty: that of the pod
    lease_duration_seconds: Annotated[int, Field(ge=1, le=LONGEST_SECONDS)] = 15
    lease_renew_deadline_seconds: Annotated[float, Field(gt=0)] = 10
    lease_retry_period_seconds: Annotated[float, Field(gt=0)] = 2
    pod_name: Annotated[str, Field(min_length=1)] = Field(default_factory=socket.gethostname)
    pod_namespace: Annotated[str, Field(min_length=1)] = "postgres-operator-system"

    # 50: more than most clusters have room for, few enough not to storm a storage class or a registry at 02:00.
    # 10: of the 100 connections that a server takes by default, these leave nine tenths to applications.
    max_running_jobs: Annotated[int, Field(ge=0)] = 50
    max_running_jobs_per_database: Annotated[int, Field(ge=0)] = 10

    # Unix identity of every backup and restore Job: files in a store have one owner, whatever the image.
    job_uid: Annotated[int, Field(ge=1)] = 999
    job_gid: Annotated[int, Field(ge=1)] = 999
    uploader_image: Annotated[str, Field(max_length=512, pattern=f"^{IMAGE}$")] = names.UPLOADER_IMAGE

    default_store_size: str = "10Gi"
    default_store_class: str = ""
    default_store_access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    backup_ttl_seconds_after_finished: Annotated[int, Field(ge=60)] = 7 * 86400

    @model_validator(mode="after")
    def _lease_is_safe(self) -> Self:
        duration, deadline = self.lease_duration_seconds, self.lease_renew_deadline_seconds
        if not duration > deadline > 1.2 * self.lease_retry_period_seconds:
            raise ValueError(
                f"LEASE_DURATION_SECONDS ({duration}) must be longer than LEASE_RENEW_DEADLINE_SECONDS ({deadline:g}), "
                f"and that longer than 1.2 times LEASE_RETRY_PERIOD_SECONDS ({self.lease_retry_period_seconds:g})"
            )
        return self

    @property
    def namespaces(self) -> list[str]:
        """The namespaces to watch; empty for all."""
        return [n.strip() for n in self.watch_namespaces.split(",") if n.strip()]

    @property
    def default_claim_spec(self) -> dict[str, Any]:
        """Spec of the claim that is made in a namespace without a store."""
        spec: dict[str, Any] = {
            "accessModes": [self.default_store_access_mode],
            "resources": {"requests": {"storage": self.default_store_size}},
        }
        if self.default_store_class:
            spec["storageClassName"] = self.default_store_class
        return spec
