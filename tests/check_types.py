"""What users see who check types: `python tests/check_types.py`, with mypy installed.

The Python blocks of README and of docs/ pass `mypy --strict`, and of typed_calls.py exactly the
lines are marked that say so. What is wrong is printed, and is the exit code.
"""

import ast
import builtins
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
CALLS = REPOSITORY / "tests" / "typed_calls.py"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"# error: ([\w, -]+)$")
FOUND = re.compile(r"([^:]+):(\d+): error: (.*?)  \[([\w-]+)\]$")
# What blocks take as given.
GIVEN = {" batches)": "batches: list[list[str]] = []"}
# The package's own sources are checked without --strict; of others not all have types.
CONFIG = """
[mypy]
strict = true
mypy_path = {path}
[mypy-pyx_transformer.*]
follow_imports = silent
[mypy-dask.*,matplotlib.*,pandas.*,pyarrow.*,pyspark.*,ray.*,torch.*,transformers.*]
ignore_missing_imports = true
"""


def with_what_it_needs(blocks: list[str]) -> str:
    """The last of a page's blocks behind the lines of those before it that set its names."""
    wanted, needed = missing(blocks[-1]), []
    for block in reversed(blocks[:-1]):
        if wanted & names_set(block):
            needed.insert(0, block)
            wanted = (wanted - names_set(block)) | missing(block)
    return "".join(needed)


def names_set(block: str) -> set[str]:
    """The names that a block assigns, imports or defines."""
    found = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            found.add(node.name or "")
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def missing(block: str) -> set[str]:
    """The names that a block reads and does not set."""
    names = (node.id for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name))
    return {*names} - names_set(block) - {*dir(builtins)}


def marks(folder: Path, files: list[Path]) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """What mypy says of files: by name and line the code and the words of each error."""
    config = folder / "mypy.ini"
    config.write_text(CONFIG.format(path=REPOSITORY))
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--no-error-summary"]
    command += ["--hide-error-context", "--no-pretty", *map(str, files)]
    answer = subprocess.run(command, capture_output=True, text=True)
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for line in answer.stdout.splitlines():
        match = FOUND.match(line)
        if match is not None:
            path, number, words, code = match.groups()
            found.setdefault((Path(path).name, int(number)), []).append((code, words))
        elif "error" in line:
            raise SystemExit(line)
    if answer.stderr or answer.returncode > 1:
        raise SystemExit(answer.stderr or answer.stdout)
    return found


def written(folder: Path) -> dict[str, tuple[str, int]]:
    """Each block of the pages in a file: by its name the page, and how many lines further down the
    block stands there."""
    origins = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks: list[str] = []
        for match in BLOCK.finditer(text):
            blocks.append(match[1])
            before = with_what_it_needs(blocks)
            before += "".join(f"{line}\n" for name, line in GIVEN.items() if name in match[1])
            file = folder / f"block_{len(origins)}.py"
            file.write_text(before + match[1], encoding="utf-8")
            first = text.count("\n", 0, match.start(1))
            origins[file.name] = str(page.relative_to(REPOSITORY)), first - before.count("\n")
    return origins


def main() -> int:
    """How many lines are marked that should not be, or are not that should."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        origins = written(folder)
        found = marks(folder, [*(folder / name for name in origins), CALLS])
    expected = {
        (CALLS.name, number): {code.strip() for code in match[1].split(",")}
        for number, line in enumerate(CALLS.read_text(encoding="utf-8").splitlines(), 1)
        if (match := MARKED.search(line))
    }
    wrong = 0
    for place in sorted({*found, *expected}):
        codes = {code for code, _ in found.get(place, [])}
        if codes != expected.get(place, set()):
            wrong += 1
            page, shift = origins.get(place[0], (f"tests/{place[0]}", 0))
            said = "; ".join(f"{words} [{code}]" for code, words in found.get(place, []))
            print(f"{page}:{place[1] + shift}: {said or 'not marked'}")
    print(f"{len(origins)} blocks, {len(expected)} calls to mark, {wrong} lines wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
