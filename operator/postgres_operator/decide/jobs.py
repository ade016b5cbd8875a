"""A Job, its pods and its Events -> what became of it.

Only terminal Job conditions count: `Complete` and `Failed`. Their forerunners (`SuccessCriteriaMet`, `FailureTarget`)
are set while pods may still run.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from postgres_operator import names

from .actions import Ask, Body, Fact

# When to look at a Job that does not run yet, in seconds of its age; the start deadline is added.
LOOK_AT = (10, 25, 50)

# Seconds after which a pod that does not end is worth a word.
_REPORTED_WITHIN = 60.0

_REASON = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_OUT_OF_MEMORY = "was killed for using more memory than its limit: raise spec.resources.limits.memory"


@dataclass(frozen=True, slots=True)
class Job:
    """What decisions need of a Job."""

    name: str
    uid: str
    owner_uid: str
    created: datetime
    location: str = ""  # URL of the artifact that it writes or reads
    path: str = ""  # the same, inside its store
    verifies: str = ""  # hash of the external server or the store that it looks at
    deleting: bool = False
    complete: bool = False
    failed: tuple[str, str] | None = None  # reason and message of the condition
    active: int = 0
    ready: int = 0
    ending: bool = False  # a pod of it has ended, but the Job has no terminal condition yet
    terminating: bool = False  # a pod of it is being deleted; one that ends by itself is not
    resource_version: str = ""
    failed_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether no pod of it runs or will run."""
        return self.complete or self.failed is not None


def read_job(body: Body | None) -> Job | None:
    """The Job of an API object."""
    if body is None:
        return None
    meta, status = body["metadata"], body.get("status", {})
    annotations = meta.get("annotations", {})
    location = annotations.get(names.ANNOTATION_LOCATION, "")
    conditions = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
    failed = conditions.get("Failed")
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        owner_uid=next((r["uid"] for r in meta.get("ownerReferences", []) if r.get("controller")), ""),
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        location=location,
        # a Job that began before there were buckets does not say it
        path=annotations.get(names.ANNOTATION_PATH) or names.path_in(names.volume(names.volume_of(location)), location),
        verifies=annotations.get(names.ANNOTATION_VERIFIES, ""),
        deleting="deletionTimestamp" in meta,
        complete="Complete" in conditions,
        failed=(failed.get("reason", ""), failed.get("message", "")) if failed else None,
        active=status.get("active", 0),
        ready=status.get("ready", 0),
        ending=bool(
            conditions.keys() & {"SuccessCriteriaMet", "FailureTarget"}
            or any(status.get(counter) for counter in ("succeeded", "failed", "terminating"))
            or any(status.get("uncountedTerminatedPods", {}).values())
        ),
        terminating=status.get("terminating", 0) > 0,
        resource_version=meta.get("resourceVersion", ""),
        failed_at=datetime.fromisoformat(since) if (since := (failed or {}).get("lastTransitionTime")) else None,
    )


def ended(body: Body) -> bool:
    """Whether an API object is a Job of which no pod runs or will run."""
    conditions = body.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something failed: a stable reason, and what people read."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a script wrote into its termination message: a result or a problem."""

    result: dict[str, Any] | None = None
    problem: Problem | None = None


def read_report(text: str) -> Report | None:
    """A termination message; None when it is not one of ours."""
    try:
        match json.loads(text):
            case {"result": dict(result)}:
                return Report(result=result)
            case {"error": {"reason": str(reason), "message": str(message)}} if _REASON.fullmatch(reason):
                return Report(problem=Problem(reason, message))
    except ValueError:
        pass
    return None


def reported(pods: Sequence[Body]) -> Report | None:
    """The first report of a pod that did not end well: a problem, or a result that it was past already."""
    states = [c.get("state", {}) for p in pods for c in _steps(p)]
    reports = [read_report(state.get("terminated", {}).get("message", "")) for state in states]
    return next((report for report in reports if report), None)


