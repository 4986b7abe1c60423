"""The tokenizers in a directory of transformers: which files there are, and what they leave to the
classes of that library to say."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import LARGEST_SIZE, brief
from pyx_transformer._files import read_bytes
from pyx_transformer.checkpoints.fields import Fields, read_fields, read_values
from pyx_transformer.checkpoints.vocabulary_files import (
    BYTE_PAIRS,
    WORD_PIECE,
    byte_pairs,
    word_piece,
)
from pyx_transformer.tokenizers.fast import FastTokenizer
from pyx_transformer.tokenizers.pieces import Pieces
from pyx_transformer.tokenizers.protocol import Frame, Languages

if TYPE_CHECKING:
    from pyx_transformer.tokenizers.protocol import Tokenizer

FAST = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
# Tokens of languages, and what is their code.
LANGUAGE = re.compile(
    r"__(?P<m2m>[a-z]{2,3})__|(?P<nllb>[a-z]{3}_[A-Z][a-z]{3})|(?P<mbart>[a-z]{2}_[A-Z]{2})"
)
# Those of M2M-100 and of its successor for WMT 2021 in the order of their ids, which files that
# transformers 5 wrote do not list.
M2M_CODES = {
    "m2m100": "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga "
    "gd gl gu ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml "
    "mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn "
    "tr uk ur uz vi wo xh yi yo zh zu",
    "wmt21": "en ha is ja cs ru zh de",
}
NO_LIMIT = 10**9  # lengths from here on mean that there is none


class TokenizerFiles:
    """The files of a directory whose config.json is of a model_type.

    Raises ValueError, naming the file, for what is malformed.
    """

    def __init__(self, directory: Path, kind: str):
        self.directory = directory
        self.kind = kind
        self.config = read_fields(directory / CONFIG)
        self.special = read_fields(directory / SPECIAL)

    def json(self, name: str) -> dict[str, Any]:
        """The table in a JSON file."""
        return read_values(self.directory / name)

    def has(self, *names: str) -> bool:
        """Whether all of these files are there."""
        return all((self.directory / name).exists() for name in names)

    def bytes(self, name: str) -> bytes:
        """All of a file."""
        return read_bytes(self.directory / name, who="load: ")

    def where(self, name: str) -> str:
        """What an error about a file begins with."""
        return f"load: {self.directory / name}"

    def own(self, name: str) -> str | None:
        """A special token, such as eos_token, as the directory has it."""
        found = (text_of(fields.values.get(name)) for fields in (self.config, self.special))
        return next((token for token in found if token is not None), None)

    def token(self, name: str, default: str) -> str:
        """A special token, or what it is in the library's class."""
        found = self.own(name)
        return default if found is None else found

    def added(self) -> list[str]:
        """The special tokens that are none of the usual ones."""
        for fields in (self.config, self.special):
            for name in ("extra_special_tokens", "additional_special_tokens"):
                values = fields.values.get(name)
                if isinstance(values, list) and values:
                    return [value for value in map(text_of, values) if value]
        if self.has(FAST):
            values = self.json(FAST).get("added_tokens")
            if isinstance(values, list):
                return [value for value in map(text_of, values) if value]
        return []

    def numbered(self) -> dict[int, dict[str, Any]]:
        """The tokens that are added to a vocabulary, each with what else is said of it, by ids."""
        fields = self.config.table("added_tokens_decoder")
        name, values = CONFIG, {} if fields is None else dict(fields.values)
        if not values and self.has(ADDED):
            name, values = ADDED, {str(i): token for token, i in self.json(ADDED).items()}
        found = {}
        for i, value in values.items():
            token = text_of(value)
            if token is None or not re.fullmatch("[0-9]{1,9}", i):
                raise ValueError(
                    f"{self.where(name)} adds {brief(value)} by {brief(i)}, expected tokens by ids"
                )
            found[int(i)] = {**(value if isinstance(value, dict) else {}), "content": token}
        return dict(sorted(found.items()))

    @property
    def longest(self) -> int | None:
        """The most tokens that a text may have."""
        value = self.config.values.get("model_max_length")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        return int(value) if 1 <= value < NO_LIMIT else None

    def vocabulary(self, name: str) -> list[str]:
        """The tokens of a JSON file of ids by their places, "" for ids that have none."""
        values = self.json(name)
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in values.values()):
            raise ValueError(f"{self.where(name)} has ids that are no whole numbers from 0 on")
        size = 1 + max(values.values(), default=-1)
        if size > min(2 * len(values) + 1000, LARGEST_SIZE):
            raise ValueError(
                f"{self.where(name)} has {len(values)} tokens and ids up to {size - 1}, expected "
                "fewer that stand for nothing"
            )
        tokens = [""] * size
        for token, i in values.items():
            tokens[i] = token
        return tokens


