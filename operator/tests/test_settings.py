import os
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
        ("PROBE_PORT", "0", 0),
        ("RESYNC_SECONDS", "0.5", 0.5),
        ("JOB_UID", "1001", 1001),
        ("JOB_GID", "1002", 1002),
        ("JOB_TEMPLATES_DIR", "/etc/templates", Path("/etc/templates")),
        ("BACKUP_TTL_SECONDS_AFTER_FINISHED", "3600", 3600),
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
        ("DEFAULT_STORE_ACCESS_MODE", "ReadOnlyMany"),
    ],
)
def test_what_is_wrong_is_refused_and_named(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [e["loc"] for e in caught.value.errors()] == [(variable.lower(),)]


def test_what_else_is_in_the_environment_does_not_matter(monkeypatch):
    monkeypatch.setenv("DATABASE_SERVICE_HOST", "10.0.0.1")
    assert os.environ["PATH"]
    assert Settings() == Settings()


def test_settings_do_not_change():
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.workers = 3
