"""`python -m bench decode`: greedy and beam search, the Python of a step, the memory of a call."""

from __future__ import annotations

import functools
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
from models import randomised, token_ids

import pyx_transformer as pt
from bench import encoder, footprint
from bench.rows import Bar, Benchmark, Figure, Missing, Row
from bench.timing import Contestant
from pyx_transformer import _runtime

REPOSITORY = Path(__file__).resolve().parents[1]
GREEDY, BEAM, TRAINED = "decode, greedy", "decode, beam 4", "decode, small model"
# Hugging Face's Marian is always post-norm with ReLU in reach, and its sines come before cosines.
CONFIG = pt.TransformerConfig(32_000, 32_000, position_layout="halves", max_length=128)
SOURCE, TARGET = 20, 64  # tokens of each sentence
BEAM_SIZE = 4
SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2
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


def step_weights(config):
    """How many weights one step reads: the decoder's, without keys and values of the memory."""
    d_model = config.d_model
    layer = 6 * d_model**2 + 2 * d_model * config.d_ff
    return config.num_decoder_layers * layer + d_model * config.tgt_vocab_size


def flop(config, B, beam_size):
    """Of the encoder and of all steps; the first one has a single row per sentence."""
    model = (config.num_encoder_layers, config.d_model, config.num_heads, config.d_ff)
    steps = 1 + beam_size * (TARGET - 1)
    return encoder.flop(model, [SOURCE] * B) + 2 * B * steps * step_weights(config)


def contestants(config, B, beam_size, peers):
    """Token ids (B, TARGET) of the best translations. Beside a beam, our greedy search of B = 1."""
    model = our_model(config)
    src = sources(config, B)
    yield Contestant("ours", partial(generated, model, src, beam_size))
    if beam_size > 1 and B == 1:
        yield Contestant("greedy", partial(generated, model, src, 1), is_compared=False)
    if peers.ctranslate2:
        translator = converted(config, peers.ctranslate2, peers.threads)
        tokens = [[str(i) for i in row] for row in src]
        yield Contestant("ctranslate2", partial(translated, translator, tokens, beam_size))
    if peers.transformers:
        theirs = marian(config, peers.transformers, peers.torch)
        ids = peers.torch.from_numpy(src)
        yield Contestant("transformers", partial(marian_generated, theirs, ids, beam_size))


@lru_cache(maxsize=1)
def our_model(config):
    """A model with random weights, which never chooses one of the special tokens."""
    model = randomised(pt.Transformer(config, rng=0))
    state = model.state_dict()
    state["output_projection.bias"][: len(SPECIAL)] = NEVER
    model.load_state_dict(state)
    return model


def sources(config, B):
    return token_ids(np.random.default_rng(1), config.src_vocab_size, B, SOURCE)


def generated(model, src, beam_size):
    return np.stack(model.generate(src, beam_size=beam_size, max_length=TARGET).sequences)


# CTranslate2


@lru_cache(maxsize=1)
def converted(config, ctranslate2, threads):
    """CTranslate2's translator with our weights, in float32."""
    spec = ctranslate2_spec(our_model(config), ctranslate2.specs)
    with tempfile.TemporaryDirectory() as folder:
        spec.validate()
        spec.save(folder)
        return load_translator(ctranslate2, folder, threads)


def load_translator(ctranslate2, folder, threads):
    return ctranslate2.Translator(
        str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
    )


