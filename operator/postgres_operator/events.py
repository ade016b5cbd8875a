"""Kubernetes Events about our resources."""

import logging
from datetime import datetime

from . import names
from .api.common import Resource
from .cluster import Cluster
from .decide.actions import Body, Event
from .decide.conditions import timestamp
from .errors import Forbidden, Invalid, NotFound
from .logs import about

logger = logging.getLogger(__name__)


async def record(cluster: Cluster, resource: Resource, event: Event, now: datetime) -> None:
    """Create the Event; where it is not taken, only the log tells, for the status is what counts."""
    kind, namespace, name = resource.key
    time = timestamp(now)
    body: Body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{name[:200]}.", "namespace": namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "uid": resource.metadata.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1000],
        "source": {"component": names.OPERATOR},
        "reportingComponent": names.OPERATOR,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
    try:
        await cluster.create("Event", body)
    except (Forbidden, Invalid, NotFound) as error:  # a namespace that is being deleted takes no Events
        logger.warning("Event %s was not recorded: %s", event.reason, error, extra=about(resource.key))
