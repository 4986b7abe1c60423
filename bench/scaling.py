"""A model of the time of a training step on several machines: what they compute, and exchange.

    step(n) = compute max(ceil(shards / n) / shards) + exchange(n) + update
    exchange(n) = 2 ((n - 1) / n bytes / bandwidth + (n - 1) latency)

n machines with a rank each; compute and update are measured on one rank here, bytes are those of
the gradients, which Alltoall and Allgather bring each rank once. It is a model: a network's own
contention, and what overlaps, are not in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

MACHINES = (1, 2, 4, 8, 16, 32, 64)
SHARDS = 64  # as a recipe for so many ranks has


class Prediction(NamedTuple):
    """Seconds of a step, of which some are exchange, and how much faster it is than on one."""

    machines: int
    seconds: float
    exchange: float
    speed_up: float


def exchange(machines: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds in which gradients of so many bytes become one sum; bandwidth in bit/s."""
    others = machines - 1
    return 2 * (others / machines * 8 * size / bandwidth + others * latency)


def predicted(times: dict, bandwidth: float, latency: float, *, grows: bool) -> list[Prediction]:
    """For each of MACHINES; grows: a batch is as many times larger as there are machines."""
    found = []
    for n in MACHINES:
        share = 1.0 if grows else math.ceil(SHARDS / n) / SHARDS
        exchanged = exchange(n, times["bytes"], bandwidth, latency)
        seconds = times["compute"] * share + exchanged + times["update"]
        alone = times["compute"] + times["update"]
        found.append(Prediction(n, seconds, exchanged, alone / seconds * (n if grows else 1)))
    return found


def report(times: dict, bandwidth: float, latency: float, picture: Path | None) -> dict:
    """Print the model as a table, and draw it; what there is to keep of it."""
    print(
        f"\nA model, not a measurement: {bandwidth / 1e9:g} Gbit/s, {1e6 * latency:g} us, a step "
        f"of {times['compute'] + times['update']:.2f} s on one rank, "
        f"{times['bytes'] / 1e6:.0f} MB of gradients"
    )
    print(f"{'machines':>8}  {'one batch, shared out':>30}  {'a batch on each':>30}")
    shared, grown = (predicted(times, bandwidth, latency, grows=grows) for grows in (False, True))
    for one, other in zip(shared, grown, strict=True):
        print(f"{one.machines:>8}  {described(one):>30}  {described(other):>30}")
    if picture is not None:
        draw({"one batch, shared out": shared, "a batch on each": grown}, picture)
        print(f"drawn in {picture}")
    return {
        "is": "a model",
        "bandwidth": bandwidth,
        "latency": latency,
        "measured": times,
        "shared": [one._asdict() for one in shared],
        "grown": [one._asdict() for one in grown],
    }


def described(one: Prediction) -> str:
    return f"{one.seconds:.3f} s, {one.exchange / one.seconds:4.0%} exch., {one.speed_up:5.1f}x"


def draw(predictions: dict[str, list[Prediction]], picture: Path) -> None:
    """Speed-up by machines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(MACHINES, MACHINES, color="0.7", linestyle=":", label="as many times as machines")
    for name, values in predictions.items():
        axes.plot(MACHINES, [one.speed_up for one in values], marker="o", label=name)
    axes.set(
        xlabel="machines",
        ylabel="times as fast as one (a model)",
        xscale="log",
        yscale="log",
        xticks=MACHINES,
        yticks=MACHINES,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes.legend()
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)
