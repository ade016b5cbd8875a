"""The models as CustomResourceDefinitions: `python -m postgres_operator.api.crd [--check] config/crd`."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from postgres_operator.names import GROUP, VERSION

from .backup import Backup
from .cel import VALIDATIONS, Rule
from .common import Resource
from .database import Database
from .restore import Restore
from .schedule import ScheduledBackup
from .store import BackupStore

Schema = dict[str, Any]

_HEADER = "# Generated from the models in operator/postgres_operator/api; do not edit, run `just manifests`.\n"
_INT32_MAX = 2**31 - 1

# What a structural schema may hold, in the order in which people read it. Everything else is left out:
# `title` says nothing, and the API server refuses what it does not know (`propertyNames`).
_KEPT = (
    "description", "type", "format", "anyOf", "x-kubernetes-int-or-string", "enum", "default",
    "minimum", "maximum", "minLength", "maxLength", "pattern",
    "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "items",
    "maxProperties", "additionalProperties", "required", "properties", VALIDATIONS,
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; `wide` shows it with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True)
class Kind:
    """One custom resource: its model, its names and what `kubectl get` shows."""

    model: type[Resource]
    plural: str
    short: str
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        """The kind, as in YAML."""
        return self.model.__name__


_PHASE = Column("Phase", ".status.phase")
_REASON = Column("Reason", '.status.conditions[?(@.type=="Complete")].reason')
_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_DATABASE = Column("Database", ".spec.databaseRef.name")
_RUN_DETAILS = (
    Column("Job", ".status.jobRef.name", wide=True),
    Column("Started", ".status.startTime", "date", wide=True),
    Column("Completed", ".status.completionTime", "date", wide=True),
)

KINDS = (
    Kind(Database, "databases", "db", (
        _PHASE,
        Column("Ready", ".status.ready", "boolean"),
        Column("Endpoint", ".status.endpoint"),
        Column("Version", ".status.serverVersion", wide=True),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', wide=True),
        _AGE,
    )),
    Kind(Backup, "backups", "pgb", (
        _PHASE,
        _DATABASE,
        Column("Size", ".status.sizeBytes", "integer"),
        _REASON,
        Column("Verified", '.status.conditions[?(@.type=="Verified")].status', wide=True),
        Column("Location", ".status.backupLocation", wide=True),
        *_RUN_DETAILS,
        _AGE,
    )),
    Kind(Restore, "restores", "pgr", (
        _PHASE,
        _DATABASE,
        Column("Backup", ".spec.backupRef.name"),
        Column("Mode", ".spec.mode"),
        _REASON,
        Column("Location", ".spec.location", wide=True),
        *_RUN_DETAILS,
        _AGE,
    )),
    Kind(BackupStore, "backupstores", "pgstore", (
        Column("Claim", ".spec.pvc.claimName"),
        Column("Bucket", ".spec.s3.bucket"),
        Column("Backups", ".status.backupCount", "integer"),
        Column("Prefix", ".spec.s3.prefix", wide=True),
        Column("Endpoint", ".spec.s3.endpoint", wide=True),
        _AGE,
    )),
    Kind(ScheduledBackup, "scheduledbackups", "pgsched", (
        Column("Schedule", ".spec.schedule"),
        Column("Suspend", ".spec.suspend", "boolean"),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        Column("Last Schedule", ".status.lastScheduleTime", "date"),
        Column("Next", ".status.nextScheduleTime"),  # as a date, what is to come would read "<invalid>"
        Column("Database", ".spec.template.spec.databaseRef.name", wide=True),
        Column("Time Zone", ".spec.timeZone", wide=True),
        Column("Last Success", ".status.lastSuccessfulTime", "date", wide=True),
        _AGE,
    )),
)  # fmt: skip


def structural(node: Schema, definitions: Schema) -> Schema:
    """A JSON schema of pydantic's as the structural schema that Kubernetes wants.

    References are inlined, `X | None` is just X that may be absent, and a dictionary with a fixed set of keys
    is an object with these properties. What stands beside a reference wins, but rules add up.
    """
    node = _resolve(node, definitions)
    default = _stored(node.pop("default", None))
    if default is not None:
        node["default"] = default
    _bound_keys(node)
    if node.get("x-kubernetes-int-or-string"):
        del node["type"]
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if node.get("type") == "integer":
        node["format"] = "int32" if node.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if "properties" in node:
        node["properties"] = {k: structural(v, definitions) for k, v in node["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), dict):
            node[inner] = structural(node[inner], definitions)
    if VALIDATIONS in node:
        # pydantic sorts the keys; people read the rule first
        node[VALIDATIONS] = [{k: rule[k] for k in Rule.KEYS if k in rule} for rule in node[VALIDATIONS]]
    return {key: node[key] for key in _KEPT if key in node}


def _resolve(node: Schema, definitions: Schema) -> Schema:
    """The node without references and without `| null`."""
    node = dict(node)
    options = [option for option in node.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) > 1:
        raise ValueError(f"a structural schema has no place for a union: {options}")
    reference = node.pop("$ref", None)
    bases = [*options, definitions[reference.rpartition("/")[2]]] if reference else options
    for base in bases:
        found = _resolve(base, definitions)
        rules = [*found.get(VALIDATIONS, []), *node.get(VALIDATIONS, [])]
        node = {**found, **node, **({VALIDATIONS: rules} if rules else {})}
    return node


def _stored(default: Any) -> Any:
    """What of a default is worth storing in each object; None for nothing.

    An absent list or map means the same as an empty one.
    """
    if isinstance(default, dict):
        kept = {key: _stored(value) for key, value in default.items()}
        return {key: value for key, value in kept.items() if value is not None} or None
    return None if default == [] else default


def _bound_keys(node: Schema) -> None:
    """Say in Kubernetes' words what pydantic says of a map's keys with `propertyNames`."""
    keys = node.pop("propertyNames", {})
    if "enum" in keys:
        node["properties"] = dict.fromkeys(keys["enum"], node.pop("additionalProperties"))
        node.pop("maxProperties", None)
    elif "maxLength" in keys:
        limit = keys["maxLength"]
        rule = Rule(f"self.all(key, size(key) <= {limit})", f"write keys of at most {limit} characters")
        node[VALIDATIONS] = [*node.get(VALIDATIONS, []), rule.schema()]


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    generated = kind.model.model_json_schema(by_alias=True)
    schema = structural(generated, generated.get("$defs", {}))
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        **schema["properties"],
        "metadata": {"type": "object"},  # the API server's own business
    }
    schema["properties"]["status"].pop("default", None)
    schema["required"] = [name for name in schema.get("required", []) if name != "metadata"]
    if not schema["required"]:
        del schema["required"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["postgres"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_printed(column) for column in kind.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _printed(column: Column) -> dict[str, Any]:
    # kubectl shows columns of priority 0; -o wide shows all
    priority = {"priority": 1} if column.wide else {}
    return {"name": column.name, "type": column.type, "jsonPath": column.path, **priority}


def files() -> dict[str, str]:
    """File name and content of every CRD."""
    return {
        f"{kind.plural}.yaml": _HEADER
        + yaml.dump(definition(kind), Dumper=_PlainDumper, sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }


class _PlainDumper(yaml.SafeDumper):
    """Spells out repeated parts: an alias (`*id001`) is hard to read and to compare."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the signature is PyYAML's
        return True


def stale(directory: Path) -> list[str]:
    """Names of the files in `directory` that differ from what the models say, or belong to no model."""
    wanted = files()
    found = {path.name: path.read_text() for path in directory.glob("*.yaml") if path.name != "kustomization.yaml"}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the files, or with `--check` only compare them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m postgres_operator.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args(None if arguments is None else list(arguments))
    directory: Path = options.directory
    if options.check:
        differing = stale(directory)
        for name in differing:
            print(f"{directory / name} is not what the models say: run `just manifests`", file=sys.stderr)
        return 1 if differing else 0
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (directory / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
