import pytest
from support import NOW, ago, backup, restore

from postgres_operator.api.backup import Backup
from postgres_operator.api.restore import Restore
from postgres_operator.decide.actions import Nothing, SetStatus
from postgres_operator.decide.jobs import Problem
from postgres_operator.decide.refusals import may_pass

RUNS = {"type": "Complete", "status": "False", "reason": "Running", "message": "m", "lastTransitionTime": ago(30)}
FULL = Problem("QuotaExceeded", "POST …: 403 exceeded quota: q")
INTENT = {"reason": "StartDeadlineExceeded", "message": "No pod ran."}


def run(kind, **status):
    make, model = (backup, Backup) if kind == "Backup" else (restore, Restore)
    return model.model_validate(make(status=status))


@pytest.mark.parametrize("kind", ["Backup", "Restore"])
@pytest.mark.parametrize("error", [None, INTENT], ids=["runs", "is-being-stopped"])
def test_a_run_in_progress_says_what_was_refused_and_goes_on(kind, error):
    """Rule 9: it blocks others meanwhile, and people have to see why."""
    before = {"phase": "InProgress", "jobRef": {"name": "j"}, "startTime": ago(50), "conditions": [RUNS]}
    if error:
        before["error"] = error
    action = may_pass(run(kind, **before), NOW, FULL)
    assert isinstance(action, SetStatus)
    (condition,) = action.status["conditions"]
    assert (condition["type"], condition["status"]) == ("Complete", "False")
    assert (condition["reason"], condition["message"]) == ("QuotaExceeded", FULL.message)
    assert {**action.status, "conditions": [RUNS]} == before, "and nothing else changes"
    assert action.after == 20
    assert may_pass(run(kind, **action.status), NOW, FULL) == Nothing(20)


@pytest.mark.parametrize("kind", ["Backup", "Restore"])
def test_a_run_without_a_job_waits(kind):
    action = may_pass(run(kind), NOW, FULL)
    assert (action.status["phase"], action.after) == ("Pending", 20)
    assert action.status["conditions"][0]["reason"] == "QuotaExceeded"
