import pytest

from postgres_operator.cluster import _error
from postgres_operator.errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, NotFound


@pytest.mark.parametrize(
    ("status", "reason", "message", "expected"),
    [
        pytest.param(403, "Forbidden", 'jobs is forbidden: User "x" cannot create', Forbidden, id="rights"),
        pytest.param(404, "NotFound", "not found", NotFound, id="gone"),
        pytest.param(409, "Conflict", "the object has been modified", Conflict, id="changed"),
        pytest.param(409, "AlreadyExists", "already exists", AlreadyExists, id="there"),
        pytest.param(422, "Invalid", 'Job.batch "x" is invalid: spec: Required value', Invalid, id="invalid"),
        pytest.param(400, "BadRequest", "strict decoding error: unknown field", Invalid, id="unknown-field"),
        pytest.param(500, "InternalError", "failed calling webhook", ApiError, id="webhook-away"),
        pytest.param(
            422,
            "Invalid",
            "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no jobs",
            Forbidden,
            id="denied-by-a-policy",
        ),
        pytest.param(400, "", 'admission webhook "w.example.com" denied the request: no', Forbidden, id="by-a-webhook"),
    ],
)
def test_what_an_error_stands_for(status, reason, message, expected):
    error = _error("POST", "/path", status, {"reason": reason, "message": message})
    assert type(error) is expected
    assert (error.status, error.reason) == (status, reason)
    assert message in str(error)