def text_of(value: object) -> str | None:
    """A token, or the table that is made of one."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read(directory: Path, kind: str, config: Fields) -> tuple[Tokenizer | None, Tokenizer | None]:
    """The tokenizers of a source, or a text, and of a target; None where there are no files of any
    that is known. config: the values of config.json. Raises ValueError for what is malformed."""
    try:
        files = TokenizerFiles(directory, kind)
        if kind == "marian":
            return marian(files)
        prompts = prompts_of(config)
        found = fast(files, prompts) or by_pieces(files, prompts) or by_vocabulary(files)
    except (TypeError, ValueError) as error:
        said = str(error)
        raise ValueError(
            said if said.startswith("load: ") else f"load: {directory}: {said}"
        ) from error
    return found, found


def prompts_of(config: Fields) -> dict[str, str]:
    """What T5's tasks put before a text, by their names."""
    tasks = config.values.get("task_specific_params")
    if not isinstance(tasks, dict):
        return {}
    prefixes = {name: task.get("prefix") for name, task in tasks.items() if isinstance(task, dict)}
    return {name: prefix for name, prefix in prefixes.items() if isinstance(prefix, str)}


# SentencePiece, with the package of that name.


def marian(files: TokenizerFiles) -> tuple[Tokenizer | None, Tokenizer | None]:
    """source.spm and target.spm, whose pieces are looked up in vocab.json, or each in its own."""
    if not files.has("source.spm", "target.spm", "vocab.json"):
        return None, None
    end, pad = files.token("eos_token", "</s>"), files.token("pad_token", "<pad>")
    tokens = files.vocabulary("vocab.json")
    own = files.has("target_vocab.json")
    codes = {t[2:-2]: t for t in tokens if t.startswith(">>") and t.endswith("<<")}
    languages = Languages(codes, None, "source") if codes else None
    values: dict[str, Any] = {
        "unknown": files.token("unk_token", "<unk>"),
        "special": [end, pad],
        "frame": Frame(end=[end]),
        "languages": languages,
    }
    source = pieces(files, "source.spm", tokens, **values)
    tokens = files.vocabulary("target_vocab.json") if own else tokens
    return source, pieces(files, "target.spm", tokens, **values)


def pieces(
    files: TokenizerFiles,
    name: str,
    vocabulary: list[str] | Callable[[list[str]], list[str]],
    **values: Any,
) -> Pieces:
    """The pieces of a model."""
    return Pieces(
        files.bytes(name),
        vocabulary,
        where=files.where(name),
        longest=files.longest,
        start_token=files.own("bos_token"),
        **values,
    )


def by_pieces(files: TokenizerFiles, prompts: dict[str, str]) -> Tokenizer | None:
    """A tokenizer of a SentencePiece model alone, or with a vocab.json."""
    for name in ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"):
        if files.kind in BY_PIECES and files.has(name):
            return BY_PIECES[files.kind](files, name, prompts=prompts)
    return None


def extended(tokens: list[str], others: Iterable[str]) -> list[str]:
    """Tokens, and behind them those of others that are not among them."""
    known = set(tokens)
    return [*tokens, *(token for token in others if token not in known)]


def t5(files: TokenizerFiles, name: str, **values: Any) -> Pieces:
    """Raffel et al. 2020: pieces with their own ids, then sentinels from the last to the first."""
    count = files.config.size("extra_ids", 100 if files.kind == "t5" else 0, minimum=0)
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(count))]
    return pieces(
        files,
        name,
        lambda own: extended(own, sentinels),
        unknown="<unk>",
        special=["<pad>", "</s>"],
        frame=Frame(end=["</s>"], between=["</s>"]),
        sentinels=True,
        **values,
    )


def albert(files: TokenizerFiles, name: str, **values: Any) -> Pieces:
    """Lan et al. 2020: text without accents and, unless told otherwise, in lower case."""
    if files.config.flag("keep_accents", False):
        raise ValueError(f"{files.config.where}: keep_accents is True, expected False")
    first, end = files.token("cls_token", "[CLS]"), files.token("sep_token", "[SEP]")
    others = (files.token("pad_token", "<pad>"), files.token("mask_token", "[MASK]"))
    return pieces(
        files,
        name,
        list,
        unknown="<unk>",
        special=[first, end, *others],
        frame=Frame([first], [end], [end], types=True),
        normalize="albert" if files.config.flag("do_lower_case", True) else "albert-cased",
        **values,
    )


