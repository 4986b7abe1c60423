"""`python -m bench decode`: greedy and beam search, the Python of a step, the memory of a call."""

from __future__ import annotations

import functools
import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from types import ModuleType
from unittest import mock

import numpy as np
from cases import normal
from models import token_ids

import pyx_transformer as pt
from bench import footprint
from bench.rows import Bar, Benchmark, Figure, Missing, Row
from bench.timing import Contestant
from bench.translators import (
    SPECIAL,
    ids_of,
    load_ctranslate2,
    to_ctranslate2,
    to_marian,
    tokens_of,
)
from pyx_transformer import _runtime
from pyx_transformer.sizes import operations, row_weights

GREEDY, BEAM, TRAINED = "decode, greedy", "decode, beam 4", "decode, small model"
TEXTS, CORPUS = "translate, shipped model", "translate, a file"
CONFIG = pt.TransformerConfig(32_000, 32_000, position_layout="halves", max_length=128)
SOURCE, TARGET = 20, 64  # tokens of each sentence
BEAM_SIZE = 4
NEVER = -1e4  # as a logit
MEMORY_BATCH = 32

# The trained model: what its weights and vocabularies do not say.
TRAINED_CONFIG = pt.TransformerConfig(
    src_vocab_size=51,
    tgt_vocab_size=43,
    d_model=32,
    d_ff=128,
    norm_first=True,
    final_norm=True,
    position_layout="halves",
    position_frequencies="tensor2tensor",
    position_start=1,
)
TRAINED_FILES = ("model.safetensors", "source_vocabulary.txt", "target_vocabulary.txt")
LONGEST_WORD = 50

# What is translated with the shipped model: a few sentences in one call or each in one of its own,
# and a whole file.
SENTENCES, LINES = 100, 20_000
# CTranslate2 sorts the sentences of a call by length and takes so many at a time: the fastest of
# 32, 64, 128, 256 and 512, on this file.
THEIR_BATCH = 512


def rows():
    for group, beam_size, batches in ((GREEDY, 1, (1, 8, 32)), (BEAM, BEAM_SIZE, (1, 32))):
        for B in batches:
            yield Row(
                group,
                {"B": B, "S": SOURCE, "T": TARGET},
                partial(contestants, CONFIG, B, beam_size),
                flop=flop(CONFIG, B, beam_size),
                bytes=4 * step_weights(CONFIG) * TARGET,
                made=(B * TARGET, "tokens"),
                quick=group == GREEDY and B == 1,
            )
    for B in (1, 100):
        yield Row(TRAINED, {"B": B}, partial(trained_contestants, B), made=(B, "words"))
    for beam_size in (1, BEAM_SIZE):
        for B in (1, SENTENCES):
            yield Row(
                TEXTS,
                {"B": B, "beam": beam_size},
                partial(text_contestants, B, beam_size),
                made=(SENTENCES, "sentences"),
            )
    for beam_size in (1, BEAM_SIZE):
        yield Row(
            CORPUS,
            {"lines": LINES, "beam": beam_size},
            partial(corpus_contestants, beam_size),
            made=(LINES, "lines"),
        )


def step_weights(config):
    """How many weights one step reads: the decoder's, without keys and values of the memory."""
    return row_weights(config.decoder) + config.d_model * config.tgt_vocab_size


def flop(config, B, beam_size):
    """Of the encoder and of all steps; the first one has a single row per sentence."""
    steps = 1 + beam_size * (TARGET - 1)
    return operations(config.encoder, [SOURCE] * B) + 2 * B * steps * step_weights(config)


def contestants(config, B, beam_size, peers):
    """Token ids (B, TARGET) of the best translations. Beside a beam, our greedy search of B = 1."""
    model = our_model(config)
    src = sources(config, B)
    yield Contestant("ours", partial(generated, model, src, beam_size))
    if beam_size > 1 and B == 1:
        yield Contestant("greedy", partial(generated, model, src, 1), is_compared=False)
    if peers.ctranslate2:
        translator = ctranslate2_translator(config, peers.ctranslate2, peers.threads)
        yield Contestant("ctranslate2", partial(translated, translator, tokens_of(src), beam_size))
    if peers.transformers:
        theirs = marian(config, peers.transformers, peers.torch)
        ids = peers.torch.from_numpy(src)
        yield Contestant("transformers", partial(marian_generated, theirs, ids, beam_size))


