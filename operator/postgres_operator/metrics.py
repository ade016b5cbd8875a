"""Prometheus metrics, served at /metrics beside the probes."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("postgres_operator_reconciles_total", "Keys worked on, by kind and result.", ["kind", "result"])
RECONCILE_SECONDS = Histogram("postgres_operator_reconcile_seconds", "Time that a key took, by kind.", ["kind"])
QUEUE_DEPTH = Gauge("postgres_operator_queue_depth", "Keys that wait for a worker.")
RUNS_WAITING = Gauge("postgres_operator_runs_waiting", "Backups and Restores that wait for a slot.")
TRANSITIONS = Counter("postgres_operator_transitions_total", "Phases entered, by kind and phase.", ["kind", "phase"])

# Without labels, so that they are there from the start: a replica that never led says 0.
IS_LEADER = Gauge("postgres_operator_is_leader", "1 while this replica leads.")
ELECTIONS = Counter("postgres_operator_leader_elections_total", "Elections that this replica won.")
ELECTED_AT = Gauge(
    "postgres_operator_leader_election_timestamp_seconds", "When this replica won its last election; 0 if never."
)

API_REQUESTS = Counter(
    "postgres_operator_api_requests_total",
    'The operator\'s own requests to the API server, by verb and HTTP status, or "error" where there was no answer.',
    ["verb", "code"],
)
# The kind is that of the Job's owner, in lower case.
JOBS_CREATED = Counter("postgres_operator_jobs_created_total", "Jobs created, by kind.", ["kind"])
JOBS_FINISHED = Counter(
    "postgres_operator_jobs_finished_total", "Jobs that ended, by kind and result.", ["kind", "result"]
)