def ctranslate2_spec(model, specs):
    """The model as CTranslate2 saves it; the token of an id is its decimal number."""
    config, state = model.config, model.state_dict()

    def linear(part, name, rows=slice(None)):
        part.weight, part.bias = state[f"{name}weight"][rows], state[f"{name}bias"][rows]

    def norm(part, name):
        part.gamma, part.beta = state[f"{name}weight"], state[f"{name}bias"]

    spec = specs.TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers), config.num_heads, pre_norm=False
    )
    for side, last_norm in (("encoder", "norm2"), ("decoder", "norm3")):
        stack = getattr(spec, side)
        stack.position_encodings.encodings = positions(config)
        for i, layer in enumerate(stack.layer):
            name = f"{side}.layers.{i}."
            linear(layer.self_attention.linear[0], f"{name}self_attn.in_proj_")
            linear(layer.self_attention.linear[1], f"{name}self_attn.out_proj.")
            norm(layer.self_attention.layer_norm, f"{name}norm1.")
            linear(layer.ffn.linear_0, f"{name}linear1.")
            linear(layer.ffn.linear_1, f"{name}linear2.")
            norm(layer.ffn.layer_norm, f"{name}{last_norm}.")
            if side == "decoder":
                queries, others = slice(config.d_model), slice(config.d_model, None)
                linear(layer.attention.linear[0], f"{name}multihead_attn.in_proj_", queries)
                linear(layer.attention.linear[1], f"{name}multihead_attn.in_proj_", others)
                linear(layer.attention.linear[2], f"{name}multihead_attn.out_proj.")
                norm(layer.attention.layer_norm, f"{name}norm2.")
    spec.encoder.embeddings[0].weight = state["src_embedding.weight"]
    spec.decoder.embeddings.weight = state["tgt_embedding.weight"]
    linear(spec.decoder.projection, "output_projection.")
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    tokens = [*SPECIAL, *map(str, range(len(SPECIAL), config.tgt_vocab_size))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    return spec


def positions(config):
    return pt.sinusoidal_positions(config.max_length, config.d_model, layout=config.position_layout)


def translated(translator, tokens, beam_size):
    results = translator.translate_batch(tokens, beam_size=beam_size, max_decoding_length=TARGET)
    return np.array([[int(token) for token in result.hypotheses[0]] for result in results])


# Hugging Face


@lru_cache(maxsize=1)
def marian(config, transformers, torch):
    """Hugging Face's Marian with our weights."""
    transformers.logging.set_verbosity_error()
    settings = transformers.MarianConfig(
        vocab_size=config.src_vocab_size,
        d_model=config.d_model,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff,
        activation_function=config.activation,
        max_position_embeddings=config.max_length,
        scale_embedding=config.scale_embeddings,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index("<unk>"),  # no batch here is padded
        decoder_start_token_id=config.start_id,
        eos_token_id=config.end_id,
        forced_eos_token_id=None,
    )
    with torch.device("meta"):  # the weights come from outside
        model = transformers.MarianMTModel(settings)
    state = {name: torch.from_numpy(array) for name, array in marian_state(our_model(config))}
    model.load_state_dict(state, assign=True)
    return model.eval()


def marian_state(model):
    """The parameters as Hugging Face names them."""
    norms = {
        "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
        "decoder": {
            "norm1": "self_attn_layer_norm",
            "norm2": "encoder_attn_layer_norm",
            "norm3": "final_layer_norm",
        },
    }
    names = {"linear1": "fc1", "linear2": "fc2", "multihead_attn": "encoder_attn"}
    state = model.state_dict()
    yield "lm_head.weight", state.pop("output_projection.weight")
    yield "final_logits_bias", state.pop("output_projection.bias")[None]
    for side, embedding in (("encoder", "src_embedding"), ("decoder", "tgt_embedding")):
        yield f"model.{side}.embed_tokens.weight", state.pop(f"{embedding}.weight")
        yield f"model.{side}.embed_positions.weight", positions(model.config)
    for name, array in state.items():
        side, layers, i, part, rest = name.split(".", 4)
        part = {**names, **norms[side]}.get(part, part)
        prefix = f"model.{side}.{layers}.{i}.{part}"
        if rest.startswith("in_proj_"):
            for projection, rows in zip("qkv", np.split(array, 3), strict=True):
                yield f"{prefix}.{projection}_proj.{rest.removeprefix('in_proj_')}", rows
        else:
            yield f"{prefix}.{rest}", array


def marian_generated(model, ids, beam_size):
    generation = model.generate(ids, num_beams=beam_size, max_new_tokens=TARGET, do_sample=False)
    return generation[:, 1:].numpy()


# The trained model


def trained_contestants(B, peers):
    """Greedy translations of words, letters in and letters out."""
    folder = trained_folder()
    words = trained_words(folder, B)
    yield Contestant("ours", partial(transliterated, trained_model(folder), words))
    if peers.ctranslate2:
        translator = load_translator(peers.ctranslate2, folder, peers.threads)

        def theirs():
            results = translator.translate_batch(
                words, beam_size=1, min_decoding_length=0, max_decoding_length=LONGEST_WORD
            )
            return ["".join(result.hypotheses[0]) for result in results]

        yield Contestant("ctranslate2", theirs)


def trained_folder():
    """The folder of the trained model, beside the repository or where the tests look for it."""
    data = os.environ.get("PYX_TRANSFORMER_TEST_DATA")
    folder = Path(data or REPOSITORY.parent / "shared" / "data") / "aren"
    if not folder.is_dir():
        raise Missing(f"no trained model in {folder}; PYX_TRANSFORMER_TEST_DATA can name its place")
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


def transliterated(model, words):
    ids = {token: i for i, token in enumerate(model.src_vocabulary)}
    lengths = [len(word) for word in words]
    src = np.zeros((len(words), max(lengths)), np.int64)
    for row, word in zip(src, words, strict=True):
        row[: len(word)] = [ids[letter] for letter in word]
    generation = model.generate(src, lengths, max_length=LONGEST_WORD)
    return ["".join([model.tgt_vocabulary[i] for i in row]) for row in generation]


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
    """Sums up the seconds inside calls of functions; a call inside a call is part of it."""

    def __init__(self):
        self.seconds = 0.0
        self._is_running = False

    def timed(self, function):
        """The function, with its calls timed. What the watch itself takes is outside them."""

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
    """The kernels, with every compiled function and method timed by the Stopwatch given.

    Objects made before are not: compiled classes are replaced by subclasses of them.
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
    paths = [str(REPOSITORY), str(REPOSITORY / "tests")]
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
    """The peak of a call beyond what there is before it, as a share of the estimate.

    NaN where the system does not tell the peak.
    """
    model, src = our_model(CONFIG), sources(CONFIG, MEMORY_BATCH)
    pt.set_num_threads(threads)
    model.generate(src[:1], beam_size=BEAM_SIZE, max_length=2)  # reads the weights, starts threads
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak_bytes()
        generated(model, src, BEAM_SIZE)
        peak = peak_bytes()
    except OSError:
        return float("nan")
    return (peak - before) / model.memory_estimate(MEMORY_BATCH, SOURCE, TARGET, BEAM_SIZE)


def peak_bytes():
    """The most memory that this process has had, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)