@lru_cache(maxsize=1)
def our_model(config):
    """A model with random weights that never chooses a special token, so that nothing ends early.

    Its sub-layers are weaker than what they are added to: at full strength, so little of a token
    is left after all layers that translations are one token over and over. Its logits have a
    spread of 4: the best of 32,000 tokens has about a fifth of the probability.
    """
    rng = np.random.default_rng(0)
    model = pt.Transformer(config, rng=rng)
    state = model.state_dict()
    for name, array in state.items():
        if array.ndim == 1:
            array += normal(rng, *array.shape) / 10
        elif name.endswith(("out_proj.weight", "linear2.weight")):
            array *= 0.3
    shape = state["output_projection.weight"].shape
    state["output_projection.weight"] = 4 / np.float32(config.d_model**0.5) * normal(rng, *shape)
    state["output_projection.bias"][: len(SPECIAL)] = NEVER
    model.load_state_dict(state)
    return model


@lru_cache(maxsize=1)
def ctranslate2_translator(config, ctranslate2, threads):
    return to_ctranslate2(our_model(config), ctranslate2, threads)


@lru_cache(maxsize=1)
def marian(config, transformers, torch):
    return to_marian(our_model(config), transformers, torch)


def sources(config, B):
    return token_ids(np.random.default_rng(1), config.src_vocab_size, B, SOURCE)


def generated(model, src, beam_size):
    return np.stack(model.generate(src, beam_size=beam_size, max_length=TARGET).sequences)


def translated(translator, tokens, beam_size):
    results = translator.translate_batch(tokens, beam_size=beam_size, max_decoding_length=TARGET)
    return np.array([[int(token) for token in result.hypotheses[0]] for result in results])


def marian_generated(model, ids, beam_size):
    generation = model.generate(ids, num_beams=beam_size, max_new_tokens=TARGET, do_sample=False)
    return generation[:, 1:].numpy()  # without the start


# The trained model


def trained_contestants(B, peers):
    """Greedy translations of words, letters in and letters out."""
    folder = data_folder("aren")
    words = trained_words(folder, B)
    model = trained_model(folder)
    ids = {token: i for i, token in enumerate(model.src_vocabulary)}
    yield Contestant("ours", partial(transliterated, model, ids, words))
    if peers.ctranslate2:
        translator = load_ctranslate2(folder, peers.ctranslate2, peers.threads)

        def theirs():
            results = translator.translate_batch(
                words, beam_size=1, min_decoding_length=0, max_decoding_length=LONGEST_WORD
            )
            return ["".join(result.hypotheses[0]) for result in results]

        yield Contestant("ctranslate2", theirs)


def data_folder(name):
    """A folder of data, beside the repository or where the tests look for it."""
    data = os.environ.get("PYX_TRANSFORMER_TEST_DATA")
    folder = Path(data or footprint.REPOSITORY.parent / "shared" / "data") / name
    if not folder.is_dir():
        raise Missing(f"no data in {folder}; PYX_TRANSFORMER_TEST_DATA can name the folder above")
    return folder


@lru_cache(maxsize=1)
def trained_model(folder):
    with tempfile.TemporaryDirectory() as ours:
        for name in TRAINED_FILES:
            shutil.copyfile(folder / name, Path(ours) / name)
        (Path(ours) / "config.json").write_text(TRAINED_CONFIG.to_json())
        return pt.load(ours)


def trained_words(folder, number):
    """Random words of 3 to 10 letters of the source vocabulary."""
    vocabulary = (folder / TRAINED_FILES[1]).read_text(encoding="utf-8").split()
    letters = [token for token in vocabulary if token.isalpha()]
    rng = np.random.default_rng(1)
    return [list(rng.choice(letters, length)) for length in rng.integers(3, 11, number)]


