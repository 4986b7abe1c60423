"""What a benchmark is made of: rows with their results, bars, and single figures."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peers import Peers
    from bench.timing import Contestant


class Missing(Exception):
    """What a row needs is not on this machine; the message says what. The row is left out."""


@dataclass(frozen=True)
class Row:
    """One piece of work, and who does it.

    contestants(peers) makes the inputs and yields the contestants, ours first. The work is at
    least `flop` floating-point operations (a multiply-add counts two) and at least `bytes` read
    from or written to main memory; what stays in the caches is not counted. `made` says what comes
    of it, as (64, "tokens"): then the speed is told in these. Everything is done inside
    `surroundings`.
    """

    group: str
    sizes: Mapping[str, int]
    contestants: Callable[[Peers], Iterable[Contestant]]
    flop: float = 0
    bytes: float = 0
    made: tuple[int, str] | None = None
    surroundings: Callable[[], AbstractContextManager] = nullcontext
    quick: bool = False

    @property
    def name(self) -> str:
        return " ".join([self.group, *(f"{name}={size}" for name, size in self.sizes.items())])


@dataclass(frozen=True)
class Result:
    """Seconds per call of each contestant of a row, ours first, one per round."""

    row: Row
    seconds: Mapping[str, Sequence[float]]
    limit_seconds: Sequence[float]  # what the machine's limits allow the row, in the same rounds

    @property
    def ours(self) -> Sequence[float]:
        return next(iter(self.seconds.values()))

    @property
    def peers(self) -> list[str]:
        return list(self.seconds)[1:]

    @property
    def share(self) -> float:
        """The share of the machine's limit, median over the rounds."""
        return median(
            limit / ours for limit, ours in zip(self.limit_seconds, self.ours, strict=True)
        )

    def ratio(self, name: str) -> float:
        """How many times faster than a contestant we are, median over the rounds."""
        rounds = zip(self.seconds[name], self.ours, strict=True)
        return median(theirs / ours for theirs, ours in rounds)

    def ratio_to_best(self, *libraries: str) -> float:
        """The ratio to the best setting of the best of these; NaN where one of them is missing."""
        ratios = {name: self.ratio(name) for name in self.peers}
        present = {name.split()[0] for name in ratios}
        if not present.issuperset(libraries):
            return math.nan
        return min(ratio for name, ratio in ratios.items() if name.split()[0] in libraries)


@dataclass(frozen=True)
class Verdict:
    """What was asked and what came: `got` is None where nothing was measured."""

    text: str
    unit: str  # "%" (of a fraction), "x", "us", "ms" or "MB"
    asked: float
    got: float | None
    at_most: bool = False
    where: str = ""  # how many of the rows were measured, and the one that decided

    @property
    def met(self) -> bool | None:
        if self.got is None:
            return None
        return self.got <= self.asked if self.at_most else self.got >= self.asked


@dataclass(frozen=True)
class Bar:
    """A demand on the worst of some rows or, with mean=True, on their geometric mean."""

    text: str
    unit: str
    asked: float
    covers: Callable[[Row], bool]
    value: Callable[[Result], float]
    at_most: bool = False
    mean: bool = False

    def judge(self, rows: Iterable[Row], results: Iterable[Result]) -> Verdict:
        """The verdict on the results that there are, be it for all rows or for some."""
        values = {r.row.name: self.value(r) for r in results if self.covers(r.row)}
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        where = f"{len(values)} of {sum(map(self.covers, rows))} rows"
        if not values:
            got = None
        elif self.mean:
            got = geometric_mean(values.values())
        else:
            worst = max if self.at_most else min
            name = worst(values, key=values.__getitem__)
            got, where = values[name], f"{where}, worst: {name}"
        return Verdict(self.text, self.unit, self.asked, got, self.at_most, where)


@dataclass(frozen=True)
class Figure:
    """A single number that may not exceed what is asked; NaN where it cannot be measured."""

    text: str
    unit: str
    asked: float
    measure: Callable[[bool], float]  # given whether it has to be quick

    def judge(self, quick: bool) -> Verdict:
        got = self.measure(quick)
        return Verdict(
            self.text, self.unit, self.asked, None if math.isnan(got) else got, at_most=True
        )


@dataclass(frozen=True)
class Benchmark:
    """Rows in the order of their groups, the bars over them, and figures beside them.

    model(options): printed after all that was measured, and kept beside it, if it is all measured.
    """

    name: str
    rows: Sequence[Row]
    bars: Sequence[Bar]
    figures: Sequence[Figure] = ()
    model: Callable[[Namespace], Mapping] | None = None
