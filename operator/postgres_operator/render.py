"""Job templates: values in, a checked Job out.

Templates say what runs. Who owns the Job, what it is called and what its pods may do is set here, after rendering,
so that no template, ours or a user's own, can get it wrong.
"""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from . import names
from .api.common import Resource
from .decide.actions import Body, CreateJob
from .errors import TemplateInvalid

_FORBIDDEN = (
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "shareProcessNamespace",  # each container would see the credentials of the others
    "serviceAccountName",
    "serviceAccount",
    "nodeName",
)
_BEYOND_ASCII = re.compile(r"[^ -~]")
_MAX_BYTES = 256 * 1024
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}
_SIDECAR = {"restartPolicy": "Always"}


class Renderer:
    """Renders the templates of one directory; Unix identity and read-only rules are the same for every Job."""

    def __init__(self, directory: Path, uid: int, gid: int) -> None:
        self._loader = FileSystemLoader(directory)
        self._identity = {"runAsUser": uid, "runAsGroup": gid, "fsGroup": gid}
        self._environment = ImmutableSandboxedEnvironment(
            loader=self._loader,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,  # an override is mounted before the start; a half-written one is never picked up
        )
        self._environment.globals["script"] = cache(self._script)
        self._environment.filters["tojson"] = _yaml_scalar

    def _script(self, name: str) -> str:
        source: str = self._loader.get_source(self._environment, name)[0]
        return source

    def job(self, owner: Resource, action: CreateJob) -> Body:
        """The Job to create for this owner.

        Raises:
            TemplateInvalid: The template does not render, or not to a Job that we may create.
        """
        body: Any
        try:
            text = self._environment.get_template(action.template).render(action.values)
            body = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader
        except Exception as error:
            raise TemplateInvalid(f"Template {action.template}: {type(error).__name__}: {error}") from error
        job = _check(action.template, body)
        self._own(owner, action, job)
        pod = job["spec"]["template"]["spec"]
        self._secure(pod)
        # What no run of ours may lack: an end, and no second pod beside one that still runs. The kubelet ends a pod
        # that hangs and keeps it, with its log; the Job's own deadline would delete it, and is for a node that is lost.
        deadline = action.values["active_deadline_seconds"]
        pod["activeDeadlineSeconds"] = deadline
        job["spec"] |= {"podReplacementPolicy": "Failed", "activeDeadlineSeconds": deadline + action.start_seconds}
        if action.service_account:
            pod["serviceAccountName"] = action.service_account
        if action.claim and not action.claim.shared:
            pod["affinity"] = _beside(action.claim.name)
        return job

    def _own(self, owner: Resource, action: CreateJob, body: Body) -> None:
        kind, meta = type(owner).__name__, owner.metadata
        labels = {
            names.MANAGED_BY: names.OPERATOR,
            names.LABEL_KIND: kind.lower(),
            names.LABEL_UID: meta.uid,
            **action.labels,
        }
        if action.claim:
            labels[names.LABEL_CLAIM] = names.short_hash(action.claim.name)
        body["metadata"] = {
            "name": action.name,
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": dict(action.annotations),
            "ownerReferences": [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": kind,
                    "name": meta.name,
                    "uid": meta.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        }
        body["spec"]["template"]["metadata"] = {"labels": labels}

    def _secure(self, pod: Body) -> None:
        pod["automountServiceAccountToken"] = False
        pod["enableServiceLinks"] = False
        pod["securityContext"] = {
            **self._identity,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
            container["securityContext"] = deepcopy(_CONTAINER_SECURITY)


def _check(template: str, body: Any) -> Body:
    match body:
        case {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {"template": {"spec": {"containers": [{}, *_] as containers} as pod}} as spec,
        } if all(isinstance(c, dict) for c in [*containers, *(pod.get("initContainers") or [])]):
            pass
        case _:
            raise TemplateInvalid(f"Template {template} does not render to a batch/v1 Job with a container.")
    if used := [field for field in _FORBIDDEN if field in pod]:
        raise TemplateInvalid(f"Template {template} sets {', '.join(used)}, which a Job of ours must not have.")
    # One pod, once: whatever runs a second time must be a new Backup or Restore.
    if spec.get("backoffLimit") != 0 or pod.get("restartPolicy") != "Never":
        raise TemplateInvalid(f"Template {template} must set backoffLimit: 0 and restartPolicy: Never.")
    # A sidecar does not count: it ends with the containers that it serves.
    inits = pod.get("initContainers") or []
    if any(map(_restarts, containers)) or any(_restarts(c) not in ({}, _SIDECAR) for c in inits):
        raise TemplateInvalid(f"Template {template} may let no container start again but a sidecar (initContainers).")
    if any(spec.get(field, 1) != 1 for field in ("completions", "parallelism")):
        raise TemplateInvalid(f"Template {template} must not ask for more than one pod.")
    try:
        size = len(json.dumps(body))
    except (TypeError, ValueError) as error:
        raise TemplateInvalid(f"Template {template} renders to what JSON cannot say: {error}") from error
    if size > _MAX_BYTES:
        raise TemplateInvalid(f"Template {template} renders to {size} bytes; at most {_MAX_BYTES} are accepted.")
    return {**body}


def _restarts(container: Body) -> Body:
    return {key: value for key, value in container.items() if key in ("restartPolicy", "restartPolicyRules")}


def _yaml_scalar(value: Any) -> Markup:
    """JSON that is YAML too, in ASCII; characters beyond U+FFFF as YAML has them, not as surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False, default=_undefined)
    return Markup(_BEYOND_ASCII.sub(_escape, text))  # noqa: S704 - not HTML


def _undefined(value: Any) -> str:
    return str(value)  # an undefined variable raises here, and says its name


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _beside(claim: str) -> Mapping[str, Any]:
    """Affinity to the node where other Jobs use the claim: a ReadWriteOnce volume is attached to one node only."""
    term = {
        "labelSelector": {"matchLabels": {names.LABEL_CLAIM: names.short_hash(claim)}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
