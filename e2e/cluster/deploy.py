"""Rolls the operator out from config/, with the image that was just built."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import yaml

from e2e.cluster import Cluster, kubectl_command, operator_image
from e2e.cluster.configs import SYSTEM
from e2e.cluster.paths import ROOT
from e2e.cluster.progress import say, step

DEPLOYMENT = "postgres-operator-controller-manager"
_CONTENT = "image-content"  # annotation of the pods: a changed image is a changed template
_SECONDS = 180


def deploy(cluster: Cluster) -> None:
    """Build and load the image, or take the one named in IMAGE; apply config/default; wait."""
    kubectl = kubectl_command(cluster.kubeconfig())
    name = os.environ.get("IMAGE", operator_image.NAME)
    content = name
    if "IMAGE" not in os.environ:
        archive = operator_image.archive()
        content = operator_image.image_id(archive)
        if _deployed(kubectl) != content:
            with step(f"loading {name}"):
                cluster.load(archive)
    manifests = list(yaml.safe_load_all(_run([*kubectl, "kustomize", str(ROOT / "config" / "default")])))
    _use_image(manifests, name, content)
    say(_run([*kubectl, "apply", "-f", "-"], yaml.safe_dump_all(manifests)).strip())
    where = ["-n", SYSTEM]
    with step(f"rolling out {DEPLOYMENT}"):
        try:
            _run([*kubectl, *where, "rollout", "status", f"deployment/{DEPLOYMENT}", f"--timeout={_SECONDS}s"])
        except RuntimeError as error:
            facts = [
                _run([*kubectl, *where, *what], check=False)
                for what in (("describe", "pods"), ("logs", f"deployment/{DEPLOYMENT}", "--tail=50"))
            ]
            raise RuntimeError("\n".join([str(error), *facts])) from error


def _deployed(kubectl: list[str]) -> str:
    path = f"jsonpath={{.spec.template.metadata.annotations.{_CONTENT}}}"
    what = ["deployment", DEPLOYMENT, "-n", SYSTEM, "--ignore-not-found", "-o", path]
    return _run([*kubectl, "get", *what])


def _use_image(manifests: list[dict[str, Any]], name: str, content: str) -> None:
    for manifest in manifests:
        if manifest["kind"] == "Deployment" and manifest["metadata"]["name"] == DEPLOYMENT:
            template = manifest["spec"]["template"]
            template["metadata"].setdefault("annotations", {})[_CONTENT] = content
            template["spec"]["containers"][0]["image"] = name
            return
    raise RuntimeError(f"config/default has no Deployment {DEPLOYMENT}")


def _run(command: list[str], stdin: str = "", *, check: bool = True) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout + ("" if check else done.stderr)
