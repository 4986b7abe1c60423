"""Weights that are tied, or may be: a file holds one of them, copies, or each on its own.

What it holds is used and what it lacks is tied; equal copies are tied too. Copies that differ,
although the config ties them, are used as they are, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.tensors import Renaming, Tensor
from pyx_transformer.description import NormConfig
from pyx_transformer.head_configs import MaskedLMConfig


def are_tied(
    fields: Fields, tensors: Mapping[str, Tensor], name: str, other: str, *flags: str
) -> bool:
    """Whether a tensor is used for another; flags: what says in the config that it should be."""
    if name == other or name not in tensors:
        return True
    if other not in tensors or tensors[name].shape != tensors[other].shape:
        return False
    if np.array_equal(np.asarray(tensors[name]), np.asarray(tensors[other])):
        return True
    if all(fields.flag(flag, True) for flag in flags):
        warnings.warn(
            f"{fields.where}: {name} differs from {other}, which the config ties it to: both are "
            "used",
            stacklevel=2,
        )
    return False


def take_output(fields: Fields, renaming: Renaming, output: str, table: str) -> bool:
    """Whether the output projection is the table of tokens; else it gets its own weight."""
    name = f"{output}.weight"
    is_tied = are_tied(fields, renaming.tensors, name, f"{table}.weight", "tie_word_embeddings")
    if is_tied:
        renaming.used.add(name)
    else:
        renaming.take("output_projection.weight", name)
    return is_tied


def masked_head(
    fields: Fields,
    tensors: Mapping[str, Tensor],
    activation: str,
    norm: NormConfig,
    decoder: str,
    table: str = "embeddings.word_embeddings",
    *,
    bias: bool = True,
) -> MaskedLMConfig:
    """The head of masked tokens, whose decoder may be the table of tokens."""
    names = f"{decoder}.weight", f"{table}.weight"
    tied = are_tied(fields, tensors, *names, "tie_word_embeddings")
    return MaskedLMConfig(activation, norm, bias=bias, tied=tied)


def take_decoder(renaming: Renaming, head: MaskedLMConfig, decoder: str, bias: str) -> None:
    """The masked tokens' decoder; its bias may be stored twice, and is added once."""
    if not head.tied:
        renaming.take("output_projection.weight", f"{decoder}.weight")
    name = bias if bias in renaming.tensors else f"{decoder}.bias"
    renaming.take("output_projection.bias", name)
    renaming.used.update([f"{decoder}.weight", f"{decoder}.bias"])


class Tables:
    """The tables of an encoder-decoder with the names of transformers: that of the source, that of
    the target, that of the output."""

    def __init__(self, fields: Fields, renaming: Renaming, prefix: str):
        shared = f"{prefix}shared.weight"
        names = [f"{prefix}{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
        source, target = (name if name in renaming.tensors else shared for name in names)
        flags = ("share_encoder_decoder_embeddings", "tie_word_embeddings")
        if source not in renaming.tensors:  # the one that there is
            source = target
        renaming.take("src_embedding.weight", source)
        self.are_shared = are_tied(fields, renaming.tensors, target, source, *flags)
        if self.are_shared:
            renaming.used.add(target)
        else:
            renaming.take("tgt_embedding.weight", target)
        self.is_tied = take_output(fields, renaming, "lm_head", target.removesuffix(".weight"))
        if shared in renaming.tensors:  # stale where both sides have their own
            renaming.used.add(shared)
