"""What whole models are built from: one dataclass per kind of model (see token_config.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from pyx_transformer import _checks
from pyx_transformer._reprs import described
from pyx_transformer.description import StackConfig, without_memory
from pyx_transformer.head_configs import ClassifierConfig, Head, MaskedLMConfig
from pyx_transformer.token_config import TokenConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyx_transformer.config_values import EncoderValues, LanguageModelValues, TransformerValues


@described
@dataclass(frozen=True, init=False, kw_only=True, repr=False)
class TransformerConfig(TokenConfig):
    """What a `Transformer` is built from; the defaults are the base model of the paper.

    src_vocab_size, tgt_vocab_size: how many token ids there are on each side.
    encoder, decoder: their descriptions; or in place of both the paper's sizes: d_model=512,
    num_heads=8, num_encoder_layers=6, num_decoder_layers=6, d_ff=2048, and activation="relu",
    norm_first, final_norm, layer_norm_eps as in `TransformerEncoder`.
    positions: "sinusoidal", "learned" (tables of max_length rows) or "none"; position_layout,
    position_frequencies, position_start: as in `sinusoidal_positions`.
    scale_embeddings: multiply embeddings by sqrt(d_model). embedding_norm: a norm of the sum of
    embedding and position, on each side.
    share_embeddings: one table for source and target; tie_output: the output projection's weight
    is the target table. output_bias: whether that projection has a bias.
    start_id begins every target, end_id ends it.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    src_vocab_size: int
    tgt_vocab_size: int
    encoder: StackConfig
    decoder: StackConfig
    share_embeddings: bool = False
    tie_output: bool = False
    output_bias: bool = True
    start_id: int = 1
    end_id: int = 2

    stacks: ClassVar = {
        "encoder": ("num_encoder_layers", {}),
        "decoder": ("num_decoder_layers", {"is_causal": True, "has_memory": True}),
    }

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        encoder: StackConfig | None = None,
        decoder: StackConfig | None = None,
        **values: Unpack[TransformerValues],
    ):
        sizes = {"src_vocab_size": src_vocab_size, "tgt_vocab_size": tgt_vocab_size}
        self._take({**sizes, "encoder": encoder, "decoder": decoder, **values})

    def _check(self, this):
        super()._check(this)
        check_decoder(this, self.decoder, has_memory=True)
        check_encoder(this, self.encoder)
        if self.encoder.d_model != self.decoder.d_model:
            raise ValueError(
                f"{this}: decoder.d_model is {self.decoder.d_model}, expected encoder.d_model = "
                f"{self.encoder.d_model}"
            )
        if self.share_embeddings and self.src_vocab_size != self.tgt_vocab_size:
            raise ValueError(
                f"{this}: tgt_vocab_size is {self.tgt_vocab_size}, expected src_vocab_size = "
                f"{self.src_vocab_size} because share_embeddings is True"
            )
        check_ids(this, self)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        width, vocab = self.d_model, self.tgt_vocab_size
        shared = vocab * width * self.share_embeddings
        sides = sum(self._side_parameters(size) for size in (self.src_vocab_size, vocab)) - shared
        output = vocab * width * (not self.tie_output) + vocab * self.output_bias
        return self._stack_parameters() + sides + output


@described
@dataclass(frozen=True, init=False, kw_only=True, repr=False)
class TransformerLMConfig(TokenConfig):
    """What a `TransformerLM` is built from.

    tgt_vocab_size: how many token ids there are.
    decoder: its description, without cross-attention; or in its place num_decoder_layers=6 and the
    paper's sizes as in `TransformerConfig`, as are the other fields, of the target's side.
    logits_softcap: logits are softcap tanh(logits / softcap) (Gemma Team 2024); None for none.
    start_id: None where nothing comes before a text: its first token is given, never predicted.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    tgt_vocab_size: int
    decoder: StackConfig
    tie_output: bool = False
    output_bias: bool = True
    logits_softcap: float | None = None
    start_id: int | None = 1
    end_id: int = 2

    stacks: ClassVar = {"decoder": ("num_decoder_layers", {"is_causal": True})}

    def __init__(
        self,
        tgt_vocab_size: int,
        decoder: StackConfig | None = None,
        **values: Unpack[LanguageModelValues],
    ):
        self._take({"tgt_vocab_size": tgt_vocab_size, "decoder": decoder, **values})

    @classmethod
    def of_decoder(cls, config: TransformerConfig) -> TransformerLMConfig:
        """What a `TransformerConfig` says of the target's side, without cross-attention."""
        _checks.as_kind(f"{cls.__name__}.of_decoder", "config", config, TransformerConfig)
        names = {field.name for field in fields(config)}
        values = {name: getattr(config, name) for name in cls.names() & names}
        return cls(**{**values, "decoder": without_memory(config.decoder)})

    def _check(self, this):
        super()._check(this)
        check_decoder(this, self.decoder, has_memory=False)
        check_ids(this, self)

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        vocab = self.tgt_vocab_size
        output = vocab * self.d_model * (not self.tie_output) + vocab * self.output_bias
        return self._stack_parameters() + self._side_parameters(vocab) + output


