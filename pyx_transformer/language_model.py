"""The decoder-only Transformer: token ids in, logits of the next ones out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.config import TransformerConfig, TransformerLMConfig
from pyx_transformer.layers import Linear
from pyx_transformer.parameters import PassParameters, Rng
from pyx_transformer.stacks import TransformerDecoder, given, new_hidden, padded_hidden
from pyx_transformer.sub_layers import TrainingPass
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

    from pyx_transformer import _wanted
    from pyx_transformer._wanted import Given
    from pyx_transformer.generation import Generation, GenerationOptions, Hypothesis
    from pyx_transformer.generation.settings import GenerationSettings
    from pyx_transformer.sequences import Sequences
    from pyx_transformer.tokenizers.protocol import Tokenizer

    Floats = NDArray[np.float32]


class TransformerLM(TokenModel):
    """Embedding, positions, a causal stack without cross-attention, and output projection.

    Radford et al., 2018 and 2019 (GPT). model(tgt) gives the logits, `generate` what follows a
    prompt; `TransformerLM.load` opens one that there is. All of it is of token ids:
    `pt.TextGenerator(model).generate(texts)` is of texts.

    State-dict keys: decoder.* (for plain layers those of torch.nn.TransformerEncoder),
    tgt_embedding.weight, output_projection.weight, output_projection.bias; tgt_positions.weight
    where positions are learned, tgt_embedding_norm.* where there is such. With tie_output the
    projection's weight is the embedding's.

    tgt_tokenizer is one of `text`, or None; tgt_vocabulary is its list of tokens, or a list set in
    its place, or None; generation_options are the defaults of `generate`, or None. All are saved
    and loaded with the model.
    """

    config_type = TransformerLMConfig
    of_texts = "TextGenerator"
    has_encoder, has_decoder = False, True
    switches: ClassVar = {"output_projection.bias": "output_bias"}
    config: TransformerLMConfig
    tgt_vocabulary = Vocabulary()

    def __init__(self, config: TransformerLMConfig | TransformerConfig, *, rng: Rng = None):
        """config: its sizes, or its layers; of a `TransformerConfig` the decoder counts, without
        cross-attention. rng: what the weights are drawn from, as in `Linear`.

        Raises TypeError or ValueError for what is no config or no rng.
        """
        if isinstance(config, TransformerConfig):
            config = TransformerLMConfig.of_decoder(config)
        super().__init__(config, rng)
        self.tgt_tokenizer: Tokenizer | None = None
        self.generation_options: GenerationOptions | None = None

    def _build(self, rng):
        config = self.config
        self._embeddings(rng, "tgt")
        self.decoder = TransformerDecoder.of(config.decoder, rng)
        self.output_projection = Linear(
            config.d_model,
            config.tgt_vocab_size,
            bias=config.output_bias,
            softcap=config.logits_softcap,
            rng=rng,
        )

    def in_words(self) -> list[str]:
        return [*self.config.decoder.in_words(), *super().in_words()]

    @overload
    def __call__(
        self, tgt: ArrayLike, tgt_lengths: Given = None, **wanted: Unpack[_wanted.Alone]
    ) -> Floats: ...
    @overload
    def __call__(
        self, tgt: ArrayLike, tgt_lengths: Given = None, **wanted: Unpack[_wanted.WithAttention]
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self, tgt: ArrayLike, tgt_lengths: Given = None, **wanted: Unpack[_wanted.WithHidden]
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self, tgt: ArrayLike, tgt_lengths: Given = None, **wanted: Unpack[_wanted.WithBoth]
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self, tgt: ArrayLike, tgt_lengths: Given = None, **wanted: Unpack[_wanted.Either]
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def __call__(
        self,
        tgt: ArrayLike,
        tgt_lengths: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """tgt (B, T) token ids -> logits (B, T, V) float32, zeros from tgt_lengths[b] on.

        Logits at position t are for the token after tgt[:, t]. With return_attention, also the list
        of each layer's weights (B, H, T, T); with return_hidden_states, also the list of rows
        (B, T, d_model) after the embeddings and after each layer, before a final norm. Raises
        TypeError or ValueError, naming the argument, also where learned positions do not reach as
        far.
        """
        this = "TransformerLM"
        ids, targets = self.sequences(this, "tgt", tgt, tgt_lengths)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        batch, length = len(targets.counts), targets.length
        attention = self.decoder.new_attention(wanted, batch, length, length)
        rows = self.side("tgt").apply(ids, targets.position_ids())
        hidden = new_hidden(this, return_hidden_states, rows)
        rows = self.decoder.apply(rows, targets, attention=attention, hidden=hidden)
        logits = targets.padded(self.output_projection.apply(rows))
        return given(logits, attention, padded_hidden(hidden, targets))

    def rows_of(
        self, function: str, texts: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.float32], Sequences]:
        """Token ids (T,) of at least one text -> the last rows (N, d_model) of all of them, and
        which are whose. Raises as calling the model does."""
        ids, targets = self.sequences(function, "tgt", texts, None)
        rows = self.side("tgt").apply(ids, targets.position_ids())
        return self.decoder.apply(rows, targets), targets

    def generate(
        self,
        prompt: ArrayLike,
        prompt_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Generation:
        """Hypotheses that begin with prompt (B, T) token ids, real up to prompt_lengths (B,).
        `pt.TextGenerator(model).generate(texts)` does it for texts.

        prompt may also be a list of sequences of different lengths.
        Before the prompt comes config.start_id; a prompt may then be empty. It is read in one pass,
        and plays the part of a forced prefix: it is returned, but counts in no score and no length,
        and holds no end token, except first where start_id is None.
        options and single settings: see `GenerationOptions`; neither coverage_penalty nor prefix
        nor return_attention.

        Raises TypeError or ValueError for bad ids, lengths or options; MemoryError where there is
        no room for what comes to be.
        """
        from pyx_transformer import generation

        this = "TransformerLM.generate"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        found = generation.begun_alone(this, self, prompt, prompt_lengths, options)
        return generation.in_order(*found)

    def generate_as_completed(
        self,
        prompt: ArrayLike,
        prompt_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """What `generate` gives, a prompt at a time: its number and its hypotheses, best first, as
        soon as they are found. Raises as `generate` does."""
        from pyx_transformer import generation

        this = "TransformerLM.generate_as_completed"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        return generation.begun_alone(this, self, prompt, prompt_lengths, options)[1]

    def score(
        self, tgt: ArrayLike, tgt_lengths: ArrayLike | None = None
    ) -> list[NDArray[np.float32]]:
        """Log-probability of every token of tgt (B, T), after config.start_id, and of the end.

        -> one float32 array (tgt_lengths[b] + 1,) per sequence; where start_id is None, of every
        token but the first and of the end, (tgt_lengths[b],). Raises as calling the model does,
        and ValueError for an empty sequence where start_id is None.
        """
        from pyx_transformer import generation

        return generation.score_alone(self, tgt, tgt_lengths)

    def memory_estimate(
        self, batch: int, prompt_len: int, max_length: int, beam_size: int = 1
    ) -> int:
        """Bytes that `generate` needs at its peak, beyond the weights: see
        `generation.memory_estimate`."""
        from pyx_transformer import generation

        return generation.memory_estimate(self, None, batch, prompt_len, max_length, beam_size)

    def forward(
        self, batch: Any, parameters: PassParameters, dropout: Any
    ) -> tuple[Floats, Callable[[Floats], None]]:
        """The rows of a training `Batch`; back takes their gradient and gives nothing."""
        run = TrainingPass(parameters, dropout, batch.input_sequences)
        rows, embed_back = self.side("tgt").forward(batch.inputs, run)
        rows, decoder_back = self.decoder.forward(rows, run)
        return rows, lambda grad: embed_back(decoder_back(grad))

    def ties(self) -> dict[str, str]:
        tied = {"output_projection.weight": "tgt_embedding.weight"}
        return tied if self.config.tie_output else {}
