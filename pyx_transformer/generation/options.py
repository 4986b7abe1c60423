"""Every setting of a generation, checked once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._fields import as_object
from pyx_transformer._keys import listed
from pyx_transformer._kinds import as_list, check_function
from pyx_transformer._reprs import described

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation.settings import Ids

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "num_samples", "seed")
# What belongs to one call: a model's directory cannot hold it.
OF_ONE_CALL = ("prefix", "logits_processor", "constraint", "on_token", "stop_when")


@described
@dataclass(frozen=True, repr=False)
class GenerationOptions:
    """How `generate` searches. docs/how-to/generate.md compares the rules with other engines'.

    A hypothesis is a sequence of token ids after the start; lengths count the tokens after its
    forced prefix. Of equal candidates the one with the lower token id comes first, then the one
    whose beam ranks first.

    Search. beam_size 1 is greedy. From the best beam_size * (1 + number of end tokens) candidates,
    end tokens among the first beam_size finish a hypothesis, and the first beam_size others go on.
    num_hypotheses: how many of the best to return, at most beam_size; with patience below 1 there
    may be fewer. max_length: 256, or as far as learned positions reach, unless given; what goes on
    until then is cut off, and ranks with what is finished. With max_length_factor a, the limit of a
    source of S tokens is a S + max_length_offset, rounded down, where that is less than max_length
    (fairseq's max_len_a and max_len_b), but at least 1 and min_length. min_length: no end before
    so many tokens.

    Score: the sum of log-probabilities, divided by length ** length_penalty; the end token counts
    (Wu et al. 2016 with the plain power). coverage_penalty c adds c sum_j log(min(sum_t a_tj, 1)),
    the last layer's cross-attention averaged over heads (same paper).

    early_stopping: with N = beam_size * patience hypotheses finished (Kasai et al. 2022), True
    stops (what max_length cuts in the same step still ranks with them); False stops when the best
    beam, scored as long as it is, cannot pass the N-th best of them; "never" asks the same of its
    score at max_length, if length_penalty is above 0.

    Logits, before the softmax, so that what is left adds up to 1: logits_processor(logits) takes
    (rows, V) float32 and returns such an array, or None if it changed that one; repetition_penalty
    r divides the positive logits of tokens there already, and multiplies the negative ones (Keskar
    et al. 2019); suppress_tokens, suppress_sequences, no_repeat_ngram_size and constraint(sentence,
    tokens) -> allowed ids, or None for all, ban tokens. end_tokens end a hypothesis in place of the
    config's end_id.

    start_token is before all hypotheses in place of the config's start_id.

    prefix: token ids per sentence that its hypotheses begin with, banned ones too. They are
    returned, but count in no score and no length; an empty source has the empty translation all the
    same. first_token: one id that all begin with where no prefix is given, in the same way, except
    that the length of a score counts it, as transformers does. With prefix_bias b they are not
    forced: as long as a hypothesis follows the prefix, the next token of it gets b + (1 - b) p and
    the others (1 - b) p, whatever bans it; all then counts.

    last_token: the only token left in the last step before the limit of a sentence, whatever bans
    it or leans elsewhere: its probability is 1, and it counts in lengths. An end token finishes the
    hypotheses there, so that none is cut off.

    Sampling, if any of temperature, top_k, top_p, min_p, num_samples, seed is given: logits are
    divided by temperature, of which 0 is another name for a top_k of 1; of the tokens in falling
    order of probability, top_k keeps the first ones, top_p as few as have that much of what is
    left, min_p those with at least that share of the first one's. num_samples hypotheses come in
    the order drawn. One counter-based generator (Philox) per sentence and sample is seeded with
    seed and the source, so that samples depend on nothing else: equal sources draw the same.
    Without a seed, each call draws anew. A sample that every token is banned from is left out, and
    where there is nothing to draw (an empty source, max_length 0) there is one hypothesis.

    return_alternatives: the num_hypotheses best tokens at the first free place, each continued by a
    search of its own.

    on_token(sentence, token) is called for each new token; with beams, for those on which all
    hypotheses in play agree. stop_when(sentence, tokens) -> True finishes that hypothesis. What
    these raise reaches the caller. tokens is the hypothesis so far, prefix included.

    return_scores, return_token_scores, return_attention: what a result has besides its sequence:
    see `Hypothesis`.

    max_batch_tokens: how many tokens, of sources (or prompts) and of the hypotheses as long as they
    may soon be, are held at once, 65,536 unless given; a sentence of more is decoded by itself.
    Sentences wait in the caller's order and take the places of those that end; results are the same
    to the bit.

    Raises TypeError or ValueError, naming the option, for wrong kinds and values and for options
    that contradict each other.
    """

    beam_size: int = 1
    num_hypotheses: int = 1
    max_length: int | None = None
    max_length_factor: float | None = None
    max_length_offset: float = 0.0
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = True
    patience: float = 1.0
    coverage_penalty: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: Ids = ()
    suppress_sequences: Sequence[Ids] = ()
    end_tokens: Ids | None = None
    first_token: int | None = None
    start_token: int | None = None
    last_token: int | None = None
    prefix: Sequence[Ids] | None = None
    prefix_bias: float = 0.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_samples: int | None = None
    seed: int | None = None
    logits_processor: Callable[[NDArray[np.float32]], ArrayLike | None] | None = None
    constraint: Callable[[int, NDArray[np.int64]], Iterable[int] | None] | None = None
    return_scores: bool = False
    return_token_scores: bool = False
    return_attention: bool = False
    return_alternatives: bool = False
    on_token: Callable[[int, int], object] | None = None
    stop_when: Callable[[int, NDArray[np.int64]], bool] | None = None
    max_batch_tokens: int | None = None

    def __post_init__(self):
        this = "GenerationOptions"
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            object.__setattr__(self, name, checked_option(this, name, value, field.default))
        if self.temperature == 0:
            object.__setattr__(self, "temperature", None)
            object.__setattr__(self, "top_k", 1)
        for name, contradicted in self._contradictions():
            raise ValueError(f"{this}: {name} is {getattr(self, name)!r}, expected {contradicted}")

    def _contradictions(self):
        if self.max_length is not None and self.min_length > self.max_length:
            yield "min_length", f"at most max_length = {self.max_length}"
        if not self.return_alternatives and self.num_hypotheses > self.beam_size:
            yield "num_hypotheses", f"at most beam_size = {self.beam_size}"
        if self.max_length_offset and self.max_length_factor is None:
            yield "max_length_offset", "0 because there is no max_length_factor"
        if self.prefix_bias and self.prefix is None:
            yield "prefix_bias", "0 because there is no prefix"
        if self.end_tokens == ():
            yield "end_tokens", "at least one token id, or None"
        if self.on_token is not None and self.branches > 1:
            yield "on_token", f"None because each sentence has {self.branches} searches"
        if not self.is_sampling:
            return
        reason = "because a sampling option is given"
        if self.beam_size > 1:
            yield "beam_size", f"1 {reason}"
        if self.return_alternatives:
            yield "return_alternatives", f"False {reason}"

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn, not chosen."""
        return any(getattr(self, name) is not None for name in SAMPLING)

    @property
    def branches(self) -> int:
        """Searches per sentence: samples, or alternatives, or one."""
        if self.is_sampling:
            return self.num_samples or 1
        return self.num_hypotheses if self.return_alternatives else 1

    @classmethod
    def chosen(
        cls,
        this: str,
        model: Any,
        options: GenerationOptions | None,
        settings: Mapping[str, object],
    ) -> GenerationOptions:
        """`options`, or else the model's, or else the defaults, with single settings changed."""
        for name, value in (
            ("options", options),
            ("generation_options", model.generation_options),
        ):
            if value is not None and not isinstance(value, cls):
                raise TypeError(
                    f"{this}: {name} is {_checks.brief(value)}, expected GenerationOptions"
                )
        known = {field.name for field in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise unknown_options(this, unknown, known)
        chosen: GenerationOptions = options or model.generation_options or DEFAULTS
        values: dict[str, Any] = {**settings}
        try:
            return replace(chosen, **values) if values else chosen
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("GenerationOptions", this, 1)) from error

    def start_of(self, config: Any) -> int | None:
        """The token before all hypotheses of a model with that config, None for none."""
        start: int | None = config.start_id
        return start if self.start_token is None else self.start_token

    def to_json(self) -> str:
        """What differs from the defaults, as a JSON object.

        Raises ValueError where an option of one call is set: a prefix or a function.
        """
        changed = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        if own := [name for name in OF_ONE_CALL if name in changed]:
            raise ValueError(
                f"GenerationOptions.to_json: {', '.join(own)} set, expected none of them because "
                "they belong to one call"
            )
        return json.dumps(changed, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GenerationOptions:
        """The options that `to_json` wrote. Raises ValueError for any other text."""
        this = "GenerationOptions.from_json"
        values = as_object(this, text)
        known = {field.name for field in fields(cls)} - set(OF_ONE_CALL)
        if unknown := values.keys() - known:
            shown = listed(map(repr, unknown))
            raise ValueError(f"{this}: unknown keys [{shown}]; known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error


# Least value of each integer, bounds of each number.
INTEGERS = {
    "beam_size": 1,
    "num_hypotheses": 1,
    "max_length": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "first_token": 0,
    "start_token": 0,
    "last_token": 0,
    "top_k": 1,
    "num_samples": 1,
    "seed": 0,
    "max_batch_tokens": 1,
}
NUMBERS = {
    "max_length_factor": {"above": 0},
    "max_length_offset": {},
    "length_penalty": {},
    "patience": {"above": 0},
    "coverage_penalty": {"minimum": 0},
    "repetition_penalty": {"above": 0},
    "prefix_bias": {"minimum": 0, "below": 1},
    "temperature": {"minimum": 0},
    "top_p": {"above": 0, "maximum": 1},
    "min_p": {"minimum": 0, "maximum": 1},
}


# What other libraries call them.
ELSEWHERE = {
    "num_beams": "beam_size",
    "beam_width": "beam_size",
    "n_best": "num_hypotheses",
    "num_return_sequences": "num_hypotheses",
    "max_new_tokens": "max_length",
    "max_decoding_length": "max_length",
    "sampling_temperature": "temperature",
    "sampling_topk": "top_k",
    "sampling_topp": "top_p",
    "bad_words_ids": "suppress_sequences",
}


def unknown_options(this: str, unknown: Sequence[str], known: Collection[str]) -> TypeError:
    """The error that names options that there are not, those that may be meant, and all."""
    near = (
        [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, known, 1)
        for name in unknown
    )
    meant = ", ".join(name for names in near for name in names if name in known)
    hint = f" (did you mean {meant}?)" if meant else ""
    return TypeError(f"{this}: unknown options {unknown}{hint}; known are {sorted(known)}")


def checked_option(this, name, value, default):
    if value is None and default is None:
        return None
    if name in INTEGERS:
        return _checks.as_integer(this, name, value, minimum=INTEGERS[name])
    if name in NUMBERS:
        return _checks.as_number(this, name, value, **NUMBERS[name])
    if name == "early_stopping":
        is_flag = isinstance(value, (bool, np.bool_))
        if not is_flag and not (isinstance(value, str) and value == "never"):
            error = ValueError if isinstance(value, str) else TypeError
            raise error(
                f"{this}: {name} is {_checks.brief(value)}, expected True, False or 'never'"
            )
        return bool(value) if is_flag else value
    if isinstance(default, bool):
        return _checks.as_flag(this, name, value)
    if name in ("suppress_tokens", "end_tokens"):
        return _token_ids(this, name, value)
    if name in ("suppress_sequences", "prefix"):
        return _sequences(this, name, value, shortest=0 if name == "prefix" else 1)
    check_function(this, name, value)
    return value


def _token_ids(this, name, value):
    ids = _checks.as_integers(this, name, value, 0, _checks.POSITION_LIMIT, ("tokens",))
    return tuple(ids.tolist())


def _sequences(this, name, value, shortest):
    given = as_list(this, name, value, "sequences of token ids")
    sequences = tuple(_token_ids(this, f"{name}[{i}]", ids) for i, ids in enumerate(given))
    for i, ids in enumerate(sequences):
        if len(ids) < shortest:
            raise ValueError(f"{this}: {name}[{i}] is empty, expected token ids")
    return sequences


DEFAULTS = GenerationOptions()
