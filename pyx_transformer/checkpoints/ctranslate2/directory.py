"""A directory of CTranslate2 as a model: model.bin, vocabularies, config.json.

Vocabularies are lists of tokens, .json or .txt with one a line: shared_vocabulary, or
source_vocabulary and target_vocabulary; of models with one side, vocabulary. config.json says which
tokens are special, and the eps of norms. In old directories model.bin says the former, where they
are not <s> and </s>.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from pyx_transformer._checks import brief
from pyx_transformer._files import read_text
from pyx_transformer.checkpoints.ctranslate2 import models
from pyx_transformer.checkpoints.ctranslate2.container import SpecFile, read_file
from pyx_transformer.checkpoints.ctranslate2.layers import Layers
from pyx_transformer.checkpoints.fields import Fields
from pyx_transformer.checkpoints.models import new_model
from pyx_transformer.checkpoints.tensors import check_state
from pyx_transformer.config import TransformerConfig
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.tokenizers.listed import from_lines
from pyx_transformer.transformer import Transformer

WEIGHTS = "model.bin"
CONFIG = "config.json"
ADDED = "<pad>"  # the token that is added for decoders that start from a row of zeros


class Special(NamedTuple):
    """Tokens that are special; start: None where the caller is to give what targets begin with."""

    unknown: str
    start: str | None
    end: str


def load(directory: Path, values: dict[str, Any]) -> Transformer | TransformerLM | EncoderModel:
    """The model of a directory whose config.json holds these values.

    Raises ValueError, naming the file, for what is malformed, missing or unknown. Warns where there
    are no vocabularies.
    """
    path = directory / WEIGHTS
    file = read_file(path)
    try:
        eps, special = settings_of(Fields(values, f"load: {directory / CONFIG}"), file)
    except TypeError as error:
        raise ValueError(str(error)) from error
    lists = vocabularies(directory, file.spec)
    try:
        models.check_spec(file.spec, file.revision)
        layers = Layers(file, eps)
        config = config_of(path, layers, lists.get("tgt"), special)
        layers.check_all_read()
        held = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
        if config.num_parameters > 2 * held:  # the model is not built to tell which ones
            raise ValueError(f"it holds {held} numbers, expected {config.num_parameters}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {path}: {error}") from error
    model = new_model(config)
    check_state(f"load: {path}", layers.renaming, model, "its attributes")
    model.load_state_dict(layers.renaming.state)
    file.tensors.warn(stacklevel=3)
    added = []
    if layers.attribute(models.STARTS_FROM_ZERO, 0):
        model.generation_options = GenerationOptions(suppress_tokens=(config.start_id,))
        added = ["src", "tgt"] if config.share_embeddings else ["tgt"]
    for side, tokens in lists.items():
        size = getattr(config, f"{side}_vocab_size") - (side in added)
        if len(tokens) not in (size - 1, size):
            raise ValueError(
                f"load: {directory}: the {side} vocabulary has {len(tokens)} tokens, expected "
                f"{size} because of {WEIGHTS}"
            )
        if side in added:
            tokens = [*[*tokens, special.unknown][:size], ADDED]
        setattr(model, f"{side}_vocabulary", tokens)
    return model


def config_of(path: Path, layers: Layers, tokens: list[str] | None, special: Special) -> Any:
    """The config of a spec, what is special being told by the target's tokens."""
    if layers.file.spec == "TransformerEncoderSpec":
        return models.encoder_model(layers)
    start_id: int | None = TransformerConfig.start_id
    end_id = TransformerConfig.end_id
    if tokens is None:
        warnings.warn(
            f"load: {path} has no vocabulary beside it: start_id = {start_id} and end_id = "
            f"{end_id} are a guess",
            stacklevel=4,
        )
    else:
        if special.end not in tokens:
            raise ValueError(f"eos_token is {special.end!r}, which the vocabulary lacks")
        start_id = tokens.index(special.start) if special.start in tokens else None
        end_id = tokens.index(special.end)
    if layers.file.spec == "TransformerDecoderSpec":
        return models.language_model(layers, end_id)
    return models.translator(layers, start_id, end_id)


def settings_of(fields: Fields, file: SpecFile) -> tuple[float | None, Special]:
    """The eps of norms, None for the usual ones, and the special tokens. Before version 6 these are
    in model.bin."""
    if fields.values.get("quantization_type"):
        raise ValueError(
            f"{fields.where}: quantization_type is {brief(fields.values['quantization_type'])}, "
            "expected 0: quantisations such as AWQ cannot be read"
        )
    eps = fields.number("layer_norm_epsilon", None)
    held = fields.values if file.version >= 6 else file.attributes

    def token(name: str, default: str) -> str:
        found = default if held.get(name) is None else held[name]
        if not isinstance(found, str):
            raise ValueError(f"{fields.where}: {name} is {brief(found)}, expected a token")
        return found

    bos, eos = token("bos_token", "<s>"), token("eos_token", "</s>")
    start: str | None
    if file.version >= 6:
        name = "decoder_start_token"
        start = None if name in held and held[name] is None else token(name, "<s>")
    elif held.get("user_decoder_start_tokens"):
        start = None
    else:
        start = bos if held.get("with_target_bos", 1) else eos
    return eps, Special(token("unk_token", "<unk>"), start, eos)


def vocabularies(directory: Path, spec: str) -> dict[str, list[str]]:
    """The tokens of each side, as far as there are such files."""
    names = {"src": "source_vocabulary", "tgt": "target_vocabulary"}
    shared = read_vocabulary(directory, "shared_vocabulary")
    if spec == "TransformerEncoderSpec":
        names, shared = {"src": "vocabulary"}, None
    elif spec == "TransformerDecoderSpec":
        names, shared = {"tgt": "vocabulary"}, None
    found = {}
    for side, name in names.items():
        tokens = read_vocabulary(directory, name) if shared is None else shared
        if tokens is not None:
            found[side] = tokens
    return found


def read_vocabulary(directory: Path, name: str) -> list[str] | None:
    """The tokens of a file, None where there is none. Raises ValueError, naming it, for what is no
    list of tokens."""
    path = directory / f"{name}.json"
    if not path.exists():
        path = directory / f"{name}.txt"
        if not path.exists():
            return None
        lines = from_lines(read_text(path, who="load: "))
        # A token may end in a carriage return; where all do, it is the end of the line.
        is_ending = all(line.endswith("\r") for line in lines)
        return [line[:-1] for line in lines] if is_ending else lines
    try:
        tokens = json.loads(read_text(path, who="load: "))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"load: {path} is not JSON: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"load: {path} is {brief(tokens)}, expected a list of tokens")
    return tokens
