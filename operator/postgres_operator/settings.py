"""Settings, all from the environment; a wrong one is refused at start with pydantic's message."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


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

    # Unix identity of every backup and restore Job: files in a store have one owner, whatever the image.
    job_uid: Annotated[int, Field(ge=1)] = 999
    job_gid: Annotated[int, Field(ge=1)] = 999

    default_store_size: str = "10Gi"
    default_store_class: str = ""
    default_store_access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    backup_ttl_seconds_after_finished: Annotated[int, Field(ge=60)] = 7 * 86400

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
