"""Prometheus metrics, served at /metrics beside the probes."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("postgres_operator_reconciles_total", "Keys worked on, by kind and result.", ["kind", "result"])
RECONCILE_SECONDS = Histogram("postgres_operator_reconcile_seconds", "Time that a key took, by kind.", ["kind"])
QUEUE_DEPTH = Gauge("postgres_operator_queue_depth", "Keys that wait for a worker.")
TRANSITIONS = Counter("postgres_operator_transitions_total", "Phases entered, by kind and phase.", ["kind", "phase"])