def wrong_fields(error: ValidationError) -> str:
    """What is wrong with a report, without quoting it."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def _containers(pod: Body) -> list[Body]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _steps(pod: Body) -> list[Body]:
    """The containers that do the work, without sidecars: those run from the beginning, and end by a signal."""
    return [c for c in _containers(pod) if c["name"] not in _sidecars(pod)]


def _sidecars(pod: Body) -> set[str]:
    inits = pod.get("spec", {}).get("initContainers", [])
    return {c["name"] for c in inits if c.get("restartPolicy") == "Always"}


def running(pods: Sequence[Body]) -> list[str]:
    """Names of pods that run or may still start."""
    return [p["metadata"]["name"] for p in pods if p.get("status", {}).get("phase") not in ("Succeeded", "Failed")]


def result(pods: Sequence[Body]) -> dict[str, Any] | None:
    """The result that a succeeded pod reported; None when there is none to be read."""
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Succeeded":
            last = (_steps(pod) or [{}])[-1].get("state", {}).get("terminated", {})
            report = read_report(last.get("message", ""))
            if report and report.result is not None:
                return report.result
    return None


def failure(job: Job, pods: Sequence[Body], default_reason: str) -> Problem:
    """Why a failed Job failed: what the script said, else how its container ended, else what the Job says."""
    reason, message = job.failed or ("", "")
    late = [p["metadata"] for p in pods if p.get("status", {}).get("reason") == "DeadlineExceeded"]
    if reason == "DeadlineExceeded" or late:
        log = f" Its log: kubectl logs -n {late[0]['namespace']} job/{job.name} --all-containers" if late else ""
        return Problem("DeadlineExceeded", f"Job {job.name} did not end within its deadline and was ended.{log}")
    evicted = next((p["status"] for p in pods if _REASON.fullmatch(p.get("status", {}).get("reason", ""))), None)
    for pod in pods:
        for container in _steps(pod):
            ended = container.get("state", {}).get("terminated")
            if not ended or ended.get("exitCode") == 0:
                continue
            report = read_report(ended.get("message", ""))
            if report and report.problem:
                return replace(report.problem, message=report.problem.message + _starved(pod))
            if not evicted:  # whose containers all end by a signal
                return Problem(default_reason, _ending(job, pod, container["name"], ended) + _starved(pod))
    if evicted:
        return Problem(evicted["reason"], f"The pod of Job {job.name} was ended: {evicted.get('message', '')}".strip())
    return Problem(
        reason or default_reason,
        f"Job {job.name} failed and its pod was gone before it reported why. {message}".strip(),
    )


def _starved(pod: Body) -> str:
    """What a script cannot know: why its sidecar went away."""
    for container in _containers(pod):
        ends = (container.get(state, {}).get("terminated", {}) for state in ("state", "lastState"))
        if container["name"] in _sidecars(pod) and any(end.get("reason") == "OOMKilled" for end in ends):
            return f" Container {container['name']} {_OUT_OF_MEMORY}."
    return ""


def _ending(job: Job, pod: Body, container: str, ended: Body) -> str:
    code, why = ended.get("exitCode", -1), ended.get("reason", "")
    if why == "OOMKilled":
        how = _OUT_OF_MEMORY
    elif why == "StartError":
        how = f"could not be started: {ended.get('message', '')}"
    elif code > 128:
        how = f"was killed by signal {code - 128}"
    else:
        how = f"ended with exit code {code}"
    where = f"kubectl logs -n {pod['metadata']['namespace']} job/{job.name} -c {container}"
    return f"Container {container} {how} without a report. Its log: {where}"


_POD_OF = "The pod of Job"

# The API server was away, or its etcd: nobody has refused anything, the pod may even be there.
_UNANSWERED = re.compile(r'Error creating: (Post|Put) "|reading response body|etcdserver: |context deadline exceeded')


def refusal(job: Job, events: Sequence[Body]) -> Problem | None:
    """Why the API server refuses the Job's pods, from the Job's FailedCreate Events."""
    for event in events:
        if event.get("reason") != "FailedCreate":
            continue
        message = event.get("message", "")
        if _UNANSWERED.search(message):
            continue
        if "violates PodSecurity" in message:
            return Problem("PodSecurityRejected", f"{_POD_OF} {job.name} was refused: {message}")
        if "exceeded quota" in message:
            return Problem("QuotaExceeded", f"{_POD_OF} {job.name} was refused: {message}")
        return Problem("PodRefused", f"{_POD_OF} {job.name} was refused: {message}")
    return None


def about_pod(message: str) -> bool:
    """Whether it was a Job's pod that was refused: the reason may be the same when a Job is."""
    return message.startswith(_POD_OF)