def fairseq(files: TokenizerFiles, name: str, **values: Any) -> Pieces:
    """XLM-R, mBART and NLLB: four special tokens, the pieces behind SentencePiece's own three, the
    languages, and the mask."""
    codes: list[str] = []
    languages, frame = None, Frame(["<s>"], ["</s>"], ["</s>", "</s>"])
    if files.kind != "xlm-roberta":
        codes = [token for token in files.added() if LANGUAGE.fullmatch(token)]
        languages, frame = languages_of(files, codes), Frame(end=["</s>"])
    return pieces(
        files,
        name,
        lambda own: ["<s>", "<pad>", "</s>", "<unk>", *own[3:], *codes, "<mask>"],
        unknown="<unk>",
        special=["<s>", "<pad>", "</s>", "<mask>", *codes],
        frame=frame,
        languages=languages,
        **values,
    )


def m2m(files: TokenizerFiles, name: str, **values: Any) -> Pieces:
    """Fan et al. 2021: pieces looked up in vocab.json, and languages behind them; or NLLB."""
    if not files.has("vocab.json"):
        return fairseq(files, name, **values)
    tokens = files.vocabulary("vocab.json")
    codes = [token for token in files.added() if LANGUAGE.fullmatch(token)]
    if not codes:
        known = files.config.choice("language_codes", M2M_CODES, "m2m100")
        codes = [f"__{code}__" for code in known.split()]
    return pieces(
        files,
        name,
        extended(tokens, codes),
        unknown="<unk>",
        special=["<s>", "<pad>", "</s>", *codes],
        frame=Frame(end=["</s>"]),
        languages=languages_of(files, codes),
        **values,
    )


def llama(files: TokenizerFiles, name: str, **values: Any) -> Pieces:
    """LLaMA, Mistral and Gemma: pieces with their own ids, a token before each text."""
    usual = ("<bos>", "<eos>") if files.kind == "gemma2" else ("<s>", "</s>")
    first, last = map(files.token, ("bos_token", "eos_token"), usual)
    pad = files.own("pad_token")
    begin = [first] if files.config.flag("add_bos_token", True) else []
    end = [last] if files.config.flag("add_eos_token", False) else []
    return pieces(
        files,
        name,
        list,
        unknown=files.token("unk_token", "<unk>"),
        special=[first, last, *([] if pad is None else [pad])],
        frame=Frame(begin, end, [*end, *begin]),
        **values,
    )


BY_PIECES: dict[str, Callable[..., Pieces]] = {
    "t5": t5,
    "mt5": t5,
    "umt5": t5,
    "albert": albert,
    "xlm-roberta": fairseq,
    "mbart": fairseq,
    "m2m_100": m2m,
    "llama": llama,
    "mistral": llama,
    "gemma2": llama,
}


def languages_of(files: TokenizerFiles, tokens: Iterable[str]) -> Languages | None:
    """The languages of these tokens, and where mBART, M2M-100 and NLLB put them."""
    codes = {}
    for token in tokens:
        found = LANGUAGE.fullmatch(token)
        if found is not None:
            codes[found["m2m"] or token] = token
    if not codes:
        return None
    name = str(files.config.values.get("tokenizer_class", ""))
    is_first_mbart = files.kind == "mbart" and not name.startswith("MBart50")
    is_behind = is_first_mbart or files.config.flag("legacy_behaviour", False)
    defaults = (files.config.values.get(f"{side}_lang") for side in ("src", "tgt"))
    source, target = (code if code in codes else None for code in defaults)
    place = "after" if is_behind else "before"
    return Languages(codes, place, "start" if is_first_mbart else "first", source, target)


# The package tokenizers.


def fast(files: TokenizerFiles, prompts: dict[str, str]) -> Tokenizer | None:
    """What tokenizer.json says; None where there is none, or where its package is missing and
    SentencePiece can do."""
    if not files.has(FAST):
        return None
    is_there = importlib.util.find_spec("tokenizers") is not None
    if not is_there and files.kind in BY_PIECES and by_pieces(files, prompts) is not None:
        return None
    languages = frame = None
    if files.kind in ("mbart", "m2m_100"):
        languages, frame = languages_of(files, files.added()), Frame(end=["</s>"])
    return FastTokenizer(
        files.bytes(FAST),
        frame=frame,
        languages=languages,
        start_token=files.own("bos_token"),
        longest=files.longest,
        prompts=prompts,
        where=files.where(FAST),
    )


def by_vocabulary(files: TokenizerFiles) -> Tokenizer | None:
    """WordPiece's vocab.txt, or the vocab.json and merges.txt of byte-pair encoding."""
    make: Callable[[Any], Any]
    if files.kind in WORD_PIECE and files.has("vocab.txt"):
        name, make = "vocab.txt", word_piece(files)
    elif files.kind in BYTE_PAIRS and files.has("vocab.json", "merges.txt"):
        name, make = "vocab.json", byte_pairs(files)
    else:
        return None
    return FastTokenizer(
        make,
        start_token=files.own("bos_token"),
        longest=files.longest,
        where=files.where(name),
    )
