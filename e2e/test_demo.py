"""What `just demo` shows."""

from __future__ import annotations

import pytest

from e2e import demo


@pytest.mark.alone
@pytest.mark.usefixtures("operator")
def test_the_demo_brings_the_rows_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    said = capsys.readouterr().out
    assert "all rows are as they were" in said
    assert "monday condition met" in said
    assert "sha256" in said, "the log of the backup Job is shown"
