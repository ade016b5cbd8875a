from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).resolve().parents[3] / "config"


@pytest.fixture
def config() -> Path:
    return CONFIG


@pytest.fixture
def documents() -> Callable[[str], list[dict[str, Any]]]:
    """The YAML documents of a file below config/."""

    def read(path: str) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all((CONFIG / path).read_text()))

    return read
