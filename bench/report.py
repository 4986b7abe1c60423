"""Run a benchmark: check and time its rows, print them, judge the bars, keep everything as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean, median
from typing import TYPE_CHECKING

import numpy as np

import pyx_transformer as pt
from bench import timing
from bench.machine import Limits, facts
from bench.peers import Peers
from bench.rows import Benchmark, Figure, Missing, Result, Row, Verdict

if TYPE_CHECKING:
    import argparse

TOLERANCE = 1e-4
UNITS = {
    "%": (100, "%"),
    "x": (1, "x"),
    "us": (1, " us"),
    "ms": (1, " ms"),
    "s": (1, " s"),
    "MB": (1, " MB"),
}


def run(benchmark: Benchmark, options: argparse.Namespace) -> list[Verdict]:
    """Measure what the options ask for, print it, and write it to options.output unless None.

    Raises AssertionError where the results of two contestants differ.
    """
    pt.set_num_threads(options.threads)
    rows = [row for row in benchmark.rows if is_asked(row, row.name, options)]
    figures = [figure for figure in benchmark.figures if is_asked(figure, figure.text, options)]
    if not rows and not figures and not is_model_asked(options):
        raise SystemExit(f"{benchmark.name}: no row has {options.rows.pattern!r} in its name")
    peers = Peers(options.threads)
    limits = Limits(options.threads)
    about = {
        "benchmark": benchmark.name,
        "threads": options.threads,
        "rounds": options.rounds,
        **facts(),
        "versions": {"pyx_transformer": pt.__version__, **peers.versions()},
        "limits": limits.summary(),
    }
    print_heading(about)

    results: list[Result] = []
    with peers.inference_mode():
        for _, group in itertools.groupby(rows, key=lambda row: row.group):
            results += run_group(group, peers, limits, options.rounds)
    verdicts = [bar.judge(benchmark.rows, results) for bar in benchmark.bars]
    verdicts += [figure.judge(options.quick) for figure in figures]
    print_verdicts(verdicts)
    if benchmark.model is not None and is_model_asked(options):
        about["model"] = benchmark.model(options)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(as_json(about, results, verdicts), encoding="utf-8")
        print(f"\nwritten to {options.output}")
    return verdicts


def is_asked(item: Row | Figure, name: str, options: argparse.Namespace) -> bool:
    """Whether the options select it. Rows named by --rows need not be among the quick ones."""
    if options.rows is not None:
        return options.rows.search(name) is not None
    return isinstance(item, Figure) or item.quick or not options.quick


def is_model_asked(options: argparse.Namespace) -> bool:
    """Whether the options select a model of what was not measured, by that word."""
    if options.rows is not None:
        return options.rows.search("model") is not None
    return not options.quick


def run_group(rows: Iterable[Row], peers: Peers, limits: Limits, rounds: int) -> list[Result]:
    """Measure and print the rows of one group, with the geometric mean of each ratio below."""
    results: list[Result] = []
    columns: list[str] = []
    for row in rows:
        try:
            result = measure(row, peers, limits, rounds)
        except Missing as missing:
            print(f"\n{row.name}: left out, {missing}")
            continue
        if not results or not set(result.peers) <= set(columns):
            columns = result.peers
            print(heading_line(row, columns))
        print(row_line(result, columns), flush=True)
        results.append(result)
    if len(results) > 1:
        print(mean_line(results, columns), flush=True)
    return results


def measure(row: Row, peers: Peers, limits: Limits, rounds: int) -> Result:
    """Build a row's contestants, compare what they compute, and time them."""
    with row.surroundings():
        contestants = list(row.contestants(peers))
        check(row.name, contestants)
        seconds = timing.rounds(contestants, rounds, lambda: limits.seconds(row.flop, row.bytes))
    return Result(row, *seconds)


def check(name: str, contestants: Sequence[timing.Contestant]) -> None:
    """Raise AssertionError unless all contestants compute what the first one does.

    Numbers with a fraction have to be close, anything else the same.
    """
    first, *others = contestants
    compared = [contestant for contestant in others if contestant.is_compared]
    if not compared:
        return
    ours = np.array(first.call())
    for contestant in compared:
        theirs = np.asarray(contestant.call())
        message = f"{name}: the results of ours (first) and {contestant.name} differ"
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(
                ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, err_msg=message
            )
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=message)


