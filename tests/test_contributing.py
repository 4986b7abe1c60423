"""What contributors are told is there: files, parts of the tests, and the versions of linters."""

import re
from pathlib import Path

import pytest
from quick import FILES, QUICK

REPOSITORY = Path(__file__).resolve().parents[1]
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(CONTRIBUTING.splitlines()) <= 60


def test_the_files_that_it_names_are_there():
    named = set(re.findall(r"`((?:tests|bench|pyx_transformer)/[\w./]*)`", CONTRIBUTING))
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \|$", CONTRIBUTING, re.M)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 5 and len(names) > 20
    named |= {f"tests/test_{name}.py" for name in names}
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_quick_tests_are_of_files_that_are_there():
    assert all(QUICK.values())
    assert [name for name in FILES if not (REPOSITORY / "tests" / name).is_file()] == []


def test_the_same_linters_check_commits_and_ci():
    files = [REPOSITORY / name for name in (".pre-commit-config.yaml", ".ci/run")]
    if not all(file.is_file() for file in files):
        pytest.skip("needs a clone: these are not in the source distribution")
    before_commits, in_ci = (
        dict(re.findall(r"([\w-]+)==([\w.]+)", file.read_text(encoding="utf-8"))) for file in files
    )
    assert {"ruff", "cython-lint", "mypy"} <= before_commits.keys()
    assert before_commits == {name: in_ci.get(name) for name in before_commits}