def is_row(group, *batches):
    return lambda row: row.group == group and row.sizes["B"] in batches


def to_ctranslate2(text, asked, *rows):
    """A bar: how many times faster than CTranslate2."""
    return Bar(
        f"{text}: CTranslate2", "x", asked, is_row(*rows), lambda r: r.ratio_to_best("ctranslate2")
    )


BENCHMARK = Benchmark(
    "decode",
    rows=tuple(rows()),
    bars=(
        to_ctranslate2("greedy, B = 1", 1.25, GREEDY, 1),
        Bar(
            "greedy, B = 1: share of the read bandwidth",
            "%",
            0.85,
            is_row(GREEDY, 1),
            lambda result: result.share,
        ),
        to_ctranslate2("greedy, B = 8", 2.0, GREEDY, 8),
        to_ctranslate2("greedy, B = 32", 1.8, GREEDY, 32),
        to_ctranslate2("beam 4, B = 1", 1.8, BEAM, 1),
        Bar(
            "beam 4, B = 1: speed of greedy search",
            "%",
            0.75,
            is_row(BEAM, 1),
            lambda result: result.ratio("greedy"),
        ),
        to_ctranslate2("beam 4, B = 32", 1.8, BEAM, 32),
        to_ctranslate2("small model", 1.0, TRAINED, 1, 100),
    ),
    figures=(
        Figure("Python of a greedy step, B = 1", "us", 100, python_microseconds),
        Figure("memory_estimate, beam 4, B = 32: off the peak by", "%", 0.1, memory_error),
    ),
)
