"""What every tokenizer has, and how models read texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pyx_transformer import _checks
from pyx_transformer._keys import shortened
from pyx_transformer._reprs import called, counted, described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@described
@dataclass(repr=False)
class Reading:
    """Texts as a model reads them, a list entry for each: ids (T,) int64 with special tokens.

    types: token types, where pairs were read. Of those that were asked for with_offsets: offsets
    (T, 2), begin and end of each token in its text; words (T,), the number of the word that each
    is of, -1 for special tokens. cut: which texts were cut because they were too long.
    """

    ids: list[NDArray[np.int64]]
    types: list[NDArray[np.int64]] | None = None
    offsets: list[NDArray[np.int64]] = field(default_factory=list)
    words: list[NDArray[np.int64]] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


@described
@dataclass(frozen=True, repr=False)
class Languages:
    """The languages of a model: the token of each by its code.

    source: where the token of the source's language stands, "before" the text, "after" its end, or
    None. target: what that of the target's language is: the "first" token that is generated, the
    "start" before it, or the first token of the "source". default_source, default_target: codes.
    """

    tokens: Mapping[str, str]
    source: str | None = None
    target: str = "first"
    default_source: str | None = None
    default_target: str | None = None

    def __post_init__(self):
        this = "Languages"
        if not isinstance(self.tokens, Mapping) or not all(
            isinstance(one, str) for pair in self.tokens.items() for one in pair
        ):
            raise TypeError(f"{this}: tokens is {_checks.brief(self.tokens)}, expected texts")
        _checks.as_choice(this, "source", self.source, (None, "before", "after"))
        _checks.as_choice(this, "target", self.target, ("first", "start", "source"))

    def token(self, function: str, name: str, code: object, default: str | None) -> str | None:
        """The token of a code, of the default where it is None. Raises ValueError for a code that
        there is not, its name being src_lang or tgt_lang."""
        code = default if code is None else code
        if code is None:
            return None
        if not isinstance(code, str) or code not in self.tokens:
            raise ValueError(
                f"{function}: {name} is {_checks.brief(code)}, expected one of {shown(self.tokens)}"
            )
        return self.tokens[code]


@described
@dataclass(frozen=True, repr=False)
class Frame:
    """The special tokens around a text: begin, end, and between those of a pair, whose second text
    has tokens of type 1 if types."""

    begin: Sequence[str] = ()
    end: Sequence[str] = ()
    between: Sequence[str] = ()
    types: bool = False

    def __post_init__(self):
        for name in ("begin", "end", "between"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(isinstance(s, str) for s in value):
                raise TypeError(f"Frame: {name} is {_checks.brief(value)}, expected tokens")
            object.__setattr__(self, name, tuple(value))
        _checks.as_flag("Frame", "types", self.types)


def shown(codes: Iterable[str]) -> str:
    """Codes of languages in a message, the first ones if there are many."""
    codes = list(codes)
    return ", ".join(codes[:12]) + (f" and {len(codes) - 12} more" if len(codes) > 12 else "")


def as_settings(value: Languages | Frame | None) -> dict[str, Any] | None:
    """What JSON holds of one of these."""
    return None if value is None else asdict(value)


def told(
    function: str, start_token: Any, longest: Any, prompts: Any
) -> tuple[str | None, int | None, dict[str, str]]:
    """These arguments of a tokenizer. Raises TypeError or ValueError for what they cannot be."""
    if start_token is not None:
        _checks.as_kind(function, "start_token", start_token, str)
    if longest is not None:
        longest = _checks.as_size(function, "longest", longest)
    prompts = {} if prompts is None else dict(_checks.as_kind(function, "prompts", prompts, dict))
    if not all(isinstance(one, str) for pair in prompts.items() for one in pair):
        raise TypeError(f"{function}: prompts is {_checks.brief(prompts)}, expected texts")
    return start_token, longest, prompts


class Tokenizer(Protocol):
    """What `encode`s a text as ids and `decode`s ids as a text, and `read`s as a model does."""

    @property
    def kind(self) -> str:
        """What kind of tokenizer this is."""

    @property
    def unknown_id(self) -> int | None:
        """What stands for what the vocabulary lacks, None where nothing does."""

    @property
    def start_id(self) -> int | None:
        """The config's start_id, None where that is not the tokenizer's to say."""

    @property
    def end_id(self) -> int | None:
        """The config's end_id, None where that is not the tokenizer's to say."""

    @property
    def languages(self) -> Languages | None:
        """Those that the model tells apart."""

    @property
    def start_token(self) -> str | None:
        """What may begin a text, None where nothing does."""

    @property
    def truncates(self) -> bool:
        """Whether texts that are too long are to be cut."""

    @property
    def longest(self) -> int | None:
        """How many tokens it was made for."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts to put before others, by the names of tasks."""

    @property
    def never_generated(self) -> tuple[int, ...]:
        """Ids that a model must not generate."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def vocabulary(self) -> list[str]:
        """The token of every id."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text, without start and end; unknown_id for what the vocabulary lacks."""

    def read(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        language: str | None = None,
        longest: int | None = None,
        with_offsets: bool = False,
    ) -> Reading:
        """Texts, or pairs of texts, as a model reads them: with special tokens.

        language: the token of one, to stand where `languages` say. longest: how many tokens are
        kept, special ones included; of a pair the longer text is cut first.
        """

    def decode(self, ids: Iterable[int], *, spaced: bool = False) -> str:
        """The text of these ids, without special tokens; spaced: words, or characters where those
        are the tokens, stand between spaces, as scores of translations count them."""

    def spaced(self, text: str) -> str:
        """A text as `decode(..., spaced=True)` gives it, were all of it in the vocabulary."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""

    def token_id(self, token: str) -> int | None:
        """The id of a token, None for one that there is not."""

    @property
    def settings(self) -> dict[str, Any]:
        """What there is to know besides `files`, for JSON; the kind is among it."""

    def files(self) -> dict[str, bytes]:
        """What is saved, by the endings of the files' names, and with `settings` is all there is to
        know."""


class Sized:
    """What shows how many tokens it has or, where that cannot be told, why."""

    vocab_size: Any

    def __repr__(self) -> str:
        try:
            words = [counted(self.vocab_size, "token")]
        except (ImportError, ValueError) as error:
            words = [shortened(str(error))]
        language = getattr(self, "language", "")
        return called(self, words, {"language": language} if language else None)


METHODS = ("encode", "read", "decode", "files")


def tokenizer_of(function: str, model: object, attribute: str) -> Tokenizer:
    """A model's tokenizer of that name. Raises ValueError where it has none, TypeError where it is
    something else."""
    tokenizer: Tokenizer | None = getattr(model, attribute, None)
    if tokenizer is None:
        raise ValueError(
            f"{function}: model has no {attribute}, expected one of pyx_transformer.text, or files "
            "of one in its directory"
        )
    return as_tokenizer(function, attribute, tokenizer)


def as_tokenizer(function: str, name: str, value: Tokenizer) -> Tokenizer:
    """`value`, if it has what a tokenizer has."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in METHODS):
        raise TypeError(
            f"{function}: {name} is {_checks.brief(value)}, expected one of pyx_transformer.text"
        )
    return value


class Vocabulary:
    """The attribute `src_vocabulary` or `tgt_vocabulary` of a model, beside its tokenizer.

    Its value is the list of the tokenizer's tokens. A list of tokens of which no more is known may
    be set in the tokenizer's place, and None for neither.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.tokenizer = name.replace("vocabulary", "tokenizer")

    def __get__(self, model: object, owner: type | None = None) -> list[str] | None:
        if model is None:
            return self  # type: ignore[return-value]
        tokenizer = getattr(model, self.tokenizer, None)
        return vars(model).get(self.name) if tokenizer is None else tokenizer.vocabulary

    def __set__(self, model: object, tokens: list[str] | None) -> None:
        setattr(model, self.tokenizer, None)
        vars(model)[self.name] = tokens
