"""The beginnings of texts to whole ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer._kinds import as_string, as_texts
from pyx_transformer._reprs import called
from pyx_transformer.generation import tokens_of
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pages import AttentionView
from pyx_transformer.pipelines.attending import of_reading
from pyx_transformer.pipelines.opened import opened
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.pipelines.reading import read
from pyx_transformer.pipelines.texts import KNOWN, as_text, best_of, end_of, generated, options_of
from pyx_transformer.tokenizers.protocol import tokenizer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from pyx_transformer.generated_text import GeneratedText, NBest
    from pyx_transformer.generation import Hypothesis
    from pyx_transformer.generation.settings import TextSettings

REPLACEMENT = "\ufffd"  # what a part of a character decodes to


class TextGenerator:
    """A language model that continues texts, with its tokenizer.

    `generate` gives each prompt with what follows, `stream` what follows one as it comes.
    """

    def __init__(self, model: str | os.PathLike[str] | TransformerLM):
        """model: a directory or name that `pt.load` opens, or a `TransformerLM` with a tokenizer.

        Raises what `load` does, TypeError for another model and ValueError for one without a
        tokenizer.
        """
        self.model = opened("TextGenerator", model, TransformerLM)
        self.tokenizer = tokenizer_of("TextGenerator", self.model, "tgt_tokenizer")

    def __repr__(self) -> str:
        return called(self, [repr(self.model), repr(self.tokenizer)])

    def generate(
        self, prompts: Sequence[str], **settings: Unpack[TextSettings]
    ) -> list[GeneratedText]:
        """Each prompt with the text that follows: a str with its score, tokens and more.

        settings: those of `GenerationOptions`, such as max_length=50, temperature=0.8, on top of
        the model's own, or `options` in their place. An empty prompt is the token that begins
        texts, where there is one.

        Raises TypeError where prompts are no list of strings, ValueError for prompts that are no
        Unicode or have more tokens than the model reads, and what `model.generate` does. Warns of
        prompts that were cut, where the tokenizer's file cuts them.
        """
        return best_of("generate", self.hypotheses(prompts, **settings), settings)

    def hypotheses(self, prompts: Sequence[str], **settings: Unpack[TextSettings]) -> list[NBest]:
        """The texts that begin with each prompt, the best or first drawn first: as `generate`, with
        num_hypotheses or num_samples of each."""
        this = "generate"
        prompts = as_texts(this, "prompts", prompts)
        options = options_of(this, self.model, settings, **KNOWN)
        if not prompts:
            return []
        ids, own, end = self._read(this, prompts), self.tokenizer, end_of(self.model, options)

        def text_of(number: int, one: Hypothesis) -> GeneratedText:
            prompt = ids[number]
            text = prompts[number] + self._behind(prompt, one.sequence)
            return as_text(text, one, end, own, own, prompt, len(prompt))

        with progress(len(prompts), "text") as done:
            completed = self.model.generate_as_completed(ids, options=options)
            return generated(len(prompts), completed, text_of, done)

    def stream(self, prompt: str, **settings: Unpack[TextSettings]) -> Iterator[str]:
        """The text after a prompt, a part at a time as it is generated.

        Together the parts are what `generate` gives behind the prompt. With beams a part comes when
        all that are in play agree on it. Raises as `generate` does, and ValueError for several
        texts.
        """
        this = "stream"
        prompt = as_string(this, "prompt", prompt)
        options = options_of(this, self.model, settings)
        if options.branches > 1:
            name = "num_samples" if options.is_sampling else "num_hypotheses"
            raise ValueError(
                f"{this}: {name} is {options.branches}, expected 1 because one text is streamed"
            )
        (ids,) = self._read(this, [prompt])
        return self._streamed(ids, tokens_of(this, self.model, ids, options))

    def _streamed(self, ids, tokens):
        beginning, sequence, shown = self.tokenizer.decode(ids), list(ids), 0
        text = ""
        for token in tokens:
            sequence.append(token)
            text = self._after(beginning, len(ids), sequence)
            if not text.endswith(REPLACEMENT) and len(text) > shown:
                yield text[shown:]
                shown = len(text)
        if len(text) > shown:
            yield text[shown:]

    def score(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The log-probability of every token of each text and of its end, float32: see
        `TransformerLM.score`. Raises as `generate` does."""
        this = "score"
        texts = as_texts(this, "texts", texts)
        return self.model.score(self._read(this, texts, "texts")) if texts else []

    def attention(self, text: str) -> AttentionView:
        """What each token of a text attends to, in every layer and head, the token that begins
        texts included where there is one. Raises as `generate` does, and ValueError for a text
        without tokens, or of more than a page has room for."""
        this = "attention"
        text = as_string(this, "text", text)
        (ids,) = self._read(this, [text], "texts")
        return of_reading(this, self.model, self.tokenizer, ids, text)

    def _read(
        self, this: str, prompts: list[str], name: str = "prompts"
    ) -> list[NDArray[np.int64]]:
        """The ids of prompts; where one would have none, of the token that begins texts."""
        tokenizer = self.tokenizer
        found = read(this, name, self.model, tokenizer, prompts)
        if self.model.config.start_id is not None or all(map(len, found.ids)):
            return found.ids
        first = None
        if tokenizer.start_token is not None:
            first = tokenizer.token_id(tokenizer.start_token)
        if first is None:
            number = list(map(len, found.ids)).index(0)
            raise ValueError(
                f"{this}: {name}[{number}] is empty, expected a text because no token begins one"
            )
        return [ids if len(ids) else np.array([first], np.int64) for ids in found.ids]

    def _behind(self, ids: NDArray[np.int64], sequence: NDArray[np.int64]) -> str:
        """What the text of a sequence of ids has behind that of those that it begins with."""
        return self._after(self.tokenizer.decode(ids), len(ids), sequence)

    def _after(self, beginning: str, count: int, sequence: Any) -> str:
        """`_behind` where the text of the first ids, so many, is known."""
        text = self.tokenizer.decode(sequence)
        if text.startswith(beginning):
            return text[len(beginning) :]
        return self.tokenizer.decode(sequence[count:])
