"""Models of Marian (Junczys-Dowmunt et al. 2018) as it saves them: a .npz with its options in it.

Its decoder starts with an embedding of zeros, which no token has: here that is one more token, the
start_id, whose probability is 0 wherever one is asked for. Matrices are (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyx_transformer._checks import brief
from pyx_transformer._files import read_text
from pyx_transformer.checkpoints import flat_yaml, npz
from pyx_transformer.checkpoints.families.parts import post_norm, pre_norm, refuse
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.models import new_model
from pyx_transformer.checkpoints.tensors import Renaming, Tensor, check_size, check_state
from pyx_transformer.config import TransformerConfig
from pyx_transformer.description import (
    AttentionConfig,
    FeedForwardConfig,
    NormConfig,
    StackConfig,
)
from pyx_transformer.transformer import Transformer

OPTIONS = "special:model.yml"
LONGEST_OPTIONS = 1 << 20
ACTIVATIONS = {"swish": "silu", "relu": "relu", "gelu": "quick_gelu"}
NORM = NormConfig(eps=1e-6)
# What is done before and after a block, without dropout.
PLACES = {("", "an"): post_norm, ("n", "a"): pre_norm}
# The only values that can be read, which those that are absent have too.
ONLY = {
    "transformer-decoder-autoreg": "self-attention",
    "transformer-no-projection": False,
    "transformer-pool": False,
    "transformer-ffn-depth": 2,
    "transformer-tied-layers": [],
    "transformer-train-positions": False,
    "transformer-train-position-embeddings": False,
    "right-left": False,
    "ulr": False,
    "lemma-dim-emb": 0,
    "lemma-dependency": "",
    "factors-combine": "sum",
    "factors-dim-emb": 0,
}
MATRIX = re.compile(r"_W[qkvo12]?$")
VECTOR = re.compile(r"_b[qkvo12]?$|_ln_(?:scale|bias)(?:_pre)?$")
START_BIAS = -1e4  # leaves a probability of 0, and a loss with label smoothing finite
START, END = "<s>", "</s>"


def load(path: Path) -> Transformer:
    """The model of a file, with the vocabularies that lie beside it as `token: id` in .yml.

    Raises ValueError, naming the file, for what is malformed, missing or unknown; warns of arrays
    that have no place.
    """
    stored = npz.read_tensors(path)
    fields = Fields(options_of(stored.pop(OPTIONS, None), path), f"load: {path}: {OPTIONS}")
    try:
        sizes = sizes_of(fields)
        vocabularies = read_vocabularies(path, sizes)
        config, renaming = translated(fields, sizes, vocabularies[1], stored)
    except (TypeError, ValueError) as error:
        said = str(error)
        if not said.startswith("load: "):
            said = f"{fields.where}: {said}"
        raise ValueError(said) from error
    check_size(f"load: {path}", stored, config.num_parameters, OPTIONS)
    model = new_model(config)
    check_state(f"load: {path}", renaming, model, OPTIONS)
    model.load_state_dict(renaming.state)
    stored.warn(stacklevel=3)
    for side, tokens in zip(("src", "tgt"), vocabularies, strict=True):
        if tokens is not None:
            has_start = getattr(config, f"{side}_vocab_size") > len(tokens)
            setattr(model, f"{side}_vocabulary", [*tokens, *[START] * has_start])
    return model


def options_of(stored: Tensor | None, path: Path) -> dict[str, Any]:
    """The options in a file. Raises ValueError, naming it."""
    if stored is None:
        raise ValueError(f"load: {path} has no {OPTIONS}, expected a model of Marian")
    if len(stored.shape) != 1 or stored.shape[0] > LONGEST_OPTIONS:
        raise ValueError(
            f"load: {path}: {OPTIONS} has shape {stored.shape}, expected at most "
            f"{LONGEST_OPTIONS} bytes"
        )
    held = np.asarray(stored)
    try:
        if held.itemsize != 1:
            raise ValueError(f"it holds {held.dtype}, expected bytes")
        return flat_yaml.read_table(held.tobytes().rstrip(b"\0").decode())
    except ValueError as error:
        raise ValueError(f"load: {path}: {OPTIONS}: {error}") from error


def sizes_of(fields: Fields) -> tuple[int, int]:
    """How many tokens each side has."""
    sizes = fields.items("dim-vocabs", int)
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"dim-vocabs is {brief(sizes)}, expected two sizes")
    source, target = sizes
    return source, target


def read_vocabularies(path: Path, sizes: tuple[int, int]) -> list[list[str] | None]:
    """The tokens of both sides, where decoder.yml names such files beside a model or there is but
    one, vocab.yml, and they have as many; None else."""
    named = sorted(path.parent.glob("*decoder.yml"))
    files = sorted(path.parent.glob("*vocab.yml"))
    if len(named) == 1:
        where = f"load: {named[0]}"
        text = read_text(named[0], who="load: ")
        try:
            names = Fields(flat_yaml.read_table(text), where).items("vocabs", str)
        except (TypeError, ValueError) as error:
            said = str(error)
            raise ValueError(said if said.startswith(where) else f"{where}: {said}") from error
        # Their folder may be that of the machine where it was trained.
        files = [path.parent / Path(name).name for name in names]
    if len(files) == 1:
        files *= 2
    if len(files) != 2 or not all(one.suffix == ".yml" and one.is_file() for one in files):
        return [None, None]
    found = []
    for file, size in zip(files, sizes, strict=True):
        text = read_text(file, who="load: ")
        try:
            tokens = flat_yaml.read_vocabulary(text)
        except ValueError as error:
            raise ValueError(f"load: {file}: {error}") from error
        found.append(tokens if len(tokens) == size else None)
    return found


def translated(
    fields: Fields,
    sizes: tuple[int, int],
    target_tokens: list[str] | None,
    tensors: Mapping[str, Tensor],
) -> tuple[TransformerConfig, Renaming]:
    """The config and the state that options and arrays make."""
    fields.choice("type", {"transformer": None})
    refuse(fields, **ONLY)
    if "Wpos" in tensors:
        raise ValueError("Wpos is there, expected no trained positions: they cannot be read")
    depths = {"encoder": depth(fields, "enc", tensors), "decoder": depth(fields, "dec", tensors)}
    heads, width = fields.size("transformer-heads"), fields.size("dim-emb")
    wide = {"encoder": fields.size("transformer-dim-ffn")}
    wide["decoder"] = fields.size("transformer-decoder-dim-ffn", 0, minimum=0) or wide["encoder"]
    if fields.size("transformer-decoder-ffn-depth", 0, minimum=0) not in (0, 2):
        refuse(fields, **{"transformer-decoder-ffn-depth": 2})
    activation = fields.choice("transformer-ffn-activation", ACTIVATIONS)
    before, after = (operations(fields, f"transformer-{name}process") for name in ("pre", "post"))
    if (before, after) not in PLACES:
        raise ValueError(
            f"transformer-preprocess is {before!r} and transformer-postprocess {after!r} without "
            "dropout, expected '' and 'an', or 'n' and 'a'"
        )
    place = PLACES[before, after]
    if place is pre_norm and "transformer-postprocess-top" not in fields:
        raise ValueError(
            "transformer-postprocess-top is missing, expected with transformer-preprocess n: "
            "models of before it norm queries alone, which cannot be read"
        )
    top = operations(fields, "transformer-postprocess-top", "", "n")
    embedded = operations(fields, "transformer-postprocess-emb", "", "n")

    def stack(name: str, *attentions: AttentionConfig) -> StackConfig:
        layer = place(*attentions, FeedForwardConfig(wide[name], activation), norm=NORM)
        return StackConfig(width, depths[name], (layer,), NORM if top else None)

    all_tied = fields.flag("tied-embeddings-all", False)
    is_shared = fields.flag("tied-embeddings-src", False) or all_tied
    is_tied = fields.flag("tied-embeddings", False) or all_tied
    source, target = sizes
    config = TransformerConfig(
        source + is_shared,
        target + 1,
        stack("encoder", AttentionConfig(heads)),
        stack(
            "decoder",
            AttentionConfig(heads, is_causal=True),
            AttentionConfig(heads, is_cross=True),
        ),
        position_layout="halves",
        position_frequencies="tensor2tensor",
        embedding_norm=NORM if embedded else None,
        share_embeddings=is_shared,
        tie_output=is_tied,
        start_id=target,
        end_id=target_tokens.index(END) if target_tokens and END in target_tokens else 0,
    )
    renaming = Renaming({name: as_ours(name, tensor) for name, tensor in tensors.items()})
    take_tables(renaming, config, fields.flag("output-omit-bias", False))
    for name, side in (("encoder", "src"), ("decoder", "tgt")):
        take_norm(renaming, f"{side}_embedding_norm", f"{name}_emb_ln", "_pre")
        take_norm(renaming, f"{name}.norm", f"{name}_top_ln", "")
        for i in range(depths[name]):
            take_layer(renaming, f"{name}.layers.{i}", f"{name}_l{i + 1}", place is pre_norm)
    return config, renaming


def depth(fields: Fields, name: str, tensors: Mapping[str, Tensor]) -> int:
    """How many layers a stack has, the last of which is there."""
    count = fields.size(f"{name}-depth")
    last = f"{name}oder_l{count}_ffn_W1"
    if last not in tensors:
        raise ValueError(f"{name}-depth is {count}, but {last} is missing")
    return count


def operations(fields: Fields, name: str, *known: str) -> str:
    """What is done somewhere, a letter for each step, without dropout."""
    value = fields.values.get(name)
    steps = value.replace("d", "") if isinstance(value, str) else "" if value is None else None
    if steps is None or (known and steps not in known):
        raise ValueError(f"{name} is {brief(value)}, expected nothing but d and n")
    return steps


def as_ours(name: str, tensor: Tensor) -> Tensor:
    """A tensor in our form: matrices (out, in), vectors of one axis."""
    if MATRIX.search(name):
        return tensor.T
    if VECTOR.search(name) and len(tensor.shape) == 2 and tensor.shape[0] == 1:
        return tensor.changed(lambda array: array.reshape(-1), tensor.shape[1:])
    return tensor


def with_start(tensor: Tensor, value: float = 0) -> Tensor:
    """A table of tokens, or their biases, with one more token, all of whose numbers are these."""
    if not tensor.shape:
        return tensor
    row = np.full((1, *tensor.shape[1:]), value, np.float32)
    shape = (tensor.shape[0] + 1, *tensor.shape[1:])
    return tensor.changed(lambda array: np.concatenate([array, row]), shape)


def take_tables(renaming: Renaming, config: TransformerConfig, has_no_bias: bool) -> None:
    """The tables of tokens and the output projection."""
    if config.share_embeddings:
        renaming.take("src_embedding.weight", "Wemb")
        grown = ["src_embedding.weight"]
    else:
        renaming.take("src_embedding.weight", "encoder_Wemb")
        renaming.take("tgt_embedding.weight", "decoder_Wemb")
        grown = ["tgt_embedding.weight"]
    output = "decoder_ff_logit_out"
    if not config.tie_output:
        old = f"{output}_W"
        renaming.take("output_projection.weight", old if old in renaming.tensors else f"{old}t")
        grown.append("output_projection.weight")
    for key in grown:
        if key in renaming.state:
            renaming.state[key] = with_start(renaming.state[key])
    bias = f"{output}_b"
    renaming.take("output_projection.bias", bias)
    if has_no_bias:
        count = config.tgt_vocab_size - 1
        zeros = Tensor(bias, (count,), lambda: np.zeros(count, np.float32))
        renaming.state["output_projection.bias"] = zeros
    if "output_projection.bias" in renaming.state:
        found = renaming.state["output_projection.bias"]
        renaming.state["output_projection.bias"] = with_start(found, START_BIAS)


def take_norm(renaming: Renaming, ours: str, their: str, ending: str) -> None:
    """A norm, which may be absent."""
    for kind, name in (("weight", "scale"), ("bias", "bias")):
        renaming.take(f"{ours}.{kind}", f"{their}_{name}{ending}")


def take_layer(renaming: Renaming, ours: str, their: str, is_pre_norm: bool) -> None:
    """A layer, with its cross-attention where it has one."""
    blocks = ["self", "context"] if ours.startswith("decoder") else ["self"]
    for block in blocks:
        name = f"{ours}.{'self_attn' if block == 'self' else 'multihead_attn'}"
        for kind, letter in (("weight", "W"), ("bias", "b")):
            inputs = (f"{their}_{block}_{letter}{part}" for part in "qkv")
            renaming.take(f"{name}.in_proj_{kind}", *inputs)
            renaming.take(f"{name}.out_proj.{kind}", f"{their}_{block}_{letter}o")
            for i in (1, 2):
                renaming.take(f"{ours}.linear{i}.{kind}", f"{their}_ffn_{letter}{i}")
    norms = [*(f"{their}_{block}_Wo_ln" for block in blocks), f"{their}_ffn_ffn_ln"]
    for i, norm in enumerate(norms, 1):
        take_norm(renaming, f"{ours}.norm{i}", norm, "_pre" if is_pre_norm else "")
