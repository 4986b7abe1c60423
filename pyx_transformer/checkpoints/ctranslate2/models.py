"""Whole models of CTranslate2 as configs and a state of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyx_transformer.checkpoints.ctranslate2.layers import Layers
from pyx_transformer.checkpoints.tensors import Tensor
from pyx_transformer.config import EncoderConfig, TransformerConfig, TransformerLMConfig
from pyx_transformer.description import StackConfig

# Of each spec the revisions that are known: earlier ones have other names.
REVISIONS = {
    "TransformerSpec": range(2, 8),
    "TransformerBase": range(2, 8),
    "TransformerBig": range(2, 8),
    "TransformerDecoderSpec": range(1, 9),
    "TransformerEncoderSpec": range(1, 2),
}
SIDES = {"encoder": "src", "decoder": "tgt"}
TARGET, OUTPUT = "decoder/embeddings/weight", "decoder/projection/weight"
BIAS = "decoder/projection/bias"
STARTS_FROM_ZERO = "decoder/start_from_zero_embedding"
TANH = 5
ADDED = 1  # what embeddings_merge is where embeddings are added up
NEVER = -1e9  # a logit that no softmax sees


def check_spec(name: str, revision: int) -> None:
    """Raise ValueError for specs, or revisions of them, that are not known."""
    if name not in REVISIONS:
        raise ValueError(f"its spec is {name!r}, expected one of {', '.join(REVISIONS)}")
    known = REVISIONS[name]
    if revision not in known:
        raise ValueError(f"{name} has revision {revision}, expected {known[0]} to {known[-1]}")


def translator(file: Layers, start_id: int | None, end_id: int) -> TransformerConfig:
    """An encoder with a decoder. start_id: None where no token begins targets.

    Where the decoder starts from a row of zeros, the target's vocabulary gets one more token for
    it, which is never generated: CTranslate2's converter took it away.
    """
    stacks = {name: file.stack(name) for name in SIDES}
    source, fields = source_table(file), sides(file, stacks)
    fields["share_embeddings"] = file.are_same(source, TARGET)
    starts_from_zero = file.attribute(STARTS_FROM_ZERO, 0)
    if starts_from_zero:
        start_id, _ = file.shape(TARGET)
    elif start_id is None:
        raise ValueError(
            "decoder_start_token is null or not in the vocabulary, expected the token that begins "
            "all targets"
        )
    fields |= output(file, own_start=bool(starts_from_zero))
    if fields["share_embeddings"]:
        file.tensors[source] = file.tensors[TARGET]
        file.renaming.used.add(TARGET)
    else:
        file.renaming.take("tgt_embedding.weight", TARGET)
    file.renaming.take("src_embedding.weight", source)
    return TransformerConfig(
        file.shape(source)[0],
        file.shape(TARGET)[0],
        stacks["encoder"],
        stacks["decoder"],
        **fields,
        start_id=start_id,
        end_id=end_id,
    )


def language_model(file: Layers, end_id: int) -> TransformerLMConfig:
    """A decoder alone. Nothing comes before a text: a token that begins it is a part of it."""
    decoder = file.stack("decoder")
    file.only(STARTS_FROM_ZERO, 0, 0)
    fields = sides(file, {"decoder": decoder}) | output(file)
    softcap = file.attribute("decoder/final_logit_softcapping", None)
    file.renaming.take("tgt_embedding.weight", TARGET)
    size, _ = file.shape(TARGET)
    return TransformerLMConfig(
        size, decoder, **fields, logits_softcap=softcap, start_id=None, end_id=end_id
    )


def encoder_model(file: Layers) -> EncoderConfig:
    """An encoder alone; a second table is that of token types."""
    source, types = source_table(file), "encoder/embeddings_1/weight"
    stack = file.stack("encoder")
    fields = sides(file, {"encoder": stack})
    if types in file.tensors:
        file.only("encoder/embeddings_merge", ADDED, 0)
        if fields["scale_embeddings"]:
            raise ValueError("encoder/scale_embeddings is 1, expected 0 with token types")
        file.renaming.take("token_type_embedding.weight", types)
        fields["num_token_types"], _ = file.shape(types)
    if "pooler_dense/weight" in file.tensors:
        file.only("pooler_activation", TANH, 0)
        file.linear("pooler", "pooler_dense")
        fields["pooler"] = True
    file.renaming.take("src_embedding.weight", source)
    return EncoderConfig(file.shape(source)[0], stack, **fields)


def source_table(file: Layers) -> str:
    """The name of the encoder's first table, which old files have as the only one."""
    older = "encoder/embeddings/weight"
    return older if older in file.tensors else "encoder/embeddings_0/weight"


