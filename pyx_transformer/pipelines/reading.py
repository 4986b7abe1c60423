"""Texts as ids that a model can read, and batches of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer._checks import as_integer
from pyx_transformer.pipelines.texts import numbered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.token_model import TokenModel
    from pyx_transformer.tokenizers.protocol import Reading, Tokenizer

# Tokens whose rows exist at a time, unless asked otherwise.
BATCH_TOKENS = 1 << 12


def read(
    function: str,
    name: str,
    model: TokenModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    longest: int | None = None,
    language: str | None = None,
    with_offsets: bool = False,
) -> Reading:
    """Texts as the model reads them. Those of more tokens than its positions reach are cut, with a
    warning, where the tokenizer's file says so, or longest does, which is how many are kept.

    Raises ValueError for one that is too long elsewhere.
    """
    limit, is_cut = model.config.longest, True
    if longest is not None:
        limit = min(limit, longest)
    elif tokenizer.truncates:
        limit = min(limit, math.inf if tokenizer.longest is None else tokenizer.longest)
    else:
        is_cut = False
    most = None if not is_cut or limit == math.inf else int(limit)
    found = tokenizer.read(texts, pairs, language=language, longest=most, with_offsets=with_offsets)
    if found.cut:
        warnings.warn(
            f"{function}: {len(found.cut)} of {len(texts)} {name} cut to {most} tokens: "
            f"{numbered('number', found.cut)}",
            stacklevel=3,
        )
    for i, ids in enumerate(found.ids):
        if len(ids) > limit:
            raise ValueError(
                f"{function}: {name}[{i}] has {len(ids)} tokens, expected at most {int(limit)}, as "
                "far as the model's positions reach"
            )
    return found


def batches(
    function: str, counts: Sequence[int], max_batch_tokens: int | None
) -> Iterator[NDArray[np.int64]]:
    """The numbers of texts of so many tokens, a batch at a time: of like length, and at most
    max_batch_tokens together, but at least one."""
    most = BATCH_TOKENS
    if max_batch_tokens is not None:
        most = as_integer(function, "max_batch_tokens", max_batch_tokens, minimum=1)
    lengths = np.asarray(counts, np.int64)
    order = np.argsort(-lengths, kind="stable")
    begin = total = 0
    for place, number in enumerate(order):
        if place > begin and total + lengths[number] > most:
            yield order[begin:place]
            begin, total = place, 0
        total += int(lengths[number])
    if len(order):
        yield order[begin:]
