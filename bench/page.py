"""`python -m bench report`: bench/README.md and the chart of README.md, from what was measured.

Every figure there is in a file of bench/results/, and is rounded against us: 1.062 is 1.06, never
1.1. A machine has tables of its own. What was asked and not reached is shown as missed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).with_name("README.md")
HEAD = Path(__file__).with_name("method.md")
CHART = Path(__file__).parent / "results" / "peers.svg"
FEW = 12  # rows of a group that are shown one by one
SCALES = ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (math.inf, 1, "s"))
UNITS = {"%": (100, " %"), "x": (1, ""), "us": (1, " us"), "ms": (1, " ms")}
UNITS |= {"s": (1, " s"), "MB": (1, " MB")}

Facts = Mapping[str, Any]


def write() -> None:
    """Write the page and the chart."""
    PAGE.write_text(page(), encoding="utf-8")
    draw(CHART)


def page() -> str:
    """bench/README.md: the method, then the machines, the one that was measured last first."""
    runs = sorted(read(), key=lambda run: run["date"], reverse=True)
    machines: dict[str, list[Facts]] = {}
    for run in runs:
        machines.setdefault(machine(run), []).append(run)
    lines = [HEAD.read_text(encoding="utf-8").rstrip(), "", *quality(), ""]
    for name, of_machine in machines.items():
        lines += [f"## {name}", ""]
        for run in of_machine:
            lines += [*section(run), ""]
    return "\n".join(lines).rstrip() + "\n"


def read() -> Iterator[Facts]:
    """The runs of `python -m bench` that are kept, each with its file."""
    for path in sorted(RESULTS.rglob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if "benchmark" in run:
            yield {**run, "file": path.relative_to(RESULTS.parent).as_posix()}


def machine(run: Facts) -> str:
    """What tells machines apart: neighbours that take a share of one change its limits, so those
    are of each run."""
    return f"{run['cpu']}, {run['usable_cpus']} CPUs, {run['isa']}, {multipliers(run)}"


def multipliers(run: Facts) -> str:
    """How many units for fused multiply-adds a core has, by its peak at about 3 GHz."""
    lanes = {"x86-64-v4": 16, "x86-64-v3": 8}.get(run["isa"], 4)
    each = run["limits"]["fma_peak_flop_per_s"][0] / (2 * lanes * 3e9)
    return f"{max(1, round(each))} multiplier{'s' * (round(each) > 1)} a core"


def section(run: Facts) -> Iterator[str]:
    """The heading, the rows and the bars of a run."""
    quiet = "" if run["rounds"] > 1 else ", one round"
    yield f"### {run['benchmark']}, {plural(run['threads'], 'thread')}{quiet} (`{run['file']}`)"
    yield ""
    peaks, reads = (run["limits"][name] for name in ("fma_peak_flop_per_s", "read_bytes_per_s"))
    versions = dict(run["versions"])
    versions.pop("pyx_transformer")
    yield (
        f"{run['date'][:10]}, commit {run['commit']}; {plural(run['rounds'], 'round')}; peak "
        f"{peaks[-1] / 1e9:.0f} GFLOP/s, reads {reads[-1] / 1e9:.0f} GB/s; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    yield ""
    for group, rows in itertools.groupby(run["rows"], key=lambda row: row["group"]):
        yield from table(group, list(rows))
        yield ""
    yield from bars(run["bars"])


def table(group: str, rows: Sequence[Facts]) -> Iterator[str]:
    """The rows of a group with our time and how many times faster we are than each other; where
    they are many, those of each first size together."""
    peers = list(dict.fromkeys(name for row in rows for name in row["contestants"]))[1:]
    yield line([group, "ours", "share of the limit", *peers])
    yield line(["---"] * (3 + len(peers)))
    if len(rows) <= FEW:
        parts = [[row] for row in rows]
    else:
        first = sizes(rows[0])[0][0]
        parts = [list(part) for _, part in itertools.groupby(rows, key=lambda row: row[first])]
    for part in parts:
        yield line(row_cells(part, peers))


def row_cells(rows: Sequence[Facts], peers: Iterable[str]) -> Iterator[str]:
    """One row, or several: the range of their times and the geometric means of their ratios."""
    named = sizes(rows[0])
    if len(rows) == 1:
        yield ", ".join(f"{name} {size}" for name, size in named)
    else:
        yield f"{named[0][0]} {named[0][1]}, {len(rows)} shapes"
    times = [row["contestants"]["ours"]["median"] for row in rows]
    yield " to ".join(dict.fromkeys(map(time, (min(times), max(times)))))
    shares = [row["share_of_limit"] for row in rows if row["flop"] or row["bytes"]]
    percent = (
        (f"{math.floor(100 * share)}" for share in (min(shares), max(shares))) if shares else ()
    )
    yield " to ".join(dict.fromkeys(percent)) + " %" * bool(shares)
    for name in peers:
        found = [row["contestants"][name]["ratio"] for row in rows if name in row["contestants"]]
        yield f"{floored(geometric_mean(found)):.2f}" if found else ""


def sizes(row: Facts) -> list[tuple[str, int]]:
    """What a row's name says of it: the numbers between its group and its operations."""
    names = list(row)[2 : list(row).index("flop")]
    return [(name, row[name]) for name in names]


