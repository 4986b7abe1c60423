"""What the package costs before it does anything: time to import, size on disk."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pyx_transformer

PACKAGE = Path(pyx_transformer.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]


def import_ms(quick: bool) -> float:
    """Milliseconds that importing the package adds to a Python that imports NumPy.

    The median over pairs of processes, one without and one with it, timed from start to end.
    """
    process_seconds("import numpy, pyx_transformer")  # reads the files once
    pairs = [
        process_seconds("import numpy, pyx_transformer") - process_seconds("import numpy")
        for _ in range(5 if quick else 15)
    ]
    return 1000 * median(pairs)


def process_seconds(statement: str) -> float:
    """Seconds of a new Python that executes the statement, where it finds the same package."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=PACKAGE.parent)
    return time.perf_counter() - start


def installed_mb(quick: bool) -> float:
    """Megabytes (10^6 bytes) of the package's folder."""
    return sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file()) / 1e6