def print_heading(about: Mapping) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    threads = f"with 1 and {about['threads']} threads"
    peaks = " and ".join(f"{peak / 1e9:.0f}" for peak in about["limits"]["fma_peak_flop_per_s"])
    reads = " and ".join(f"{rate / 1e9:.1f}" for rate in about["limits"]["read_bytes_per_s"])
    print(f"{about['benchmark']}: {about['threads']} threads, {about['rounds']} rounds")
    print(f"{about['cpu']}, {about['isa']}, {about['usable_cpus']} CPUs, {about['date']}")
    print(versions)
    print(f"FMA peak {peaks} GFLOP/s, reads {reads} GB/s {threads}")
    print(
        "Each time is the median over the rounds, with the minimum in brackets; after a peer's "
        "times,\nhow many times faster we are: the median of the ratios within a round."
    )


def heading_line(row: Row, peers: Sequence[str]) -> str:
    columns = [f"\n{row.group:<38}{'ours':<20}{'speed':<14}{'share':>6}"]
    columns += [f"{name:<22}" for name in peers]
    return "  ".join(columns).rstrip()


def row_line(result: Result, peers: Sequence[str]) -> str:
    """A row as printed: sizes, our time, speed, share of the limit, then the peers."""
    row = result.row
    scale, unit = scale_of(median(result.ours))
    sizes = " ".join(f"{name}={size}" for name, size in row.sizes.items())
    share = f"{result.share:6.0%}" if row.flop or row.bytes else f"{'-':>6}"
    cells = [f"  {sizes:<36}{times(result.ours, scale)} {unit:<4}{speed_of(result):<14}{share}"]
    for name in peers:
        if name in result.seconds:
            cells.append(f"{times(result.seconds[name], scale)} {result.ratio(name):5.2f}x")
        else:
            cells.append(" " * 22)
    return "  ".join(cells).rstrip()


def speed_of(result: Result) -> str:
    """What the row makes in a second or, where it does not say, operations or else bytes."""
    row, seconds = result.row, median(result.ours)
    if row.made:
        number, things = row.made
        return f"{number / seconds:.0f} {things}/s"
    if row.flop:
        return f"{row.flop / seconds / 1e9:.1f} GFLOP/s"
    return f"{row.bytes / seconds / 1e9:.1f} GB/s" if row.bytes else ""


def mean_line(results: Sequence[Result], peers: Sequence[str]) -> str:
    """The geometric mean of the ratio to each peer, over the rows that have it."""
    cells = [f"{'  geometric mean':<78}"]
    for name in peers:
        mean = geometric_mean([r.ratio(name) for r in results if name in r.seconds])
        cells.append(f"{mean:>21.2f}x")
    return "  ".join(cells)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    print(f"\n{'bar':<64}{'asked':>12}{'got':>12}")
    for verdict in verdicts:
        sign = "<=" if verdict.at_most else ">="
        asked = f"{sign} {shown(verdict.asked, verdict.unit)}"
        got = "-" if verdict.got is None else shown(verdict.got, verdict.unit)
        mark = {True: "met   ", False: "MISSED", None: "      "}[verdict.met]
        print(f"{verdict.text:<64}{asked:>12}{got:>12}  {mark}  {verdict.where}")


def shown(value: float, unit: str) -> str:
    factor, suffix = UNITS[unit]
    return f"{factor * value:.3g}{suffix}"


def scale_of(seconds: float) -> tuple[float, str]:
    """A unit for times like this one, and how many of it make a second."""
    for scale, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * scale < 1000:
            return scale, unit
    return 1, "s"


def times(seconds: Sequence[float], scale: float) -> str:
    """Median and minimum, in 15 characters."""
    middle, least = (f"{scale * value:.4g}" for value in (median(seconds), min(seconds)))
    return f"{middle:>6} ({least})".ljust(15)


def as_json(about: Mapping, results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    """Everything, a row and a bar to a line. Times are in seconds, one per round."""
    rows = ",\n".join(json.dumps(row_facts(result)) for result in results)
    bars = ",\n".join(json.dumps({**vars(v), "met": v.met}) for v in verdicts)
    head = json.dumps(about, indent=1).removesuffix("\n}")
    return f'{head},\n "rows": [\n{rows}\n],\n "bars": [\n{bars}\n]\n}}\n'


def row_facts(result: Result) -> dict[str, object]:
    row = result.row
    return {
        "name": row.name,
        "group": row.group,
        **row.sizes,
        "flop": row.flop,
        "bytes": row.bytes,
        **({row.made[1]: row.made[0]} if row.made else {}),
        "share_of_limit": rounded(result.share),
        "limit_seconds": [rounded(value) for value in result.limit_seconds],
        "contestants": {
            name: {
                "median": rounded(median(seconds)),
                "minimum": rounded(min(seconds)),
                "ratio": rounded(result.ratio(name)),
                "rounds": [rounded(value) for value in seconds],
            }
            for name, seconds in result.seconds.items()
        },
    }


def rounded(value: float) -> float:
    """To four digits, which is more than a measurement has."""
    return float(f"{value:.4g}")
