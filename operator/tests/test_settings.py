import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from postgres_operator.settings import Settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in Settings.model_fields:
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)


def test_everything_has_a_default():
    settings = Settings()
    assert settings.namespaces == []
    assert settings.log_format == "text"
    assert settings.workers >= 1
    assert settings.job_uid > 0
    assert settings.uploader_image == "rclone/rclone:1.76.0"
    assert settings.enable_leader_election
    assert settings.default_claim_spec == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "10Gi"}},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("shop", ["shop"]),
        ("shop,crm", ["shop", "crm"]),
        (" shop , crm ,", ["shop", "crm"]),
        (" , ", []),
    ],
)
def test_namespaces_are_a_list_with_commas(monkeypatch, text, expected):
    monkeypatch.setenv("WATCH_NAMESPACES", text)
    assert Settings().namespaces == expected


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("LOG_FORMAT", "json", "json"),
        ("LOG_LEVEL", "DEBUG", "DEBUG"),
        ("WORKERS", "3", 3),
        ("MAX_RUNNING_JOBS", "0", 0),
        ("MAX_RUNNING_JOBS_PER_DATABASE", "2", 2),
        ("PROBE_PORT", "0", 0),
        ("RESYNC_SECONDS", "0.5", 0.5),
        ("JOB_UID", "1001", 1001),
        ("JOB_GID", "1002", 1002),
        ("JOB_TEMPLATES_DIR", "/etc/templates", Path("/etc/templates")),
        (
            "UPLOADER_IMAGE",
            "registry.example.com:5000/a/rclone:1.76.0@sha256:0",
            "registry.example.com:5000/a/rclone:1.76.0@sha256:0",
        ),
        ("BACKUP_TTL_SECONDS_AFTER_FINISHED", "3600", 3600),
        ("ENABLE_LEADER_ELECTION", "false", False),
        ("LEASE_NAME", "mine", "mine"),
        ("LEASE_NAMESPACE", "leases", "leases"),
        ("LEASE_DURATION_SECONDS", "60", 60),
        ("LEASE_RENEW_DEADLINE_SECONDS", "12.5", 12.5),
        ("LEASE_RETRY_PERIOD_SECONDS", "0.5", 0.5),
        ("POD_NAME", "manager-1", "manager-1"),
        ("POD_NAMESPACE", "operators", "operators"),
    ],
)
def test_the_environment_decides(monkeypatch, variable, text, value):
    assert getattr(Settings(), variable.lower()) != value
    monkeypatch.setenv(variable, text)
    assert getattr(Settings(), variable.lower()) == value