def output(file: Layers, *, own_start: bool = False) -> dict[str, Any]:
    """The fields of the output projection. own_start: whether to add the token that begins targets,
    a row of zeros, to it and to the target's table."""
    is_tied = file.are_same(OUTPUT, TARGET)
    rows, columns = file.shape(OUTPUT)
    if own_start:
        for name in (TARGET, OUTPUT):
            file.tensors[name] = file.tensors[name].changed(with_zeros, (rows + 1, columns))
        if BIAS not in file.tensors:
            file.tensors[BIAS] = Tensor(BIAS, (rows,), lambda: np.zeros(rows, np.float32))
        file.tensors[BIAS] = file.tensors[BIAS].changed(with_never, (rows + 1,))
    scale = file.attribute("decoder/scale_outputs", 1.0)
    if scale != 1.0:  # a part of the last norm's weight
        if "decoder.norm.weight" not in file.renaming.state:
            raise ValueError(f"decoder/scale_outputs is {scale}, expected 1 without a last norm")
        for kind in ("weight", "bias"):
            file.change(f"decoder.norm.{kind}", scale, np.multiply)
    if is_tied:
        file.renaming.used.add(OUTPUT)
    else:
        file.renaming.take("output_projection.weight", OUTPUT)
    file.renaming.take("output_projection.bias", BIAS)
    return {"tie_output": is_tied, "output_bias": BIAS in file.tensors}


def with_zeros(array):
    """A matrix with one more row."""
    return np.append(array, np.zeros_like(array[:1]), axis=0)


def with_never(array):
    """A bias with that of a token that is never generated."""
    return np.append(array, np.float32(NEVER))


def sides(file: Layers, stacks: dict[str, StackConfig]) -> dict[str, Any]:
    """The fields of embeddings and positions, which are the same on both sides."""
    found = [side(file, name, stack) for name, stack in stacks.items()]
    first, last = found[0], found[-1]
    for name in ("positions", "scale_embeddings", "embedding_norm"):
        if first[name] != last[name]:
            raise ValueError(
                f"{name} are {first[name]} in the encoder and {last[name]} in the decoder, "
                "expected the same"
            )
    if first["positions"] == "learned":  # as far as those of both sides reach
        first["max_length"] = min(one["max_length"] for one in found)
        for name in stacks:
            table = encodings(name)
            file.tensors[table] = file.tensors[table].rows(0, first["max_length"])
            file.renaming.take(f"{SIDES[name]}_positions.weight", table)
    return first


def side(file: Layers, name: str, stack: StackConfig) -> dict[str, Any]:
    """These fields of one side."""
    norm = f"{SIDES[name]}_embedding_norm", f"{name}/layernorm_embedding"
    fields = {
        "scale_embeddings": scales_embeddings(file, name, stack.d_model),
        "embedding_norm": file.norm(*norm, needed=False),
    }
    if any(block.rotary or block.distance_bias for block in stack.attentions):
        return {**fields, "positions": "none"}
    if encodings(name) in file.tensors:
        rows, _ = file.shape(encodings(name))
        return {**fields, "positions": "learned", "max_length": rows}
    return {
        **fields,
        "positions": "sinusoidal",
        "position_layout": "halves",
        "position_frequencies": "tensor2tensor",
        "position_start": 1,
    }


def encodings(stack: str) -> str:
    """The name of a table of positions."""
    return f"{stack}/position_encodings/encodings"


def scales_embeddings(file: Layers, stack: str, width: int) -> bool:
    """Whether embeddings are multiplied by the square root of their width: a flag, or the number
    that they are multiplied by."""
    name = f"{stack}/scale_embeddings"
    older = file.attribute(f"{stack}/embeddings/multiply_by_sqrt_depth", 1)
    value = file.attribute(name, older)
    if isinstance(value, int):
        return bool(value)
    if value != 1.0 and not abs(value - width**0.5) <= 1e-6 * width**0.5:
        raise ValueError(f"{name} is {value}, expected 1 or the square root of {width}")
    return value != 1.0