def transliterated(model, ids, words):
    lengths = [len(word) for word in words]
    src = np.zeros((len(words), max(lengths)), np.int64)
    for row, word in zip(src, words, strict=True):
        row[: len(word)] = [ids[letter] for letter in word]
    generation = model.generate(src, lengths, max_length=LONGEST_WORD)
    return ["".join([model.tgt_vocabulary[i] for i in row]) for row in generation]


# The shipped model


@lru_cache(maxsize=1)
def shipped_model():
    return pt.load("en-ja")


def english(lines):
    """The first lines of the file that the shipped model was trained on, in its order."""
    path = data_folder("tanaka-en-ja") / "train.en"
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in itertools.islice(file, lines)]


def text_contestants(B, beam_size, peers):
    """Sentences as texts, B to a call; beside them the same as token ids, nothing suppressed."""
    model = shipped_model()
    texts = english(SENTENCES)
    ids = [model.src_tokenizer.encode(text) for text in texts]

    def calls(call, inputs):
        for i in range(0, SENTENCES, B):
            call(inputs[i : i + B], beam_size=beam_size)

    translate = pt.Translator(model).translate
    yield Contestant("ours", partial(calls, translate, texts), is_compared=False)
    yield Contestant("ids", partial(calls, model.generate, ids), is_compared=False)


def corpus_contestants(beam_size, peers):
    """A file's lines as token ids in one call. Sums in another order may turn a choice between two
    tokens: one sentence of the first hundred may come out otherwise."""
    model = shipped_model()
    ids = [model.src_tokenizer.encode(text) for text in english(LINES)]
    yield Contestant("ours", partial(model.generate, ids, beam_size=beam_size), is_compared=False)
    if peers.ctranslate2:
        translator = shipped_ctranslate2(peers.ctranslate2, peers.threads)
        theirs = partial(translated_lines, translator, beam_size=beam_size)
        ours = model.generate(ids[:SENTENCES], beam_size=beam_size).sequences
        pairs = zip(ours, theirs(ids[:SENTENCES]), strict=True)
        same = sum(list(one) == other for one, other in pairs)
        assert same >= SENTENCES - 1, f"{same} of {SENTENCES} sentences are CTranslate2's"
        yield Contestant("ctranslate2", partial(theirs, ids), is_compared=False)


@lru_cache(maxsize=1)
def shipped_ctranslate2(ctranslate2, threads):
    return to_ctranslate2(shipped_model(), ctranslate2, threads)


def translated_lines(translator, ids, beam_size):
    results = translator.translate_batch(
        tokens_of(ids), beam_size=beam_size, max_batch_size=THEIR_BATCH
    )
    return [ids_of(one.hypotheses[0]) for one in results]


# Figures


def python_microseconds(quick):
    """Of a greedy step at B = 1, outside the compiled calls: the median call, over its steps."""
    src = sources(CONFIG, 1)
    outside = []
    with timed_kernels() as compiled:
        model = our_model.__wrapped__(CONFIG)  # anew, so that its parts are timed ones
        for _ in range(4 if quick else 10):
            compiled.seconds = 0.0
            start = time.perf_counter()
            generated(model, src, 1)
            outside.append(time.perf_counter() - start - compiled.seconds)
    return 1e6 * median(outside[1:]) / TARGET


class Stopwatch:
    """Seconds inside calls of timed functions, those that one makes of another counted once."""

    def __init__(self):
        self.seconds = 0.0
        self._is_running = False

    def timed(self, function):
        """The function, with its calls timed. What the watch itself takes is not in them."""

        @functools.wraps(function)
        def call(*args, **kwargs):
            if self._is_running:
                return function(*args, **kwargs)
            self._is_running = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._is_running = False

        return call