def test_the_default_store(monkeypatch):
    monkeypatch.setenv("DEFAULT_STORE_SIZE", "1Ti")
    monkeypatch.setenv("DEFAULT_STORE_CLASS", "slow")
    monkeypatch.setenv("DEFAULT_STORE_ACCESS_MODE", "ReadWriteMany")
    assert Settings().default_claim_spec == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
        "storageClassName": "slow",
    }


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("WORKERS", "0"),
        ("MAX_RUNNING_JOBS", "-1"),
        ("MAX_RUNNING_JOBS_PER_DATABASE", "-1"),
        ("WORKERS", "65"),
        ("WORKERS", "many"),
        ("WORKERS", ""),
        ("PROBE_PORT", "65536"),
        ("PROBE_PORT", "-1"),
        ("RESYNC_SECONDS", "0"),
        ("RESYNC_SECONDS", "nan"),
        ("JOB_UID", "0"),
        ("JOB_GID", "0"),
        ("BACKUP_TTL_SECONDS_AFTER_FINISHED", "0"),
        ("UPLOADER_IMAGE", ""),
        ("UPLOADER_IMAGE", "-rclone"),
        ("UPLOADER_IMAGE", "rclone:1 x"),
        ("UPLOADER_IMAGE", "rclone\n"),
        ("UPLOADER_IMAGE", "r" * 513),
        ("DEFAULT_STORE_ACCESS_MODE", "ReadOnlyMany"),
        ("ENABLE_LEADER_ELECTION", "perhaps"),
        ("ENABLE_LEADER_ELECTION", ""),
        ("LEASE_NAME", ""),
        ("LEASE_DURATION_SECONDS", "0"),
        ("LEASE_DURATION_SECONDS", "3601"),
        ("LEASE_DURATION_SECONDS", "15.5"),
        ("LEASE_DURATION_SECONDS", "15s"),
        ("LEASE_RENEW_DEADLINE_SECONDS", "0"),
        ("LEASE_RENEW_DEADLINE_SECONDS", "nan"),
        ("LEASE_RETRY_PERIOD_SECONDS", "0"),
        ("LEASE_RETRY_PERIOD_SECONDS", "-1"),
        ("LEASE_RETRY_PERIOD_SECONDS", "nan"),
        ("POD_NAME", ""),
        ("POD_NAMESPACE", ""),
    ],
)
def test_what_is_wrong_is_refused_and_named(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [e["loc"] for e in caught.value.errors()] == [(variable.lower(),)]


@pytest.fixture
def terms(monkeypatch):
    """terms(duration, renew deadline, retry period) -> whether they are taken, or the message that refuses them."""

    def read(*seconds: str) -> bool | str:
        for name, value in zip(("LEASE_DURATION", "LEASE_RENEW_DEADLINE", "LEASE_RETRY_PERIOD"), seconds, strict=True):
            monkeypatch.setenv(f"{name}_SECONDS", value)
        try:
            Settings()
        except ValidationError as error:
            return str(error)
        return True

    return read


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(("15", "10", "2"), id="the-defaults"),
        pytest.param(("11", "10", "2"), id="deadline-just-below-the-duration"),
        pytest.param(("15", "14.9", "2"), id="deadline-hardly-below-the-duration"),
        pytest.param(("15", "10", "8.3"), id="retry-just-often-enough"),
        pytest.param(("137", "107", "26"), id="long-ones"),
        pytest.param(("3600", "3599", "2999"), id="the-longest"),
    ],
)
def test_times_of_the_lease_that_are_safe(terms, seconds):
    assert terms(*seconds) is True


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(("10", "15", "2"), id="deadline-longer-than-the-duration"),
        pytest.param(("15", "15", "2"), id="deadline-equals-the-duration"),
        pytest.param(("15", "2", "10"), id="retry-longer-than-the-deadline"),
        pytest.param(("15", "10", "10"), id="retry-equals-the-deadline"),
        pytest.param(("15", "12", "10"), id="deadline-is-just-1.2-times-the-retry"),
        pytest.param(("15", "10", "9"), id="deadline-is-less-than-1.2-times-the-retry"),
        pytest.param(("5", "5", "5"), id="all-equal"),
        pytest.param(("15", "inf", "2"), id="endless-deadline"),
        pytest.param(("15", "10", "inf"), id="never-renewed"),
    ],
)
def test_times_of_the_lease_that_are_not_safe_are_refused_by_name_and_value(terms, seconds):
    message = terms(*seconds)
    for name, value in zip(("LEASE_DURATION", "LEASE_RENEW_DEADLINE", "LEASE_RETRY_PERIOD"), seconds, strict=True):
        assert f"{name}_SECONDS ({value})" in message


def test_a_single_time_that_does_not_fit_the_defaults_is_refused(monkeypatch):
    monkeypatch.setenv("LEASE_DURATION_SECONDS", "10")
    with pytest.raises(ValidationError, match=r"LEASE_DURATION_SECONDS \(10\) must be longer than"):
        Settings()


def test_a_replica_is_named_after_its_host():
    assert Settings().pod_name == socket.gethostname()


def test_what_else_is_in_the_environment_does_not_matter(monkeypatch):
    monkeypatch.setenv("DATABASE_SERVICE_HOST", "10.0.0.1")
    assert os.environ["PATH"]
    assert Settings() == Settings()


def test_settings_do_not_change():
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.workers = 3
