"""README's scripts run as they are written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
SCRIPTS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 3


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_script_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SCRIPTS[number], f"README.md, script {number}", "exec"), {})