@contextmanager
def timed_kernels():
    """A Stopwatch that times every compiled function inside the block.

    Methods too, but only of objects made there: compiled classes give way to subclasses.
    """
    watch = Stopwatch()
    kernels = ModuleType(_runtime.kernels.__name__)
    for name, value in vars(_runtime.kernels).items():
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            methods = {
                method: watch.timed(function)
                for method, function in vars(value).items()
                if callable(function) and not method.startswith("__")
            }
            value = type(name, (value,), {"__module__": kernels.__name__, **methods})
        elif callable(value):
            value = watch.timed(value)
        setattr(kernels, name, value)
    with mock.patch.object(_runtime, "kernels", kernels):
        yield watch


def memory_error(quick):
    """How far `memory_estimate` is from the peak of a call, measured in a process of its own."""
    paths = [str(footprint.REPOSITORY), str(footprint.REPOSITORY / "tests")]
    code = (
        f"import sys; sys.path += {paths}; from bench import decode; "
        f"print(decode.peak_of_estimate({pt.get_num_threads()}))"
    )
    # What one call gives back goes to the system at once: the next one cannot use it unseen.
    malloc = {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=footprint.PACKAGE.parent,  # where the same package is found
        env={**os.environ, **malloc},
    )
    return abs(float(answer.stdout) - 1)


def peak_of_estimate(threads):
    """The memory that a call takes at its peak, as a share of the estimate; NaN where unknown."""
    pt.set_num_threads(threads)
    model, src = our_model(CONFIG), sources(CONFIG, MEMORY_BATCH)
    model.generate(src[:1], beam_size=BEAM_SIZE, max_length=2)  # reads the weights, starts threads
    taken = peak_growth(partial(generated, model, src, BEAM_SIZE))
    return taken / model.memory_estimate(MEMORY_BATCH, SOURCE, TARGET, BEAM_SIZE)


def peak_growth(call):
    """Bytes that a call takes at its peak beyond what there is before it; NaN but on Linux."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return math.nan
    clear.write_text("5")  # the peak is now what there is
    before = peak_bytes()
    call()
    return peak_bytes() - before


def peak_bytes():
    """The most memory that this process has had, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)


def is_row(group, *batches):
    return lambda row: row.group == group and row.sizes["B"] in batches


def beside_ctranslate2(text, asked, group, *batches):
    """A bar: how many times faster than CTranslate2."""
    return Bar(
        f"{text}: CTranslate2",
        "x",
        asked,
        is_row(group, *batches),
        lambda result: result.ratio_to_best("ctranslate2"),
    )


BENCHMARK = Benchmark(
    "decode",
    rows=tuple(rows()),
    bars=(
        beside_ctranslate2("greedy, B = 1", 1.25, GREEDY, 1),
        Bar(
            "greedy, B = 1: share of the read bandwidth",
            "%",
            0.85,
            is_row(GREEDY, 1),
            lambda result: result.share,
        ),
        beside_ctranslate2("greedy, B = 8", 2.0, GREEDY, 8),
        beside_ctranslate2("greedy, B = 32", 1.8, GREEDY, 32),
        beside_ctranslate2("beam 4, B = 1", 1.8, BEAM, 1),
        Bar(
            "beam 4, B = 1: speed of greedy search",
            "%",
            0.75,
            is_row(BEAM, 1),
            lambda result: result.ratio("greedy"),
        ),
        beside_ctranslate2("beam 4, B = 32", 1.8, BEAM, 32),
        beside_ctranslate2("small model", 1.0, TRAINED, 1, 100),
        Bar(
            "texts: speed of token ids",
            "%",
            0.95,
            lambda row: row.group == TEXTS,
            lambda result: result.ratio("ids"),
        ),
        Bar(
            "20,000 lines in one call: CTranslate2",
            "x",
            1.5,
            lambda row: row.group == CORPUS,
            lambda result: result.ratio_to_best("ctranslate2"),
        ),
    ),
    figures=(
        Figure("Python of a greedy step, B = 1", "us", 100, python_microseconds),
        Figure("memory_estimate, beam 4, B = 32: off the peak by", "%", 0.1, memory_error),
    ),
)
