"""The documents say what the code does: each list in them is compared with the code, both ways."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate as validate_native
from test_render import CASES

from postgres_operator import metrics, names
from postgres_operator.api import crd
from postgres_operator.api.common import dump
from postgres_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "operator" / "postgres_operator"
TEMPLATES = ROOT / "job_templates"
DOCS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
KINDS = {kind.name: kind for kind in crd.KINDS}
every_document = pytest.mark.parametrize("doc", [pytest.param(d, id=str(d.relative_to(ROOT))) for d in DOCS])


def read(name: str) -> str:
    return (ROOT / name).read_text()


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all table rows whose first cell is `code`."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def first_cells(text: str) -> list[str]:
    return [row[0].strip("`") for row in rows(text)]


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


# Reasons -------------------------------------------------------------------------------------------------------------

# CamelCase words in the code that are no reasons of ours.
NO_REASONS = {
    # kinds, phases and values of Kubernetes' and our API
    "Backup", "Database", "Job", "PersistentVolumeClaim", "Reader", "Restore", "Secret", "Service",
    "StatefulSet", "Verify", "Pending", "InProgress", "Failed", "Retain", "Delete", "Replace", "Normal", "Warning",
    "True", "False", "Unknown", "Complete", "Progressing", "Opaque", "None", "Parallel", "Succeeded", "ReadWriteOnce",
    "Deleted", "Deletion", "Retention", "Verified",
    "Allow", "ReadWriteMany", "ReadWriteOncePod", "OnRootMismatch", "RuntimeDefault", "Always", "Memory",
    "Verification", "List", "Discover",
    # what the Job controller, the scheduler and the kubelet say
    "SuccessCriteriaMet", "FailureTarget", "FailedCreate", "StartError", "CreateContainerConfigError",
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff", "PodScheduled",
}  # fmt: skip
# Reasons that Kubernetes gives and that are passed on; the code does not name them.
PASSED_ON = {"BackoffLimitExceeded", "Evicted"}


def python_words() -> set[str]:
    files = [*(CODE / "decide").glob("*.py"), CODE / "act.py", CODE / "provision.py", CODE / "schedules.py"]
    constants = (
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return {word for word in constants if re.fullmatch(r"[A-Z][a-z]+[A-Za-z]*", word)}


def script_reasons() -> set[str]:
    pattern = re.compile(r'(?:\b(?:fail|broken)|\bwrite_failure "[^"]*"|\breason=) ?([A-Z][a-z]+[A-Za-z]+)')
    return {reason for path in TEMPLATES.glob("*.sh") for reason in pattern.findall(path.read_text())}


def reasons() -> set[str]:
    # Events of success are named after the kind that succeeded: f"{kind}Completed".
    return (python_words() - NO_REASONS) | script_reasons() | PASSED_ON | {"BackupCompleted", "RestoreCompleted"}


def test_every_reason_is_explained_and_every_explained_reason_exists() -> None:
    documented = first_cells(read("docs/troubleshooting.md"))
    assert sorted(documented) == sorted(set(documented)), "a reason is explained twice"
    assert set(documented) == reasons()


def test_words_that_are_no_reasons_are_still_in_the_code() -> None:
    assert python_words() >= NO_REASONS


# Settings, fields, templates, metrics --------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows(read("docs/settings.md"))}
    assert documented == {
        name.upper(): written(None if field.default_factory else field.default)
        for name, field in Settings.model_fields.items()
    }


def written(default: Any) -> str:
    """As a person writes it."""
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def leaves(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every field that a person can write or read."""
    if schema["type" if "type" in schema else "anyOf"] == "array":
        path, schema = path + "[]", schema["items"]
    if path == "spec.template.spec":  # that of a Backup, and documented there
        yield path, {}
    elif properties := schema.get("properties"):
        for name, inner in properties.items():
            yield from leaves(inner, f"{path}.{name}")
    else:
        yield path, schema


def fields(kind: str) -> dict[str, dict[str, Any]]:
    root = crd.definition(KINDS[kind])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return dict(pair for part in ("spec", "status") for pair in leaves(root[part], part))


def documented_fields(kind: str) -> dict[str, list[str]]:
    """Rows of all sections whose title names the kind."""
    found: dict[str, list[str]] = {}
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", read("docs/fields.md"), re.MULTILINE | re.DOTALL):
        if kind in re.findall(r"\w+", title):
            for row in rows(body):
                assert row[0] not in found, f"{kind} {row[0]} is documented twice"
                found[row[0].strip("`")] = row
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented(kind: str) -> None:
    assert documented_fields(kind).keys() == fields(kind).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_and_choices_are_documented(kind: str) -> None:
    documented = documented_fields(kind)
    for path, schema in fields(kind).items():
        if path.startswith("status."):
            continue
        shown = re.findall(r"`([^`]+)`", documented[path][1])
        default = schema.get("default")
        expected = [] if default is None else [written(default)]
        assert shown == expected, path
        for choice in schema.get("enum", []):
            assert f"`{choice}`" in documented[path][2], (path, choice)


