import pytest

from postgres_operator.cluster import Cluster, _error
from postgres_operator.errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, NotFound
from postgres_operator.watch import settings


@pytest.mark.parametrize(
    ("status", "reason", "message", "expected"),
    [
        pytest.param(403, "Forbidden", 'jobs is forbidden: User "x" cannot create', Forbidden, id="rights"),
        pytest.param(404, "NotFound", "not found", NotFound, id="gone"),
        pytest.param(409, "Conflict", "the object has been modified", Conflict, id="changed"),
        pytest.param(409, "AlreadyExists", "already exists", AlreadyExists, id="there"),
        pytest.param(422, "Invalid", 'Job.batch "x" is invalid: spec: Required value', Invalid, id="invalid"),
        pytest.param(400, "BadRequest", "strict decoding error: unknown field", Invalid, id="unknown-field"),
        pytest.param(500, "InternalError", "Internal error occurred: etcdserver: no leader", ApiError, id="etcd-away"),
        pytest.param(
            500,
            "InternalError",
            'Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: Post "https://w"',
            Forbidden,
            id="webhook-away",
        ),
        pytest.param(
            422,
            "Invalid",
            "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no jobs",
            Forbidden,
            id="denied-by-a-policy",
        ),
        *(
            pytest.param(
                status, reason, 'admission webhook "w.example.com" denied the request: no', Forbidden, id=f"by-{status}"
            )
            for status, reason in [
                (400, ""),
                (404, "NotFound"),
                (409, "Conflict"),
                (409, "AlreadyExists"),
                (422, "Invalid"),
                (500, "InternalError"),
            ]
        ),
    ],
)
def test_what_an_error_stands_for(status, reason, message, expected):
    error = _error("POST", "/path", status, {"reason": reason, "message": message})
    assert type(error) is expected
    assert (error.status, error.reason) == (status, reason)
    assert message in str(error)


class Paged(Cluster):
    """Answers each list with one object, and says for once that there are more."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def _request(self, _, path, **__):
        self.asked.append(path)
        return {"items": [{"page": len(self.asked)}], "metadata": {"continue": "more"} if len(self.asked) == 1 else {}}


@pytest.mark.parametrize(("metadata_only", "limit"), [(False, 100), (True, 500)])
async def test_few_whole_objects_are_in_memory_while_they_are_listed(metadata_only, limit):
    """A Job is large for the scripts in it, and all of them are listed when a replica starts."""
    cluster = Paged()
    listed = [body async for body in cluster.list_all("Job", "", "a=b", metadata_only=metadata_only)]
    assert listed == [{"page": 1}, {"page": 2}]
    first = f"/apis/batch/v1/jobs?limit={limit}&labelSelector=a%3Db"
    assert cluster.asked == [first, f"{first}&continue=more"]


def test_the_watches_list_as_few():
    assert settings().watching.chunk_size == 100
