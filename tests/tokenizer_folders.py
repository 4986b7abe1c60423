"""Small tokenizers in the layout of the library transformers, made of texts and vocabularies of the
test data; each of a family, whose directories hold the same files."""

import importlib
import io
import json
import re
from collections import Counter
from functools import cache

import pytest

from pyx_transformer.checkpoints import tokenizer_files
from pyx_transformer.checkpoints.fields import Fields

NLLB = ["deu_Latn", "eng_Latn", "jpn_Jpan"]
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT_IDS = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
TABLE = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


class Sources:
    """What the folders are made of, each made once."""

    def __init__(self, shared_data):
        self.data = shared_data
        self.lines = [
            line
            for name in ("train.en", "train.ja")
            for line in (shared_data / "tanaka-en-ja" / name).read_text("utf-8").split("\n")[:2000]
        ]
        self.spm = cache(self._spm)

    def _spm(self, size, **options):
        """A SentencePiece model of the lines."""
        package = pytest.importorskip("sentencepiece", reason="needs the extra `text`")
        model = io.BytesIO()
        package.SentencePieceTrainer.Train(
            sentence_iterator=iter(self.lines),
            model_writer=model,
            vocab_size=size,
            minloglevel=2,
            num_threads=1,
            character_coverage=0.98,
            **options,
        )
        return model.getvalue()

    def words(self, special):
        """The lines of a vocab.txt."""
        words = Counter(re.findall(r"\w+|[^\w\s]", " ".join(self.lines).lower()))
        characters = sorted({*"".join(words), "é", "[", "]", "/", "<", ">", "F", "N"})
        known = dict.fromkeys([*special, *characters, *(f"##{c}" for c in characters)])
        known |= dict.fromkeys(word for word, _ in words.most_common(500))
        return "".join(f"{token}\n" for token in known)

    def merges(self, count=1500):
        """GPT-2's first merges, and the tokens that they make."""
        lines = (self.data / "gpt2-vocab/vocab.bpe").read_text("utf-8").split("\n")[: 1 + count]
        known = json.loads((self.data / "gpt2-vocab/encoder.json").read_text("utf-8"))
        made = {line.replace(" ", "") for line in lines[1:]}
        tokens = [token for token, i in known.items() if i < 256 or token in made]
        return "\n".join(lines) + "\n", tokens


def pieces_of(model):
    """The pieces of a SentencePiece model."""
    package = pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    processor = package.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]


def numbered(tokens):
    """A table of ids."""
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def write(folder, **files):
    """Write files, whose names have two underscores for a dot: bytes, text, or values for JSON."""
    for name, content in files.items():
        if isinstance(content, str):
            content = content.encode()
        elif not isinstance(content, bytes):
            content = json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(content)


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert(folder, sources, **config):
    write(folder, vocab__txt=sources.words(BERT), tokenizer_config__json=config)


def mpnet(folder, sources):
    words = sources.words(("<s>", "<pad>", "</s>", "<unk>", "[UNK]"))
    write(folder, vocab__txt=words + "<mask>\n")


def gpt2(folder, sources, **config):
    merges, tokens = sources.merges()
    ids = numbered([*tokens, "<|endoftext|>"])
    write(folder, vocab__json=ids, merges__txt=merges, tokenizer_config__json=config)


def qwen2(folder, sources):
    merges, tokens = sources.merges()
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    table = {
        str(len(tokens) + i): {"content": token, "special": True, **TABLE}
        for i, token in enumerate(added)
    }
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    config |= {"additional_special_tokens": added[1:], "added_tokens_decoder": table}
    write(folder, vocab__json=numbered(tokens), merges__txt=merges, tokenizer_config__json=config)


def roberta(folder, sources):
    merges, tokens = sources.merges()
    ids = numbered(["<s>", "<pad>", "</s>", "<unk>", *tokens, "<mask>"])
    write(folder, vocab__json=ids, merges__txt=merges)


def marian(folder, sources):
    """Two models with one vocabulary, that lacks a piece of the first."""
    models = [sources.spm(size) for size in (600, 500)]
    first, second = (pieces_of(model)[3:] for model in models)
    tokens = ["</s>", "<unk>", ">>ja<<", ">>de<<", *first[:50], *first[51:], *second, "<pad>"]
    write(folder, source__spm=models[0], target__spm=models[1], vocab__json=numbered(tokens))


def marian_of_two(folder, sources):
    models = [sources.spm(size) for size in (600, 500)]
    first, second = (pieces_of(model)[3:] for model in models)
    write(
        folder,
        source__spm=models[0],
        target__spm=models[1],
        vocab__json=numbered(["</s>", "<unk>", ">>ja<<", *first, "<pad>"]),
        target_vocab__json=numbered(["</s>", "<unk>", *second, "<pad>"]),
        tokenizer_config__json={"separate_vocabs": True},
    )


def t5(folder, sources, **config):
    model = (sources.data / "t5-spm/t5_tokenizer_base.model").read_bytes()
    write(folder, spiece__model=model, tokenizer_config__json=config)


def mt5(folder, sources):
    write(folder, spiece__model=sources.spm(600, **T5_IDS))
    write(folder, tokenizer_config__json={"extra_ids": 0})