def started(pods: Sequence[Body]) -> bool:
    """Whether any container of the pods has ever run, a sidecar aside."""
    states = [c.get("state", {}) for p in pods for c in _steps(p)]
    return any("running" in s or "terminated" in s for s in states)


def obstacle(pods: Sequence[Body]) -> Problem | None:
    """What keeps pods from running, as far as the kubelet and the scheduler say."""
    for pod in pods:
        name = pod["metadata"]["name"]
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting", {})
            why, message = waiting.get("reason", ""), waiting.get("message", "")
            if why == "CreateContainerConfigError":
                if message.startswith("secret ") or " in Secret " in message:
                    todo = "Put the Secret, or that key, there."
                    return Problem("CredentialsLost", f"Pod {name} cannot start: {message}. {todo}")
                return Problem("ContainerConfigInvalid", f"Pod {name} cannot start: {message}")
            if why in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
                return Problem("ImagePullFailed", f"Pod {name} cannot get its image: {message}")
            if why == "CrashLoopBackOff":
                return Problem("CrashLoop", f"Pod {name} keeps failing: {message}")
        for condition in pod.get("status", {}).get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return Problem("Unschedulable", f"Pod {name} cannot be placed: {condition.get('message', '')}")
    return None


def overdue(pods: Sequence[Body], now: datetime) -> Problem | float | None:
    """The first pod that should have gone long ago, or in how many seconds that will be; None where none has to go."""
    for pod in pods:
        meta = pod["metadata"]
        if "deletionTimestamp" not in meta:
            continue
        # It is when the pod's grace period ends, so what is left is the kubelet's reporting it.
        left = _REPORTED_WITHIN - (now - datetime.fromisoformat(meta["deletionTimestamp"])).total_seconds()
        if left > 0:
            return left
        name, node = meta["name"], pod["spec"].get("nodeName", "")
        message = (
            f'Pod "{name}" on node "{node}" is to end and does not: is the node lost? '
            f"If nothing can run there any more: kubectl delete pod {name} -n {meta['namespace']} --force"
        )
        return Problem("PodTerminating", message)
    return None


def lasting(problem: Problem | None) -> bool:
    """Whether an obstacle does not go away by itself."""
    return problem is not None and problem.reason in ("CredentialsLost", "ContainerConfigInvalid")


def trouble(
    job: Job, age: float, pods: Sequence[Body] | None, refusals: Sequence[Body] | None, *, patient: bool = False
) -> Problem | Ask | None:
    """What keeps a Job of that age in seconds from running, as far as the cluster says.

    With patience, a node that is short of something for a moment is no trouble.
    """
    if job.ready > 0 or job.ending or job.deleting or age < LOOK_AT[0]:
        return None
    if not job.active:
        return Ask(Fact.REFUSALS) if refusals is None else refusal(job, refusals)
    if pods is None:
        return Ask(Fact.PODS)
    problem = obstacle(pods)
    return None if patient and not lasting(problem) and age < LOOK_AT[-1] else problem


def next_look(age: float, marks: Sequence[float]) -> float | None:
    """Seconds until the next mark, or None when all have passed."""
    return next((mark - age + 0.5 for mark in sorted(marks) if mark > age), None)
