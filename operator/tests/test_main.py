import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from postgres_operator import __main__ as main
from postgres_operator.settings import Settings

SOURCES = Path(main.__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in Settings.model_fields:
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)


def start(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The process, which is to end by itself."""
    command = [sys.executable, "-m", "postgres_operator", *arguments]
    # Whatever is not refused finds no cluster.
    env = {**os.environ, "KUBECONFIG": "/nowhere", "PROBE_PORT": "0", **environment}
    env.pop("KUBERNETES_SERVICE_HOST", None)
    return subprocess.run(command, env=env, cwd=SOURCES, capture_output=True, text=True, check=False, timeout=60)


# --- the flag and the environment


@pytest.mark.parametrize("environment", [None, "true", "false", "nonsense"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--leader-elect"], True, id="flag"),
        pytest.param(["--leader-elect=true"], True, id="true"),
        pytest.param(["--leader-elect=1"], True, id="one"),
        pytest.param(["--leader-elect", "true"], True, id="true-as-a-word-of-its-own"),
        pytest.param(["--leader-elect=false"], False, id="false"),
        pytest.param(["--leader-elect=False"], False, id="false-in-capitals"),
        pytest.param(["--leader-elect", "false"], False, id="false-as-a-word-of-its-own"),
        pytest.param(["--leader-elect", "--leader-elect=false"], False, id="the-last-one-counts"),
    ],
)
def test_the_flag_wins_over_the_environment(monkeypatch, environment, arguments, expected):
    if environment is not None:
        monkeypatch.setenv("ENABLE_LEADER_ELECTION", environment)
    assert main._settings(arguments).enable_leader_election is expected


@pytest.mark.parametrize(("environment", "expected"), [(None, True), ("true", True), ("false", False), ("0", False)])
def test_without_the_flag_the_environment_decides(monkeypatch, environment, expected):
    if environment is not None:
        monkeypatch.setenv("ENABLE_LEADER_ELECTION", environment)
    assert main._settings([]).enable_leader_election is expected


def test_the_flag_leaves_the_other_settings_as_they_are(monkeypatch):
    monkeypatch.setenv("WORKERS", "3")
    assert main._settings(["--leader-elect=false"]) == Settings(enable_leader_election=False, workers=3)


@pytest.mark.parametrize("value", ["perhaps", "", "2"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(ValidationError) as caught:
        main._settings([f"--leader-elect={value}"])
    assert [e["loc"] for e in caught.value.errors()] == [("enable_leader_election",)]


# --- the process


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        pytest.param([], {"WORKERS": "many"}, ["workers", "many"], id="setting"),
        pytest.param(
            [],
            {"LEASE_DURATION_SECONDS": "10"},
            ["LEASE_DURATION_SECONDS (10)", "LEASE_RENEW_DEADLINE_SECONDS (10)"],
            id="times-of-the-lease",
        ),
        pytest.param(["--leader-elect=perhaps"], {}, ["enable_leader_election", "perhaps"], id="value-of-the-flag"),
        pytest.param([], {"ENABLE_LEADER_ELECTION": "perhaps"}, ["enable_leader_election", "perhaps"], id="variable"),
        pytest.param(["--leader-elected"], {}, ["unrecognized arguments: --leader-elected"], id="unknown-flag"),
        pytest.param(["--metrics-bind-address=:8080"], {}, ["--metrics-bind-address"], id="flag-of-another-operator"),
        pytest.param(["run"], {}, ["unrecognized arguments: run"], id="a-word"),
    ],
)
def test_what_is_wrong_ends_it_with_code_2_and_a_message(arguments, environment, words):
    done = start(*arguments, **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
