"""The whole model of "Attention Is All You Need": token ids in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, overload

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._reprs import called
from pyx_transformer.attention import Memory
from pyx_transformer.config import TransformerConfig
from pyx_transformer.layers import Embedding, Linear
from pyx_transformer.parameters import PassParameters, Rng
from pyx_transformer.stacks import (
    TransformerDecoder,
    TransformerEncoder,
    given,
    new_hidden,
    padded_hidden,
)
from pyx_transformer.sub_layers import TrainingPass
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

    from pyx_transformer import _wanted
    from pyx_transformer._wanted import Given
    from pyx_transformer.generation import Generation, GenerationOptions, Hypothesis
    from pyx_transformer.generation.settings import GenerationSettings
    from pyx_transformer.tokenizers.protocol import Tokenizer

    Floats = NDArray[np.float32]


class AttentionWeights(NamedTuple):
    """Attention weights of a whole model, one array per layer, no averaging over heads."""

    encoder: list[NDArray[np.float32]]  # (B, H, S, S)
    decoder: list[NDArray[np.float32]]  # (B, H, T, T)
    cross: list[NDArray[np.float32]]  # (B, H, T, S)

    def __repr__(self) -> str:
        return called(self, named=self._asdict())


class HiddenStates(NamedTuple):
    """The rows after the embeddings and after each layer, before a final norm."""

    encoder: list[NDArray[np.float32]]  # (B, S, d_model)
    decoder: list[NDArray[np.float32]]  # (B, T, d_model)

    def __repr__(self) -> str:
        return called(self, named=self._asdict())


class Transformer(TokenModel):
    """Embeddings, positions, encoder, decoder and output projection: the model of the paper.

    Vaswani et al., 2017, section 3; or what else its config describes. model(src, tgt) gives the
    logits, `generate` what the model makes of src; `Transformer.load` opens one that there is. All
    of it is of token ids: `pt.Translator(model).translate(texts)` is of texts.

    State-dict keys: encoder.*, decoder.* (PyTorch's), src_embedding.weight, tgt_embedding.weight,
    output_projection.weight, output_projection.bias; src_positions.weight and tgt_positions.weight
    where positions are learned, src_embedding_norm.* and tgt_embedding_norm.* where there are such.
    Tied weights are stored once, under the key that comes first here, and `load_state_dict` takes
    either key.

    src_tokenizer and tgt_tokenizer are those of `text`, or None; src_vocabulary and tgt_vocabulary
    are their lists of tokens, or lists set in their place, or None; generation_options are the
    defaults of `generate`, or None. All are saved and loaded with the model.
    """

    config_type = TransformerConfig
    of_texts = "Translator"
    has_encoder = has_decoder = True
    switches: ClassVar = {"output_projection.bias": "output_bias"}
    config: TransformerConfig
    src_embedding: Embedding
    tgt_embedding: Embedding
    src_vocabulary, tgt_vocabulary = Vocabulary(), Vocabulary()

    def __init__(self, config: TransformerConfig, *, rng: Rng = None):
        """config: its sizes, or its layers; rng: what the weights are drawn from, as in `Linear`.

        Raises TypeError or ValueError for what is no config or no rng.
        """
        super().__init__(config, rng)
        self.src_tokenizer: Tokenizer | None = None
        self.tgt_tokenizer: Tokenizer | None = None
        self.generation_options: GenerationOptions | None = None

    def _build(self, rng):
        config = self.config
        self._embeddings(rng, "src", "tgt")
        self.encoder = TransformerEncoder.of(config.encoder, rng)
        self.decoder = TransformerDecoder.of(config.decoder, rng)
        self.output_projection = Linear(
            config.d_model, config.tgt_vocab_size, bias=config.output_bias, rng=rng
        )

    def in_words(self) -> list[str]:
        _, *words = self.config.decoder.in_words()
        layers = f"{self.config.encoder.num_layers} + {self.config.decoder.num_layers} layers"
        return [layers, *words, *super().in_words()]

    @overload
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: Given = None,
        tgt_lengths: Given = None,
        **wanted: Unpack[_wanted.Alone],
    ) -> Floats: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: Given = None,
        tgt_lengths: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, AttentionWeights]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: Given = None,
        tgt_lengths: Given = None,
        **wanted: Unpack[_wanted.WithHidden],
    ) -> tuple[Floats, HiddenStates]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: Given = None,
        tgt_lengths: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, AttentionWeights, HiddenStates]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: Given = None,
        tgt_lengths: Given = None,
        **wanted: Unpack[_wanted.Either],
    ) -> Floats | tuple[Floats | AttentionWeights | HiddenStates, ...]: ...
    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: ArrayLike | None = None,
        tgt_lengths: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | AttentionWeights | HiddenStates, ...]:
        """src (B, S), tgt (B, T) token ids -> logits (B, T, V) float32.

        Logits at position t are for the token after tgt[:, t]; they are zeros from tgt_lengths[b]
        on. src_lengths and tgt_lengths (B,) count the real tokens: all unless given. With
        return_attention, also the `AttentionWeights`, with return_hidden_states the `HiddenStates`.
        Raises TypeError or ValueError, naming the argument, also where learned positions do not
        reach as far.
        """
        this = "Transformer"
        src, sources = self.sequences(this, "src", src, src_lengths)
        batch = len(sources.counts)
        tgt, targets = self.sequences(this, "tgt", tgt, tgt_lengths, batch)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        queries, keys = targets.length, sources.length
        of_encoder = self.encoder.new_attention(wanted, batch, keys, keys)
        own = self.decoder.new_attention(wanted, batch, queries, queries)
        cross = self.decoder.new_attention(wanted, batch, queries, keys)
        rows = self.side("src").apply(src, sources.position_ids())
        of_source = new_hidden(this, return_hidden_states, rows)
        memory = self.encoder.apply(rows, sources, attention=of_encoder, hidden=of_source)
        rows = self.side("tgt").apply(tgt, targets.position_ids())
        of_target = new_hidden(this, return_hidden_states, rows)
        rows = self.decoder.apply(
            rows,
            targets,
            self.decoder.project(memory, sources),
            attention=own,
            cross_attention=cross,
            hidden=of_target,
        )
        hidden = None
        if of_source is not None and of_target is not None:
            hidden = HiddenStates(
                padded_hidden(of_source, sources), padded_hidden(of_target, targets)
            )
        attention = None
        if of_encoder is not None and own is not None and cross is not None:
            attention = AttentionWeights(of_encoder, own, cross)
        return given(targets.padded(self.output_projection.apply(rows)), attention, hidden)

    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        *,
        return_hidden_states: Literal[False] = False,
    ) -> Floats: ...
    @overload
    def encode(
        self, src: ArrayLike, src_lengths: Given = None, *, return_hidden_states: Literal[True]
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def encode(
        self, src: ArrayLike, src_lengths: Given = None, *, return_hidden_states: bool
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def encode(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        *,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """src (B, S) token ids -> memory (B, S, d_model) float32, zeros from src_lengths[b] on.

        With return_hidden_states, also the list of rows (B, S, d_model) after the embeddings and
        after each layer, before a final norm. Raises as calling the model does.
        """
        this = "Transformer.encode"
        src, sources = self.sequences(this, "src", src, src_lengths)
        rows = self.side("src").apply(src, sources.position_ids())
        hidden = new_hidden(this, return_hidden_states, rows)
        memory = self.encoder.apply(rows, sources, hidden=hidden)
        return given(sources.padded(memory), None, padded_hidden(hidden, sources))

    def generate(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Generation:
        """Hypotheses for src (B, S) token ids, real up to src_lengths (B,): greedy unless asked.
        `pt.Translator(model).translate(texts)` does it for texts.

        src may also be a list of sequences of different lengths. Memory follows the tokens that
        there are: see max_batch_tokens.
        options and single settings, such as beam_size=4: see `GenerationOptions`. Each hypothesis
        starts with config.start_id and ends by itself at config.end_id or after max_length tokens.
        An empty source has exactly the empty translation. The result of a sentence does not depend
        on the others.

        Raises TypeError or ValueError for bad ids, lengths or options, or where learned positions
        do not reach max_length; MemoryError where there is no room for what comes to be.
        """
        from pyx_transformer import generation

        this = "Transformer.generate"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        return generation.in_order(*generation.begun(this, self, src, src_lengths, options))

    def generate_as_completed(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """What `generate` gives, a sentence at a time: its number and its hypotheses, best first,
        as soon as they are found. Raises as `generate` does."""
        from pyx_transformer import generation

        this = "Transformer.generate_as_completed"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        return generation.begun(this, self, src, src_lengths, options)[1]

    def score(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: ArrayLike | None = None,
        tgt_lengths: ArrayLike | None = None,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of every token of tgt (B, T) and of the end after it, given src (B, S).

        -> one float32 array (tgt_lengths[b] + 1,) per sequence; see `generation.score`. Raises as
        calling the model does.
        """
        from pyx_transformer import generation

        return generation.score(self, src, tgt, src_lengths, tgt_lengths)

    def memory_estimate(self, batch: int, src_len: int, max_length: int, beam_size: int = 1) -> int:
        """Bytes that `generate` needs at its peak, beyond the weights: see
        `generation.memory_estimate`."""
        from pyx_transformer import generation

        return generation.memory_estimate(self, self.encoder, batch, src_len, max_length, beam_size)

    def forward(
        self, batch: Any, parameters: PassParameters, dropout: Any
    ) -> tuple[Floats, Callable[[Floats], None]]:
        """The decoder's rows of a training `Batch`; back takes their gradient and gives nothing."""
        run = TrainingPass(parameters, dropout, batch.input_sequences)
        rows, embed_back = self.side("tgt").forward(batch.inputs, run)
        source_run = TrainingPass(parameters, dropout, batch.source_sequences)
        source, source_back = self.side("src").forward(batch.sources, source_run)
        source, encoder_back = self.encoder.forward(source, source_run)
        run.memory = memory = Memory(source, batch.source_sequences)
        rows, decoder_back = self.decoder.forward(rows, run)

        def back(grad):
            embed_back(decoder_back(grad))
            if memory.gradient is not None:
                source_back(encoder_back(memory.gradient))

        return rows, back

    def ties(self) -> dict[str, str]:
        ties = {}
        if self.config.share_embeddings:
            ties["tgt_embedding.weight"] = "src_embedding.weight"
        if self.config.tie_output:
            shared = self.config.share_embeddings
            ties["output_projection.weight"] = (
                "src_embedding.weight" if shared else "tgt_embedding.weight"
            )
        return ties

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        super().load_state_dict(state)
        if self.config.share_embeddings:
            self.tgt_embedding.share(self.src_embedding)
