"""What a Transformer is built from, as a dataclass and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from pyx_transformer import _checks
from pyx_transformer.layers import as_activation
from pyx_transformer.positions import FREQUENCIES, LAST_EXACT, LAYOUTS


@dataclass(frozen=True)
class TransformerConfig:
    """What a `Transformer` is built from; the defaults are the base model of the paper.

    activation: of the feed-forward layers, as in `ops.linear`. norm_first, final_norm,
    layer_norm_eps: as in `TransformerEncoder`.
    positions: "sinusoidal", "learned" (a table of max_length rows) or "none".
    position_layout, position_frequencies, position_start: as in `sinusoidal_positions`.
    scale_embeddings: multiply embeddings by sqrt(d_model).
    share_embeddings: one table for source and target; tie_output: the output projection's weight
    is the target table. output_bias: whether that projection has a bias.
    start_id begins every target, end_id ends it.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    src_vocab_size: int
    tgt_vocab_size: int
    d_model: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    d_ff: int = 2048
    activation: str = "relu"
    norm_first: bool = False
    final_norm: bool = False
    layer_norm_eps: float = 1e-5
    positions: str = "sinusoidal"
    position_layout: str = "interleaved"
    position_frequencies: str = "paper"
    position_start: int = 0
    max_length: int = 1024
    scale_embeddings: bool = True
    share_embeddings: bool = False
    tie_output: bool = False
    output_bias: bool = True
    start_id: int = 1
    end_id: int = 2

    def __post_init__(self):
        this = "TransformerConfig"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                minimum = 0 if field.name.endswith(("_id", "_layers", "_start")) else 1
                value = _checks.as_integer(this, field.name, value, minimum=minimum)
            elif field.type == "bool":
                value = _checks.as_flag(this, field.name, value)
            elif field.type == "float":
                value = _checks.as_number(this, field.name, value, minimum=0)
            object.__setattr__(self, field.name, value)
        as_activation(this, self.activation)
        _checks.as_choice(this, "positions", self.positions, ("sinusoidal", "learned", "none"))
        _checks.as_choice(this, "position_layout", self.position_layout, LAYOUTS)
        _checks.as_choice(this, "position_frequencies", self.position_frequencies, FREQUENCIES)
        _checks.as_integer(this, "position_start", self.position_start, maximum=LAST_EXACT)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"{this}: d_model is {self.d_model}, expected an even number because positions are "
                "sinusoidal"
            )
        _checks.as_num_heads(this, self.num_heads, self.d_model)
        if self.share_embeddings and self.src_vocab_size != self.tgt_vocab_size:
            raise ValueError(
                f"{this}: tgt_vocab_size is {self.tgt_vocab_size}, expected src_vocab_size = "
                f"{self.src_vocab_size} because share_embeddings is True"
            )
        for name in ("start_id", "end_id"):
            if getattr(self, name) >= self.tgt_vocab_size:
                raise ValueError(
                    f"{this}: {name} is {getattr(self, name)}, expected a token id below "
                    f"tgt_vocab_size = {self.tgt_vocab_size}"
                )

    @property
    def longest(self) -> float:
        """The longest sequence that the positions reach: max_length if learned, else infinity."""
        return self.max_length if self.positions == "learned" else math.inf

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        width, vocab = self.d_model, self.tgt_vocab_size
        norm = 2 * width
        attention = 4 * width * (width + 1)
        feed_forward = 2 * width * self.d_ff + self.d_ff + width
        return (
            self.num_encoder_layers * (attention + feed_forward + 2 * norm)
            + self.num_decoder_layers * (2 * attention + feed_forward + 3 * norm)
            + 2 * norm * self.final_norm
            + 2 * self.max_length * width * (self.positions == "learned")
            + self.src_vocab_size * width
            + vocab * width * ((not self.share_embeddings) + (not self.tie_output))
            + vocab * self.output_bias
        )

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TransformerConfig:
        """The config that `to_json` wrote. Raises ValueError for any other text."""
        this = "TransformerConfig.from_json"
        return cls.from_values(this, as_object(this, text))

    @classmethod
    def from_values(cls, this: str, values: dict) -> TransformerConfig:
        """The config with these fields. Raises ValueError, as `this`, for any others."""
        names = {field.name for field in fields(cls)}
        unknown = sorted(values.keys() - names)
        missing = sorted({"src_vocab_size", "tgt_vocab_size"} - values.keys())
        if unknown or missing:
            raise ValueError(
                f"{this}: unknown keys {unknown}, missing keys {missing}; known are {sorted(names)}"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error


def as_object(this: str, text: str) -> dict:
    """The JSON object that a text holds. Raises ValueError for any other text."""
    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError(f"{this}: text is of type {type(text).__name__}, expected str")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{this}: text is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{this}: text is a {type(values).__name__}, expected an object")
    return values
