"""Texts to vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer._checks import as_choice, as_flag, as_integer
from pyx_transformer._files import as_path
from pyx_transformer._kinds import as_string, as_texts
from pyx_transformer._reprs import called
from pyx_transformer.checkpoints import is_shipped
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pages import AttentionView
from pyx_transformer.pipelines.attending import of_reading
from pyx_transformer.pipelines.opened import opened
from pyx_transformer.pipelines.pooling import POOLINGS, normalized
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.pipelines.reading import batches, read
from pyx_transformer.pipelines.sentence_modules import SentenceModules, model_folder, read_modules
from pyx_transformer.tokenizers.protocol import tokenizer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyx_transformer.tokenizers.protocol import Reading


class SentenceEncoder:
    """A model that gives one vector for each text (Reimers and Gurevych 2019).

    `encode` takes texts to (N, dimension) float32.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | EncoderModel | TransformerLM,
        *,
        pooling: str | None = None,
    ):
        """model: a directory, with what sentence-transformers has written beside the model, or an
        `EncoderModel` or `TransformerLM` with a tokenizer. pooling: one of cls, mean, max, last,
        weighted_mean, mean_sqrt_len, in place of what the directory says, which is the mean unless
        it says anything.

        Raises what `load` does, TypeError or ValueError, naming the file, for what is malformed
        beside the model, TypeError for another model and ValueError for one without a tokenizer.
        """
        this = "SentenceEncoder"
        self.modules = SentenceModules()
        if isinstance(model, (str, os.PathLike)) and not is_shipped(model):
            directory = as_path(this, "model", model)
            self.modules = read_modules(directory)
            model = model_folder(directory)
        found: Any = opened(this, model, EncoderModel, TransformerLM)
        self.model: EncoderModel | TransformerLM = found
        side = "src_tokenizer" if isinstance(self.model, EncoderModel) else "tgt_tokenizer"
        self.tokenizer = tokenizer_of(this, self.model, side)
        if self.modules.cuts and self.modules.longest is None:
            limits = [self.model.config.longest, self.tokenizer.longest or np.inf]
            self.modules.longest = None if min(limits) == np.inf else int(min(limits))
        if pooling is not None:
            self.modules.poolings = (as_choice(this, "pooling", pooling, tuple(POOLINGS)),)
        width = self.model.config.d_model * len(self.modules.poolings)
        for dense in self.modules.dense:
            if dense.linear.in_features != width:
                raise ValueError(
                    f"{this}: a dense map takes vectors of {dense.linear.in_features}, expected "
                    f"{width}, as many as what is before it gives"
                )
            width = dense.linear.out_features

    def __repr__(self) -> str:
        return called(self, [repr(self.model), repr(self.tokenizer)], {"dimension": self.dimension})

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        if self.modules.dense:
            return self.modules.dense[-1].linear.out_features
        return self.model.config.d_model * len(self.modules.poolings)

    def encode(
        self,
        texts: Sequence[str],
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        *,
        max_batch_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """The vectors of texts, (N, dimension) float32, in their order.

        normalize: whether each is divided by its length; as the directory says unless given.
        truncate_dim: how many numbers of each are kept; what is divided by its length because
        normalize is True is so after that. prompt: the name of one of the directory's prompts, or
        a text to put before each; its default prompt unless given. max_batch_tokens: how many are
        computed at a time, 4,096 unless given; a text's vector is the same to the bit in any batch.

        Raises TypeError where texts are no list of strings, ValueError for texts that are no
        Unicode or have more tokens than the model reads. Warns of texts that were cut because the
        directory says so.
        """
        this = "encode"
        texts = as_texts(this, "texts", texts)
        if normalize is not None:
            normalize = as_flag(this, "normalize", normalize)
        if truncate_dim is not None:
            truncate_dim = as_integer(this, "truncate_dim", truncate_dim, 1, self.dimension)
        before = self._prompt(this, prompt)
        out = np.zeros((len(texts), self.dimension), np.float32)
        found = self._read(this, [before + text for text in texts])
        skipped = 0
        if before and not self.modules.with_prompt:
            skipped = self._tokens_of_prompt(before)
        with progress(len(texts), "text") as done:
            for numbers in batches(this, [len(ids) for ids in found.ids], max_batch_tokens):
                out[numbers] = self._vectors(this, found, numbers, skipped)
                done(len(numbers))
        if self.modules.normalize and normalize is not False:
            out = normalized(out)
        if truncate_dim is not None:
            out = np.ascontiguousarray(out[:, :truncate_dim])
        return normalized(out) if normalize else out

    def attention(self, text: str, prompt: str | None = None) -> AttentionView:
        """What each token of a text attends to, in every layer and head; prompt: as for `encode`.
        Raises as that does, and ValueError for a text without tokens, or of more than a page has
        room for."""
        this = "attention"
        text = self._prompt(this, prompt) + as_string(this, "text", text)
        (ids,) = self._read(this, [text]).ids
        return of_reading(this, self.model, self.tokenizer, ids, text)

    def _prompt(self, this: str, prompt: str | None) -> str:
        """The text of a prompt."""
        name = self.modules.default_prompt if prompt is None else prompt
        if name is None:
            return ""
        return self.modules.prompts.get(name, as_string(this, "prompt", name))

    def _read(self, this: str, texts: list[str]) -> Reading:
        if self.modules.lower:
            texts = [text.lower() for text in texts]
        return read(this, "texts", self.model, self.tokenizer, texts, longest=self.modules.longest)

    def _tokens_of_prompt(self, prompt: str) -> int:
        """How many tokens a text begins with because of its prompt: all but what ends a text."""
        prompt = prompt.lower() if self.modules.lower else prompt
        whole = self.tokenizer.read([prompt]).ids[0]
        plain = self.tokenizer.encode(prompt)
        behind = 0
        while behind < len(whole) - len(plain) and not np.array_equal(
            whole[len(whole) - len(plain) - behind : len(whole) - behind], plain
        ):
            behind += 1
        return len(whole) - behind

    def _vectors(
        self, this: str, found: Reading, numbers: NDArray[np.int64], skipped: int
    ) -> NDArray[np.float32]:
        """The vectors of the texts of these numbers."""
        ids = [found.ids[i] for i in numbers]
        counts = np.array(list(map(len, ids)), np.int64)
        real = counts > 0  # a text may have no token where a tokenizer adds none
        out = np.zeros((len(ids), self.dimension), np.float32)
        if not real.any():
            return out
        rows, sources = self.model.rows_of(this, [one for one in ids if len(one)])
        counts = sources.counts
        parts = []
        for name in self.modules.poolings:
            # The first token is that of the whole text.
            before = np.minimum(0 if name == "cls" else skipped, counts - 1)
            parts.append(pooled(name, rows, sources.starts + before, counts - before, before))
        vectors = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        for dense in self.modules.dense:
            vectors = dense.apply(vectors)
        out[real] = vectors
        return out


def pooled(
    name: str,
    rows: NDArray[np.float32],
    begin: NDArray[np.int64],
    length: NDArray[np.int64],
    before: NDArray[np.int64],
) -> NDArray[np.float32]:
    """A pooling of the rows from begin[b] on, length[b] of them, for each text b, which has
    before[b] rows before those."""
    if int(length.sum()) != len(rows):  # of other rows than all
        places = np.concatenate([np.arange(b, b + n) for b, n in zip(begin, length, strict=True)])
        rows, begin = rows[places], np.cumsum(length) - length
    return POOLINGS[name](rows, begin, length, before)