def bars(verdicts: Sequence[Facts]) -> Iterator[str]:
    """What was asked, and what came."""
    if not verdicts:
        return
    yield line(["asked", "at least, or at most", "got", ""])
    yield line(["---"] * 4)
    for verdict in verdicts:
        scale, unit = UNITS[verdict["unit"]]
        sign = "<=" if verdict["at_most"] else ">="
        asked = f"{sign} {scale * verdict['asked']:g}{unit}"
        if verdict["got"] is None:
            yield line([verdict["text"], asked, "not measured", ""])
            continue
        got = against_us(scale * verdict["got"], verdict["at_most"])
        met = "met" if verdict["met"] else "**missed**"
        yield line([verdict["text"], asked, f"{got}{unit}", met])


def against_us(value: float, at_most: bool) -> str:
    """Three digits, rounded up where little is good and else down."""
    if value == 0:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    shift = 10.0**digits
    whole = (math.ceil if at_most else math.floor)(round(value * shift, 6))
    return f"{whole / shift:.{digits}f}"


def floored(ratio: float) -> float:
    """To two digits behind the point, downwards."""
    return math.floor(round(100 * ratio, 6)) / 100


def time(seconds: float) -> str:
    shown = float(f"{seconds:.3g}")  # 0.9996 s are 1 s, not 1e+03 ms
    scale, unit = next((scale, unit) for most, scale, unit in SCALES if shown < most)
    return f"{scale * seconds:.3g} {unit}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


# Trained models: their logs, what they were trained for, and what others have reached.
TASKS = {
    "en_ja": ("Tanaka English to Japanese, test of 500, BLEU of words", ""),
    "en_ja_1000": ("the same, 1,000 steps of 4,000", ""),
    "multi30k": (
        "Multi30k English to German, test 2016, lower-cased, tokenised BLEU",
        "41.02 (Wu et al. 2021, the same sizes)",
    ),
    "cmudict": (
        "CMUdict, phonemes without stress, a tenth of the words held out, word error rate",
        "about 31 % (transformer of 2 x 256), 33.9 % (Phonetisaurus)",
    ),
    "shakespeare": ("tinyshakespeare, the last tenth held out, perplexity of a character", ""),
}
SCORES = {
    "bleu": (1, "BLEU", False),
    "word_error_rate": (100, "%", True),
    "perplexity": (1, "", True),
}


def quality() -> Iterator[str]:
    """The scores of tests, from the logs of training."""
    yield line(["task", "run", "score", "elsewhere", "file"])
    yield line(["---"] * 5)
    for name, (task, elsewhere) in TASKS.items():
        path = RESULTS / f"{name}.jsonl"
        for text in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(text)
            figures = {**entry, **entry.get("test", {})}
            if "test" not in entry and "word_error_rate" not in entry:
                continue
            run = ", ".join(
                entry[key] for key in ("run", "weights and search", "search") if key in entry
            )
            for key, (scale, unit, at_most) in SCORES.items():
                if key in figures and not (key == "bleu" and name == "cmudict"):
                    score = f"{against_us(scale * figures[key], at_most)} {unit}".rstrip()
                    yield line([task, run, score, elsewhere, f"`results/{name}.jsonl`"])


# What the chart shows: a row of a file, and which peers it has.
SHOWN = (
    ("texts to vectors, MiniLM", "embed.json", "embed, MiniLM"),
    ("translate, one text, beam 4", "embed.json", "the same, beam 4 B=1"),
    ("translate, 32 texts, beam 4", "embed.json", "the same, beam 4 B=32"),
    ("greedy ids, batch of 8", "decode.json", "decode, greedy B=8"),
    ("training step, d 128", "train.json", "training step layers=4"),
    ("encoder 6 x 512, 1 x 128", "encoder.json", "encoder layers=6 d=512 ff=2048 B=1 T=128"),
)
LABELS = {
    "ctranslate2": "CTranslate2",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "transformers": "transformers",
}
COLORS = {
    "CTranslate2": "#4c78a8",
    "ONNX Runtime": "#f58518",
    "OpenVINO": "#54a24b",
    "PyTorch": "#b279a2",
    "transformers": "#9d755d",
}


def draw(path: Path) -> None:
    """The chart: how many times faster than each peer we are."""
    import matplotlib
    from matplotlib.figure import Figure

    files = {run["file"]: run for run in read()}
    bars = []
    for label, file, beginning in SHOWN:
        rows = files[f"results/{file}"]["rows"]
        row = next(row for row in rows if row["name"].startswith(beginning))
        for peer, name in LABELS.items():  # of a peer's ways the fastest
            ways = [one for one in row["contestants"] if one.split()[0] == peer]
            if ways:
                ratio = min(row["contestants"][one]["ratio"] for one in ways)
                bars.append((label, name, floored(ratio)))
    settings = {"svg.hashsalt": "peers", "svg.fonttype": "path", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7, 0.3 * len(bars) + 0.9))
        axes = figure.subplots()
        at, ticks = 0.0, []
        for label, group in itertools.groupby(bars, key=lambda bar: bar[0]):
            begin = at
            for _, peer, ratio in group:
                axes.barh(at, ratio, color=COLORS[peer])
                axes.text(ratio, at, f" {ratio:.2f}  {peer}", va="center", fontsize=8)
                at += 1
            ticks.append(((begin + at - 1) / 2, label))
            at += 0.6
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(ratio for *_, ratio in bars))
        axes.set_xlabel("times as fast as the peer, 2 threads")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
