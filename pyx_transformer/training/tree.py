"""The order in which sums over the shards of a step come together.

It is an aligned binary tree over their numbers: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), for any
number of shards, right sides that there are not falling away. A node is a pair (begin, end): the
sum of the shards from begin to end - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Node = tuple[int, int]
Sum = TypeVar("Sum")


def nodes_of(
    begin: int, end: int, shards: int, fits: Callable[[int, int], bool] = lambda begin, end: True
) -> list[Node]:
    """The largest nodes that fit, in order, that the shards from begin to end - 1 of so many are
    the sum of; a single shard always fits."""
    found: list[Node] = []

    def look(low: int, size: int) -> None:
        high = min(low + size, shards)
        if low >= end or high <= begin:
            return
        if size == 1 or (begin <= low and high <= end and fits(low, high)):
            found.append((low, high))
        else:
            look(low, size // 2)
            look(low + size // 2, size // 2)

    look(0, 1 << (shards - 1).bit_length())
    return found


def folds(begins: Sequence[int]) -> list[int]:
    """After how many of nodes that begin at these shards, and come in their order, the two last
    sums become one, and how often: as long as they are nearer to one another in the tree than to
    the next node, which the highest different bit says."""
    counts = [0] * len(begins)
    held: list[int] = []
    for i, begin in enumerate(begins):
        while len(held) > 1 and held[-2] ^ held[-1] < held[-1] ^ begin:
            held.pop()
            counts[i - 1] += 1
        held.append(begin)
    if counts:
        counts[-1] += len(held) - 1
    return counts


def folded(
    begins: Sequence[int],
    put: Callable[[int, Sum | None], Sum],
    join: Callable[[Sum, Sum], object],
    is_one: Callable[[int], bool] = lambda i: True,
) -> Sum:
    """The sum of all nodes, which begin at these shards and come in their order.

    put(i, None) gives the sum of node i; put(i, left), where left is the sum of its neighbour, adds
    it to that, in place, and is asked for only where `is_one(i)`: the node is added at once, and
    not in parts. join(left, right) adds right to left, in place.
    """
    held: list[Sum] = []
    for i, count in enumerate(folds(begins)):
        if count and is_one(i):
            put(i, held[-1])
            count -= 1
        else:
            held.append(put(i, None))
        for _ in range(count):
            right = held.pop()
            join(held[-1], right)
    return held[0]
