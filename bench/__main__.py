"""`python -m bench NAME`, from the root of the repository."""

import argparse
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "kernels": "each kernel alone",
    "encoder": "encoder stacks, padding, import time and installed size",
    "train": "training steps, backward attention and peak memory",
    "decode": "greedy and beam search, Python time of a step and predicted memory",
    "embed": "texts to vectors and to texts, and opening a directory",
    "scale": "batch work and training on several workers",
    "busy": "small and large work while other processes hold the cores",
}
REPORT = "report"
# Read by OpenMP, OpenBLAS and MKL while they load.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments=None):
    options = parse(arguments)
    if options.benchmark == REPORT:
        importlib.import_module("bench.page").write()
        return
    for name in THREAD_VARIABLES:
        os.environ[name] = str(options.threads)
    prefer_the_installed_package()
    sys.path.append(str(REPOSITORY / "tests"))  # for the cases, which the tests use too

    report = importlib.import_module("bench.report")  # NumPy loads only now
    benchmark = importlib.import_module(f"bench.{options.benchmark}").BENCHMARK
    report.run(benchmark, options)


def parse(arguments):
    """The options, with the number of rounds and the output file settled."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure pyx_transformer beside every other library that is installed.",
        epilog="; ".join(f"{name}: {covers}" for name, covers in BENCHMARKS.items())
        + f"; {REPORT}: bench/README.md from what was measured",
    )
    parser.add_argument("benchmark", choices=(*BENCHMARKS, REPORT), help="what to measure")
    parser.add_argument("--threads", type=positive, default=2, help="of every contestant (2)")
    parser.add_argument("--rounds", type=positive, help="turns of each contestant (9; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="few rows, in under a minute")
    parser.add_argument(
        "--rows", type=re.compile, metavar="REGEX", help="only rows whose name it is found in"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the JSON to write (bench/results/NAME.json; by default none with --quick or --rows)",
    )
    parser.add_argument(
        "--bandwidth",
        type=float,
        default=10e9,
        metavar="BIT/S",
        help="of the network between the machines of scale's model (10e9)",
    )
    parser.add_argument(
        "--latency", type=float, default=50e-6, metavar="S", help="of the same, in seconds (50e-6)"
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 3 if options.quick else 9
    if options.output is None and not options.quick and options.rows is None:
        options.output = REPOSITORY / "bench" / "results" / f"{options.benchmark}.json"
    return options


def positive(text):
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def prefer_the_installed_package():
    """Take the repository off the path, where `python -m` puts it.

    Its source folder may have no compiled modules, and would hide the package that was installed
    from it. It stays if nothing else provides the package.
    """
    before = sys.path[:]
    sys.path[:] = [entry for entry in before if Path(entry).resolve() != REPOSITORY]
    if importlib.util.find_spec("pyx_transformer") is None:
        sys.path[:] = before


if __name__ == "__main__":
    main()