def test_every_template_variable_is_documented() -> None:
    passed: dict[str, set[str]] = {}
    for _, action in CASES.values():
        for variable in action.values:
            passed.setdefault(variable, set()).add(action.template.removesuffix(".yaml.j2"))
    table = {row[0].strip("`"): row for row in rows(section(read("docs/templates.md"), "Variables"))}
    everywhere = set().union(*passed.values())
    documented = {name: set(re.findall(r"`([a-z-]+)`", row[1])) or everywhere for name, row in table.items()}
    assert documented == passed
    parts = CASES["backup"][1].values["database"]
    assert re.findall(r"`([a-z_]+)`", table["database"][2]) == list(parts)


def test_every_script_is_documented() -> None:
    text = section(read("docs/templates.md"), "Files")
    assert set(first_cells(text)) == {path.name for path in TEMPLATES.iterdir()}


def test_every_metric_is_documented() -> None:
    ours = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for collector in vars(metrics).values()
        if hasattr(collector, "describe") and not isinstance(collector, type)
        for metric in collector.describe()
    }
    assert set(first_cells(section(read("docs/observability.md"), "Metrics"))) == ours


# Links, words, examples ----------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(text: str) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(doc: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(doc.read_text()))


@every_document
def test_links_resolve(doc: Path) -> None:
    for link in links(doc):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (doc.parent / path).resolve() if path else doc
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_document_can_be_reached_from_the_readme() -> None:
    todo, seen = [ROOT / "README.md"], set()
    while todo:
        doc = todo.pop()
        seen.add(doc)
        targets = {(doc.parent / link.partition("#")[0]).resolve() for link in links(doc) if not link.startswith("#")}
        todo += [target for target in targets if target.suffix == ".md" and target not in seen]
    assert seen >= set(DOCS)


def test_documents_that_the_code_names_exist() -> None:
    for path in [*CODE.rglob("*.py"), *TEMPLATES.iterdir(), *(ROOT / "config").rglob("*.yaml")]:
        for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text()):
            assert (ROOT / name).exists(), f"{path} names {name}"


# Everything that a reader may look up has to be named without a machine, a person or a host of somebody's.
HOSTS = re.compile(r"\b(?:[a-z0-9-]+\.)+(?:com|org|io|net|dev|internal)\b")
KNOWN_HOSTS = re.compile(
    r"(?:.+\.)?(?:example\.com|kubernetes\.io|k8s\.io)|eks\.amazonaws\.com|keepachangelog\.com|semver\.org"
)
FORBIDDEN = {
    "a path of some machine": r"(?<![\w.>}-])/(?:root|home|Users|mnt|work)/",
    "a path that leads out of the repository": r"(?:\.\./){2,}(?!\w+\.md)",
    "an issue number": r"(?<![\w&])#\d+\b",
    "marketing": r"(?i)\b(?:seamless\w*|robust\w*|powerful|effortless\w*|blazing\w*|world-class|enterprise-grade)\b",
    "an unfinished note": r"\b(?:TODO|FIXME|TBD|XXX)\b",
}


@every_document
def test_words_that_do_not_belong_there(doc: Path) -> None:
    text = doc.read_text()
    for what, pattern in FORBIDDEN.items():
        assert not (found := re.search(pattern, text)), f"{what}: {found[0]}"
    assert not [host for host in HOSTS.findall(text) if not KNOWN_HOSTS.fullmatch(host)]


@every_document
def test_recipes_exist(doc: Path) -> None:
    recipes = set(re.findall(r"^([a-z][a-z0-9-]*)\b[^:=\n]*:(?!=)", read("justfile"), re.MULTILINE))
    used = set(re.findall(r"(?:`|\$ |&& )just ([a-z][a-z0-9-]*)", doc.read_text()))
    assert used <= recipes


def manifests() -> Iterator[Any]:
    """Every YAML document in the documents (blocks, and what is piped into kubectl) and below docs/tour."""
    for doc in DOCS:
        text = doc.read_text()
        found = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found += re.findall(r"^\$ kubectl .*<<'EOF'\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)
        for number, block in enumerate(found):
            for body in yaml.safe_load_all(block):
                yield pytest.param(body, id=f"{doc.relative_to(ROOT)}-{number}")
    for path in sorted((ROOT / "docs" / "tour").iterdir()):
        yield pytest.param(yaml.safe_load(path.read_text()), id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("body", list(manifests()))
def test_examples_are_valid(body: dict[str, Any]) -> None:
    if body["apiVersion"] == names.API_VERSION:
        model = KINDS[body["kind"]].model
        read_back = dump(model.model_validate({**body, "metadata": body["metadata"] | {"namespace": "x", "uid": "0"}}))
        assert within(body["spec"], read_back["spec"])
    elif "kustomize" not in body["apiVersion"]:
        validate_native(body, "1.35", strict=True)


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is in `whole`, which may say more (defaults)."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and within(v, whole[k]) for k, v in part.items())
    return bool(part == whole)