def albert(folder, sources, **config):
    model = sources.spm(600, control_symbols="[CLS],[SEP],[MASK]", **ALBERT_IDS)
    write(folder, spiece__model=model, tokenizer_config__json=config)


def xlm_roberta(folder, sources):
    write(folder, sentencepiece__bpe__model=sources.spm(600))


def published_codes(family, some):
    """The codes of languages that a class in transformers expects, or some where it is missing."""
    name = f"transformers.models.{family}.tokenization_{family}"
    try:
        return importlib.import_module(name).FAIRSEQ_LANGUAGE_CODES
    except ImportError:
        return some


def m2m(folder, sources):
    model = sources.spm(600, model_type="bpe")
    ids = numbered(["<s>", "<pad>", "</s>", "<unk>", *pieces_of(model)[3:]])
    write(folder, sentencepiece__bpe__model=model, vocab__json=ids)
    known = published_codes("m2m_100", {"m2m100": ("de", "en", "ja")})["m2m100"]
    codes = [f"__{code}__" for code in known]
    write(folder, special_tokens_map__json={"additional_special_tokens": codes})
    write(folder, tokenizer_config__json={"src_lang": "en", "tgt_lang": "ja"})


def nllb(folder, sources, **config):
    write(folder, sentencepiece__bpe__model=sources.spm(600, model_type="bpe"))
    write(folder, special_tokens_map__json={"additional_special_tokens": NLLB})
    config = {"src_lang": "eng_Latn", "tgt_lang": "jpn_Jpan", **config}
    write(folder, tokenizer_config__json=config)


def mbart(folder, sources, version=""):
    codes = published_codes(f"mbart{version}", ["de_DE", "en_XX", "ja_XX"])
    config = {"src_lang": "en_XX", "tgt_lang": "ja_XX"}
    config["tokenizer_class"] = f"MBart{version}Tokenizer"
    write(folder, sentencepiece__bpe__model=sources.spm(600), tokenizer_config__json=config)
    write(folder, special_tokens_map__json={"additional_special_tokens": codes})


LLAMA = {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False}
LLAMA["normalization_rule_name"] = "identity"


def llama(folder, sources, **config):
    write(folder, tokenizer__model=sources.spm(900, **LLAMA))
    config = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", **config}
    write(folder, tokenizer_config__json={"unk_token": "<unk>", **config})


# The model_type, the class in transformers, and what makes the files.
FAMILIES = {
    "bert": ("bert", "BertTokenizer", bert),
    "bert-cased": ("bert", "BertTokenizer", lambda *to: bert(*to, do_lower_case=False)),
    "bert-accents": ("bert", "BertTokenizer", lambda *to: bert(*to, strip_accents=False)),
    "bert-cased-stripped": (
        "bert",
        "BertTokenizer",
        lambda *to: bert(*to, do_lower_case=False, strip_accents=True),
    ),
    "bert-chinese": (
        "bert",
        "BertTokenizer",
        lambda *to: bert(*to, tokenize_chinese_chars=False),
    ),
    "distilbert": ("distilbert", "DistilBertTokenizer", bert),
    "mpnet": ("mpnet", "MPNetTokenizer", mpnet),
    "gpt2": ("gpt2", "GPT2Tokenizer", gpt2),
    "gpt2-spaced": ("gpt2", "GPT2Tokenizer", lambda *to: gpt2(*to, add_prefix_space=True)),
    "qwen2": ("qwen2", "Qwen2Tokenizer", qwen2),
    "roberta": ("roberta", "RobertaTokenizer", roberta),
    "bart": ("bart", "BartTokenizer", roberta),
    "marian": ("marian", "MarianTokenizer", marian),
    "marian-of-two": ("marian", "MarianTokenizer", marian_of_two),
    "t5": ("t5", "T5Tokenizer", t5),
    "t5-7": ("t5", "T5Tokenizer", lambda *to: t5(*to, extra_ids=7)),
    "mt5": ("mt5", "T5Tokenizer", mt5),
    "albert": ("albert", "AlbertTokenizer", albert),
    "albert-cased": ("albert", "AlbertTokenizer", lambda *to: albert(*to, do_lower_case=False)),
    "xlm-roberta": ("xlm-roberta", "XLMRobertaTokenizer", xlm_roberta),
    "m2m": ("m2m_100", "M2M100Tokenizer", m2m),
    "nllb": ("m2m_100", "NllbTokenizer", nllb),
    "nllb-legacy": ("m2m_100", "NllbTokenizer", lambda *to: nllb(*to, legacy_behaviour=True)),
    "mbart": ("mbart", "MBartTokenizer", mbart),
    "mbart50": ("mbart", "MBart50Tokenizer", lambda *to: mbart(*to, version="50")),
    "llama": ("llama", "LlamaTokenizer", llama),
    "llama-end": ("llama", "LlamaTokenizer", lambda *to: llama(*to, add_eos_token=True)),
}


def opened(folder, kind):
    """The tokenizers of a folder's source and target."""
    return tokenizer_files.read(folder, kind, Fields({}, f"load: {folder}"))


def language_of(tokenizer):
    """The token of its default source, where texts have one."""
    languages = tokenizer.languages
    if languages is None or languages.source is None:
        return None
    return languages.token("test", "src_lang", None, languages.default_source)
