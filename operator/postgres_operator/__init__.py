"""A Job-dispatching Kubernetes operator for PostgreSQL backup and restore."""
