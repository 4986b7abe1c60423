"""Texts to texts of another language."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyx_transformer._checks import as_flag, brief
from pyx_transformer._kinds import as_string, as_texts
from pyx_transformer._reprs import called
from pyx_transformer.generated_text import GeneratedText
from pyx_transformer.pages import AttentionView
from pyx_transformer.pipelines.attending import of_translation
from pyx_transformer.pipelines.opened import opened
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.pipelines.reading import read
from pyx_transformer.pipelines.texts import KNOWN, as_text, best_of, end_of, generated, options_of
from pyx_transformer.tokenizers.protocol import shown, tokenizer_of
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from pyx_transformer.generated_text import NBest
    from pyx_transformer.generation import GenerationOptions, Hypothesis
    from pyx_transformer.generation.settings import TextSettings
    from pyx_transformer.tokenizers.protocol import Tokenizer

BEAM_SIZE = 4  # of a model that has no options of its own


class Translator:
    """A translator of texts: a model with an encoder and a decoder, and its tokenizers.

    `translate` gives the best translation of each text, `hypotheses` several.
    """

    def __init__(self, model: str | os.PathLike[str] | Transformer):
        """model: a directory or name that `pt.load` opens, or a `Transformer` with tokenizers.

        Raises what `load` does, TypeError for another model and ValueError for one without
        tokenizers.
        """
        self.model = opened("Translator", model, Transformer)
        self.source = tokenizer_of("Translator", self.model, "src_tokenizer")
        self.target = tokenizer_of("Translator", self.model, "tgt_tokenizer")

    def __repr__(self) -> str:
        return called(self, [repr(self.model)], {"source": self.source, "target": self.target})

    def translate(
        self,
        texts: Sequence[str],
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **settings: Unpack[TextSettings],
    ) -> list[GeneratedText]:
        """The translation of each text: a str with its score, tokens and more.

        src_lang, tgt_lang: the codes of languages where the model has several, such as "eng_Latn",
        "en_XX" or "en"; those of its files unless given. settings: those of `GenerationOptions`,
        such as beam_size=5, max_batch_tokens or return_attention=True, on top of the model's own,
        which are a beam_size of 4 where it has none, or `options` in their place.

        Raises TypeError where texts are no list of strings, ValueError for texts that are no
        Unicode or have more tokens than the model reads, for languages that it has not, and what
        `model.generate` does. Warns of texts that were cut, where the tokenizer's file cuts them.
        """
        found = self.hypotheses(texts, src_lang, tgt_lang, **settings)
        return best_of("translate", found, settings)

    def hypotheses(
        self,
        texts: Sequence[str],
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        *,
        spaced: bool = False,
        **settings: Unpack[TextSettings],
    ) -> list[NBest]:
        """The translations of each text, the best first.

        As `translate`, with num_hypotheses or num_samples of each. spaced: words stand between
        spaces in languages without them too.
        """
        this = "translate"
        as_flag(this, "spaced", spaced)
        texts = as_texts(this, "texts", texts)
        options = options_of(this, self.model, settings, beam_size=BEAM_SIZE, **KNOWN)
        ids, options = self._asked(this, texts, src_lang, tgt_lang, options)
        if not texts:
            return []
        source, target, end = self.source, self.target, end_of(self.model, options)

        def text_of(number: int, one: Hypothesis) -> GeneratedText:
            text = target.decode(one.sequence, spaced=spaced)
            return as_text(text, one, end, target, source, ids[number])

        with progress(len(texts), "text") as done:
            completed = self.model.generate_as_completed(ids, options=options)
            return generated(len(texts), completed, text_of, done)

    def score(
        self,
        texts: Sequence[str],
        translations: Sequence[str],
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> list[NDArray[np.float32]]:
        """The log-probability of every token of each translation (T,) and of its end, float32
        (T + 1,); with it that of a target's language where it is the first token. A translation is
        a text, or what `translate` or `hypotheses` gave, of which its own tokens count.

        Raises as `translate` does, and ValueError where there are not as many of both.
        """
        this = "score"
        texts = as_texts(this, "texts", texts)
        translations = as_texts(this, "translations", translations)
        if len(texts) != len(translations):
            raise ValueError(
                f"{this}: translations has {len(translations)} entries, expected {len(texts)} "
                "because texts has as many"
            )
        options = options_of(this, self.model, {})
        ids, options = self._asked(this, texts, src_lang, tgt_lang, options)
        if not texts:
            return []
        if options.start_token not in (None, self.model.config.start_id):
            raise ValueError(
                f"{this}: tgt_lang is {tgt_lang!r}, expected the language that the model's targets "
                "start with"
            )
        targets = [self._written(text, options, ()) for text in translations]
        for text, target in zip(translations, targets, strict=True):
            # The end, which is scored anyway; there is none where stop_when said so.
            if isinstance(text, GeneratedText) and target[-1:] == [end_of(self.model, options)]:
                target.pop()
        return self.model.score(ids, targets)

    def attention(
        self,
        text: str,
        translation: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **settings: Unpack[TextSettings],
    ) -> AttentionView:
        """What the model attends to as it reads a text and writes a translation, the best one that
        it finds unless given: encoder, decoder and cross-attention of every layer and head.

        A row of the decoder is named after the token that is written there, the end included, and
        attends to those before it. A translation is what `translate` or `hypotheses` gave, or a
        text, which has spaces between its words where the tokenizer's tokens are words, in Japanese
        too. settings: as for `translate`, of the translation that is found. Raises as `translate`
        does, and ValueError for a text without tokens, or of more than a page has room for.
        """
        this = "attention"
        text = as_string(this, "text", text)
        options = options_of(this, self.model, settings, beam_size=BEAM_SIZE, **KNOWN)
        (source,), options = self._asked(this, [text], src_lang, tgt_lang, options)
        end = (options.end_tokens or (self.model.config.end_id,))[:1]
        if translation is None:
            best = self.model.generate([source], options=options).hypotheses[0][0]
            assert best.token_scores is not None  # of the end too, where there is one
            written = [*best.sequence, *end][: len(best.token_scores)]
        else:
            written = self._written(as_string(this, "translation", translation), options, end)
        start = options.start_of(self.model.config)
        assert start is not None
        return of_translation(
            this, self.model, (self.source, self.target), source, [start, *written], text
        )

    def _written(
        self, translation: str, options: GenerationOptions, end: Iterable[int]
    ) -> list[int]:
        """The ids of a translation with what is before and after it; those of a generated text are
        those of its tokens, since words that were put together cannot be taken apart."""
        if isinstance(translation, GeneratedText):
            found = list(map(self.target.token_id, translation.tokens))
            ids = [one for one in found if one is not None]
            if len(ids) == len(found):
                return ids
        first = () if options.first_token is None else (options.first_token,)
        return [*first, *self.target.encode(translation), *end]

    def _asked(
        self,
        this: str,
        texts: list[str],
        src_lang: str | None,
        tgt_lang: str | None,
        options: GenerationOptions,
    ) -> tuple[list[NDArray[np.int64]], GenerationOptions]:
        """The ids of texts and the options, as these languages have them."""
        language, target = languages_of(this, self.source, src_lang, tgt_lang)
        if self.source.languages is None and (src_lang is not None or tgt_lang is not None):
            task = task_of(this, self.source, src_lang, tgt_lang)
            texts = [task + text for text in texts]
        found = read(this, "texts", self.model, self.source, texts, language=language)
        languages = self.source.languages
        if target is None:
            if (
                languages is not None
                and languages.target == "first"
                and options.first_token is None
            ):
                raise ValueError(
                    f"{this}: tgt_lang is None, expected one of {shown(languages.tokens)}"
                )
            return found.ids, options
        first = self.target.token_id(target)
        if first is None:
            raise ValueError(f"{this}: tgt_lang is {tgt_lang!r}, which the target's tokens lack")
        if languages is not None and languages.target == "start":
            return found.ids, replace(options, start_token=first)
        return found.ids, replace(options, first_token=first)


def languages_of(
    this: str, tokenizer: Tokenizer, src_lang: str | None, tgt_lang: str | None
) -> tuple[str | None, str | None]:
    """The token of a language that stands in the source, and the one that the target begins with.
    Raises ValueError where a language is missing that the model has to be told, or given that it
    has not."""
    languages = tokenizer.languages
    if languages is None:
        return None, None
    target = languages.token(this, "tgt_lang", tgt_lang, languages.default_target)
    if languages.target == "source":
        if src_lang is not None:
            raise ValueError(
                f"{this}: src_lang is {brief(src_lang)}, expected None because the model is told "
                "the target's language only"
            )
        return target, None
    source = languages.token(this, "src_lang", src_lang, languages.default_source)
    if source is None:
        raise ValueError(f"{this}: src_lang is None, expected one of {shown(languages.tokens)}")
    return source, target


def task_of(this: str, tokenizer: Tokenizer, src_lang: str | None, tgt_lang: str | None) -> str:
    """What T5's files put before texts to translate. Raises ValueError for languages that they do
    not name."""
    name = f"translation_{src_lang}_to_{tgt_lang}"
    if name not in tokenizer.prompts:
        known = [task for task in tokenizer.prompts if task.startswith("translation_")]
        expected = f"those of {', '.join(known)}" if known else "None of both"
        raise ValueError(
            f"{this}: src_lang and tgt_lang are {brief(src_lang)} and {brief(tgt_lang)}, expected "
            f"{expected} because the model's files name no other languages"
        )
    return tokenizer.prompts[name]
