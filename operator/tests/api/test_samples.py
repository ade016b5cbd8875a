from collections.abc import Callable
from typing import Any

import pytest

from postgres_operator import names
from postgres_operator.api import crd
from postgres_operator.api.common import dump

MODELS = {kind.name: kind.model for kind in crd.KINDS}
META = {"namespace": "shop", "uid": "0"}
SAMPLES = {kind.lower(): kind for kind in MODELS} | {"backupstore-s3": "BackupStore"}


@pytest.mark.parametrize(("file", "kind"), SAMPLES.items())
def test_the_sample_survives_the_model(file: str, kind: str, documents: Callable[[str], list[dict[str, Any]]]) -> None:
    sample = documents(f"samples/{file}.yaml")[0]
    assert (sample["kind"], sample["apiVersion"]) == (kind, names.API_VERSION)

    model = MODELS[kind].model_validate({**sample, "metadata": sample["metadata"] | META})

    assert within(sample["spec"], dump(model)["spec"])


def test_the_sample_of_an_external_server_survives_the_model(
    documents: Callable[[str], list[dict[str, Any]]],
) -> None:
    (sample,) = documents("samples/external/database.yaml")
    model = MODELS["Database"].model_validate({**sample, "metadata": sample["metadata"] | META})
    assert within(sample["spec"], dump(model)["spec"])


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` says is in `whole`, which may say more (defaults)."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and within(v, whole[k]) for k, v in part.items())
    return bool(part == whole)


def test_a_quantity_may_be_a_number() -> None:
    database = MODELS["Database"].model_validate(
        {"metadata": META | {"name": "shop"}, "spec": {"resources": {"limits": {"cpu": 1}}}}
    )
    assert dump(database)["spec"]["resources"]["limits"] == {"cpu": "1"}
