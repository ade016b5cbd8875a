from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from postgres_operator.api import crd
from postgres_operator.api.cel import Rule
from postgres_operator.api.common import ApiModel, Reference
from postgres_operator.names import GROUP

KINDS = pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.name)
SCALARS = {"integer", "boolean"}


def version(kind: crd.Kind) -> dict[str, Any]:
    found: dict[str, Any] = crd.definition(kind)["spec"]["versions"][0]
    return found


def schema(kind: crd.Kind) -> dict[str, Any]:
    found: dict[str, Any] = version(kind)["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below spec and status, with its path."""
    if path.count(".") > 1 or path in (".spec", ".status"):
        yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in node:
            yield from nodes(node[name], f"{path}.{name}")


# ---- the committed files


def test_the_committed_files_are_what_the_models_say(config: Path) -> None:
    assert crd.stale(config / "crd") == [], "run `just manifests`"


def test_the_kustomization_lists_every_file(config: Path) -> None:
    kustomization = yaml.safe_load((config / "crd/kustomization.yaml").read_text())
    assert kustomization["resources"] == sorted(crd.files())


def test_check_fails_on_a_changed_a_missing_and_a_superfluous_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crd.main([str(tmp_path / "new")]) == 0
    directory = tmp_path / "new"
    assert crd.main(["--check", str(directory)]) == 0

    (directory / "backups.yaml").write_text("changed")
    (directory / "restores.yaml").unlink()
    (directory / "clusters.yaml").write_text("of no model")

    assert crd.main(["--check", str(directory)]) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert [Path(line.split()[0]).name for line in complaints] == [
        "backups.yaml",
        "clusters.yaml",
        "restores.yaml",
    ]
    assert (directory / "backups.yaml").read_text() == "changed", "--check writes nothing"


# ---- names and columns


@pytest.mark.parametrize(
    ("plural", "kind", "short"),
    [
        ("databases", "Database", "db"),
        ("backups", "Backup", "pgb"),
        ("restores", "Restore", "pgr"),
        ("backupstores", "BackupStore", "pgstore"),
        ("scheduledbackups", "ScheduledBackup", "pgsched"),
    ],
)
def test_names(plural: str, kind: str, short: str) -> None:
    found = next(crd.definition(k) for k in crd.KINDS if k.plural == plural)
    assert found["metadata"]["name"] == f"{plural}.{GROUP}"
    assert found["spec"]["scope"] == "Namespaced"
    assert found["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["postgres"],
    }


@pytest.mark.parametrize(
    ("plural", "narrow", "wide"),
    [
        ("databases", "Phase Ready Endpoint Age", "Version Reason"),
        ("backups", "Phase Database Size Reason Age", "Verified Location Job Started Completed"),
        ("restores", "Phase Database Backup Mode Reason Age", "Location Job Started Completed"),
        ("backupstores", "Claim Bucket Backups Age", "Prefix Endpoint"),
        (
            "scheduledbackups",
            "Schedule Suspend Reason Last Schedule Next Age",
            "Database Time Zone Last Success",
        ),
    ],
)
def test_columns(plural: str, narrow: str, wide: str) -> None:
    columns = next(version(k)["additionalPrinterColumns"] for k in crd.KINDS if k.plural == plural)
    assert " ".join(c["name"] for c in columns if not c.get("priority")) == narrow
    assert " ".join(c["name"] for c in columns if c.get("priority")) == wide


@KINDS
def test_every_column_shows_a_field_that_exists(kind: crd.Kind) -> None:
    for column in version(kind)["additionalPrinterColumns"]:
        node = schema(kind)
        for name in column["jsonPath"].partition("[")[0].strip(".").split("."):
            if name == "metadata":
                break  # the API server's own
            node = node["properties"][name]


# ---- what the API server demands of a schema


@KINDS
def test_everything_is_bounded_since_the_cost_of_cel_rules_is_estimated_from_it(kind: crd.Kind) -> None:
    for path, node in nodes(schema(kind)):
        match node.get("type", "int-or-string"):
            case "string":
                bounded = "maxLength" in node or "enum" in node or node.get("format") == "date-time"
            case "int-or-string":
                bounded = "maxLength" in node and node["x-kubernetes-int-or-string"]
            case "array":
                bounded = "maxItems" in node
            case "object":
                bounded = "properties" in node or "maxProperties" in node
            case kind_of_scalar:
                bounded = kind_of_scalar in SCALARS
        assert bounded, f"{kind.name}{path} has no bound"


@KINDS
def test_the_schema_is_structural(kind: crd.Kind) -> None:
    for path, node in nodes(schema(kind)):
        assert not node.keys() & {"title", "$ref", "propertyNames", "const", "oneOf", "allOf"}, path
        assert {"type": "null"} not in node.get("anyOf", []), path
        if node.get("type") == "integer":
            assert node["format"] in ("int32", "int64"), path


@KINDS
def test_status_is_a_subresource_without_defaults(kind: crd.Kind) -> None:
    assert version(kind)["subresources"] == {"status": {}}
    status = schema(kind)["properties"]["status"]
    assert [path for path, node in nodes(status, ".status") if "default" in node] == []


@KINDS
def test_spec_is_required_unless_it_has_a_default(kind: crd.Kind) -> None:
    spec = schema(kind)["properties"]["spec"]
    assert ("spec" in schema(kind).get("required", [])) != ("default" in spec)


@KINDS
def test_every_rule_says_what_to_write(kind: crd.Kind) -> None:
    for path, node in [("", schema(kind)), *nodes(schema(kind))]:
        for rule in node.get("x-kubernetes-validations", []):
            assert list(rule)[:3] == ["rule", "message", "reason"], path
            assert len(rule["message"]) > 20, path


# ---- the conversion


class Inner(ApiModel):
    """Inside."""

    size: int = 1


class Example(ApiModel):
    optional: Reference | None = None
    described: Reference = Field(description="Wins over the model's own.")
    fixed: dict[Literal["cpu", "memory"], str] = Field({})
    tags: list[str] = Field([])
    inner: Inner = Inner()


def converted(model: type[ApiModel]) -> dict[str, Any]:
    generated = model.model_json_schema(by_alias=True)
    found: dict[str, Any] = crd.structural(generated, generated.get("$defs", {}))["properties"]
    return found


def test_an_optional_field_may_only_be_absent() -> None:
    optional = converted(Example)["optional"]
    assert optional["type"] == "object"
    assert optional["properties"]["name"]["maxLength"] == 253
    assert "default" not in optional


def test_a_description_beside_a_reference_wins() -> None:
    assert converted(Example)["described"]["description"] == "Wins over the model's own."


def test_a_dictionary_of_fixed_keys_is_an_object() -> None:
    assert converted(Example)["fixed"] == {
        "type": "object",
        "properties": {"cpu": {"type": "string"}, "memory": {"type": "string"}},
    }


def test_an_empty_list_is_no_default_but_a_nested_model_is() -> None:
    assert "default" not in converted(Example)["tags"]
    assert converted(Example)["inner"]["default"] == {"size": 1}


def test_a_union_has_no_place() -> None:
    class Torn(ApiModel):
        either: int | str

    with pytest.raises(ValueError, match="no place for a union"):
        converted(Torn)


def test_a_rule_on_a_field_joins_those_of_its_model() -> None:
    class Outer(ApiModel):
        one: Annotated[str, Rule("first", "m"), Rule("second", "m", ".x", "FieldValueForbidden")]

    assert converted(Outer)["one"]["x-kubernetes-validations"] == [
        {"rule": "first", "message": "m", "reason": "FieldValueInvalid"},
        {"rule": "second", "message": "m", "reason": "FieldValueForbidden", "fieldPath": ".x"},
    ]
