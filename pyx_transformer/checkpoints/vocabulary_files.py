"""Vocabularies that stand without a tokenizer.json: what the package tokenizers makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import brief
from pyx_transformer._files import read_text
from pyx_transformer.tokenizers.listed import from_lines

if TYPE_CHECKING:
    from pyx_transformer.checkpoints.tokenizer_files import TokenizerFiles

WORD_PIECE = ("bert", "distilbert", "mpnet")
BYTE_PAIRS = ("gpt2", "roberta", "bart", "qwen2", "qwen3")
# Qwen's pre-tokenizer.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def word_piece(files: TokenizerFiles) -> Callable[[Any], Any]:
    """Words cut by punctuation, then the longest pieces from left to right (Wu et al. 2016)."""
    config, is_mpnet = files.config, files.kind == "mpnet"
    lower = config.flag("do_lower_case", True)
    chinese = config.flag("tokenize_chinese_chars", True)
    accents = config.flag("strip_accents", False) if "strip_accents" in config else None
    tokens = from_lines(read_text(files.directory / "vocab.txt", who="load: "))
    ids = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    numbered = files.numbered()
    first = files.token("cls_token", "<s>" if is_mpnet else "[CLS]")
    last = files.token("sep_token", "</s>" if is_mpnet else "[SEP]")
    unknown = files.token("unk_token", "[UNK]")
    others = [
        files.token("pad_token", "<pad>" if is_mpnet else "[PAD]"),
        files.token("mask_token", "<mask>" if is_mpnet else "[MASK]"),
    ]

    def make(library):
        made = library.Tokenizer(library.models.WordPiece(ids, unk_token=unknown))
        made.normalizer = library.normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lower
        )
        made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        made.decoder = library.decoders.WordPiece(prefix="##")
        add_tokens(library, made, numbered)
        for token in (first, last, unknown):
            if made.token_to_id(token) is None:
                raise ValueError(f"no token {brief(token)}")
        special = [token for token in (first, last, unknown, *others) if token in ids]
        made.add_special_tokens([library.AddedToken(token, special=True) for token in special])
        pair = [first, "$A", last, last, "$B", last]
        if not is_mpnet:
            pair = [f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"]
        made.post_processor = library.processors.TemplateProcessing(
            single=[first, "$A", last],
            pair=pair,
            special_tokens=[(token, made.token_to_id(token)) for token in (first, last)],
        )
        return made

    return make


def byte_pairs(files: TokenizerFiles) -> Callable[[Any], Any]:
    """Byte-pair encoding of bytes (Radford et al. 2019)."""
    ids = {token: i for i, token in enumerate(files.vocabulary("vocab.json")) if token}
    merges = read_merges(files)
    numbered = files.numbered()
    spaced = files.config.flag("add_prefix_space", False)
    is_qwen, is_framed = files.kind.startswith("qwen"), files.kind in ("roberta", "bart")
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token")
    usual = {name: "<|endoftext|>" for name in names[:3]}
    if is_framed:
        usual = dict(zip(names, ["<s>", "</s>", "<unk>", "<pad>", "<s>", "</s>"], strict=True))
    special = [files.own(name) or usual.get(name) for name in names]
    special += files.added()
    mask = files.own("mask_token") or ("<mask>" if is_framed else None)

    def make(library):
        made = library.Tokenizer(
            library.models.BPE(ids, merges, continuing_subword_prefix="", end_of_word_suffix="")
        )
        before = library.pre_tokenizers
        if is_qwen:
            made.normalizer = library.normalizers.NFC()
            made.pre_tokenizer = before.Sequence(
                [
                    before.Split(library.Regex(QWEN_WORDS), behavior="isolated"),
                    before.ByteLevel(add_prefix_space=spaced, use_regex=False),
                ]
            )
        else:
            made.pre_tokenizer = before.ByteLevel(add_prefix_space=spaced)
        made.decoder = library.decoders.ByteLevel()
        add_tokens(library, made, numbered)
        tokens = [token for token in dict.fromkeys(special) if token is not None]
        made.add_special_tokens([library.AddedToken(token, special=True) for token in tokens])
        if mask is not None:
            made.add_special_tokens([library.AddedToken(mask, lstrip=True, special=True)])
        if is_framed:
            first, last = (files.token(name, usual[name]) for name in ("cls_token", "sep_token"))
            made.post_processor = library.processors.RobertaProcessing(
                (last, made.token_to_id(last)),
                (first, made.token_to_id(first)),
                trim_offsets=True,
                add_prefix_space=spaced,
            )
        return made

    return make


def read_merges(files: TokenizerFiles) -> list[tuple[str, str]]:
    """The pairs of merges.txt, the first ones to be merged first."""
    lines = read_text(files.directory / "merges.txt", who="load: ").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        first, _, second = line.rstrip("\r").partition(" ")
        if not first or not second or " " in second:
            where = files.where("merges.txt")
            raise ValueError(f"{where}, line {number} is {brief(line)}, expected two tokens")
        merges.append((first, second))
    return merges


def add_tokens(library: Any, made: Any, numbered: dict[int, dict[str, Any]]) -> None:
    """Add tokens that have ids to a tokenizer of the library."""
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    for i, values in numbered.items():
        told = {name: values[name] for name in flags if isinstance(values.get(name), bool)}
        made.add_tokens([library.AddedToken(values["content"], **told)])
        got = made.token_to_id(values["content"])
        if got != i:
            raise ValueError(f"{brief(values['content'])} has the id {got}, expected {i}")