@described
@dataclass(frozen=True, init=False, kw_only=True, repr=False)
class EncoderConfig(TokenConfig):
    """What an `EncoderModel` is built from.

    src_vocab_size: how many token ids there are. encoder: its description; or in its place
    num_encoder_layers=6 and the paper's sizes as in `TransformerConfig`, as are the fields of
    positions. num_token_types: rows of a table added to the embeddings by the type of each token, 0
    for none. embedding_size: width of the embeddings, which a projection takes to d_model (Lan et
    al. 2020, ALBERT); d_model unless given. pooler: whether `pooled` has a tanh(W x + b) (Devlin et
    al. 2019). head: what calling the model gives. mask_id: the token that stands in masked places.

    Raises TypeError or ValueError, naming the field, also for fields that do not fit each other.
    """

    src_vocab_size: int
    encoder: StackConfig
    num_token_types: int = 0
    embedding_size: int | None = None
    pooler: bool = False
    head: Head | None = None
    mask_id: int | None = None

    stacks: ClassVar = {"encoder": ("num_encoder_layers", {})}

    def __init__(
        self,
        src_vocab_size: int,
        encoder: StackConfig | None = None,
        **values: Unpack[EncoderValues],
    ):
        self._take({"src_vocab_size": src_vocab_size, "encoder": encoder, **values})

    def _check(self, this):
        super()._check(this)
        check_encoder(this, self.encoder)
        if self.mask_id is not None and self.mask_id >= self.src_vocab_size:
            raise ValueError(
                f"{this}: mask_id is {self.mask_id}, expected a token id below src_vocab_size = "
                f"{self.src_vocab_size}"
            )

    @property
    def embedding_width(self) -> int:
        """The width of the embeddings."""
        return self.d_model if self.embedding_size is None else self.embedding_size

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters of such a model hold, tied ones counted once."""
        d, width = self.d_model, self.embedding_width
        total = self._stack_parameters() + self._side_parameters(self.src_vocab_size)
        total += self.num_token_types * width + d * (width + 1) * (self.embedding_size is not None)
        total += d * (d + 1) * self.pooler
        if isinstance(self.head, MaskedLMConfig):
            total += self._dense_parameters(width) + self.src_vocab_size
            total += self.src_vocab_size * width * (not self.head.tied)
        if isinstance(self.head, ClassifierConfig):
            total += self._dense_parameters(d) * self.head.dense + len(self.head.labels) * (d + 1)
        return total

    def _dense_parameters(self, width: int) -> int:
        """Of the head's first map, to rows of that width, and its norm."""
        assert self.head is not None
        norm = self.head.norm
        norms = 0 if norm is None else norm.weight + bool(norm.bias)
        return width * (self.d_model + self.head.bias + norms)


def check_encoder(this: str, stack: StackConfig) -> None:
    """Raise ValueError for an encoder that would need a memory."""
    if stack.has_memory:
        raise ValueError(f"{this}: encoder has a cross-attention, expected none")


def check_decoder(this: str, stack: StackConfig, *, has_memory: bool) -> None:
    """Raise ValueError unless attentions are causal and cross-attentions there as wanted."""
    for i, layer in enumerate(stack.layers):
        crossing = sum(block.is_cross for block in layer.attentions)
        if crossing != has_memory:
            raise ValueError(
                f"{this}: decoder.layers[{i}] has {crossing} cross-attentions, expected "
                f"{int(has_memory)}"
            )
        if any(not block.is_cross and not block.is_causal for block in layer.attentions):
            raise ValueError(
                f"{this}: decoder.layers[{i}] has an attention whose is_causal is False, expected "
                "True in a decoder"
            )


def check_ids(this: str, config: TransformerConfig | TransformerLMConfig) -> None:
    """Raise ValueError for a start or end token that the vocabulary lacks."""
    for name in ("start_id", "end_id"):
        if (getattr(config, name) or 0) >= config.tgt_vocab_size:
            raise ValueError(
                f"{this}: {name} is {getattr(config, name)}, expected a token id below "
                f"tgt_vocab_size = {config.tgt_vocab_size}"
            )
