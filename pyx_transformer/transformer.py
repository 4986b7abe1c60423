"""The whole model of "Attention Is All You Need": token ids in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.attention import Sequences
from pyx_transformer.layers import Embedding, Linear, as_generator
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder
from pyx_transformer.token_model import TokenModel

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.config import TransformerConfig
    from pyx_transformer.generation import Generation, GenerationOptions
    from pyx_transformer.text import Tokenizer


class AttentionWeights(NamedTuple):
    """Attention weights of a whole model, one array per layer, no averaging over heads."""

    encoder: list[NDArray[np.float32]]  # (B, H, S, S)
    decoder: list[NDArray[np.float32]]  # (B, H, T, T)
    cross: list[NDArray[np.float32]]  # (B, H, T, S)


class Transformer(TokenModel):
    """Embeddings, positions, encoder, decoder and output projection: the model of the paper.

    Vaswani et al., 2017, section 3. Initialised from rng as its layers are. Raises TypeError or
    ValueError for what is no config or no rng.

    State-dict keys: encoder.*, decoder.* (PyTorch's), src_embedding.weight, tgt_embedding.weight,
    output_projection.weight, output_projection.bias, and src_positions.weight and
    tgt_positions.weight where positions are learned. Tied weights are stored once, under the key
    that comes first here, and `load_state_dict` takes either key.

    src_vocabulary and tgt_vocabulary are lists of tokens, or None; src_tokenizer and tgt_tokenizer
    are those of `text`, or None; generation_options are the defaults of `generate`, or None. All
    are saved and loaded with the model.
    """

    has_encoder = True

    def __init__(self, config: TransformerConfig, *, rng: np.random.Generator | int | None = None):
        super().__init__(config)
        rng = as_generator("Transformer", rng)
        self.src_vocabulary: list[str] | None = None
        self.tgt_vocabulary: list[str] | None = None
        self.src_tokenizer: Tokenizer | None = None
        self.tgt_tokenizer: Tokenizer | None = None
        self.generation_options: GenerationOptions | None = None
        self.src_embedding = Embedding(config.src_vocab_size, config.d_model, rng=rng)
        self.tgt_embedding = Embedding(config.tgt_vocab_size, config.d_model, rng=rng)
        self.src_positions = self.tgt_positions = None
        if config.positions == "learned":
            self.src_positions = Embedding(config.max_length, config.d_model, rng=rng)
            self.tgt_positions = Embedding(config.max_length, config.d_model, rng=rng)
        self.encoder = self._stack(TransformerEncoder, config.num_encoder_layers, rng)
        self.decoder = self._stack(TransformerDecoder, config.num_decoder_layers, rng)
        self.output_projection = Linear(
            config.d_model, config.tgt_vocab_size, bias=config.output_bias, rng=rng
        )
        if self._ties():
            self.load_state_dict(self.state_dict())

    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: ArrayLike | None = None,
        tgt_lengths: ArrayLike | None = None,
        *,
        return_attention: bool = False,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], AttentionWeights]:
        """src (B, S), tgt (B, T) token ids -> logits (B, T, V) float32.

        Logits at position t are for the token after tgt[:, t]; they are zeros from tgt_lengths[b]
        on. src_lengths and tgt_lengths (B,) count the real tokens: all unless given. With
        return_attention, also the `AttentionWeights`. Raises TypeError or ValueError, naming the
        argument, also where learned positions do not reach as far.
        """
        this = "Transformer"
        src, sources = self.sequences(this, "src", src, src_lengths)
        batch = len(sources.counts)
        tgt, targets = self.sequences(this, "tgt", tgt, tgt_lengths, batch)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        queries, keys = targets.length, sources.length
        weights = AttentionWeights(
            self.encoder.new_weights(wanted, batch, keys, keys),
            self.decoder.new_weights(wanted, batch, queries, queries),
            self.decoder.new_weights(wanted, batch, queries, keys),
        )
        memory = self.encoder.apply(
            self.embed_source(src, sources), sources, weights=weights.encoder
        )
        rows = self.decoder.apply(
            self.embed_target(tgt, targets.position_ids()),
            targets,
            self.decoder.project(memory, sources),
            weights=weights.decoder,
            memory_weights=weights.cross,
        )
        logits = targets.padded(self.output_projection.apply(rows))
        return (logits, weights) if wanted else logits

    def encode(self, src: ArrayLike, src_lengths: ArrayLike | None = None) -> NDArray[np.float32]:
        """src (B, S) token ids -> memory (B, S, d_model) float32, zeros from src_lengths[b] on.

        Raises as calling the model does.
        """
        src, sources = self.sequences("Transformer.encode", "src", src, src_lengths)
        return sources.padded(self.encoder.apply(self.embed_source(src, sources), sources))

    def generate(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings,
    ) -> Generation:
        """Hypotheses for src (B, S) token ids, real up to src_lengths (B,): greedy unless asked.

        options and single settings, such as beam_size=4: see `GenerationOptions`. Each hypothesis
        starts with config.start_id and ends by itself at config.end_id or after max_length tokens.
        An empty source has exactly the empty translation. The result of a sentence does not depend
        on the others.

        Raises TypeError or ValueError for bad ids, lengths or options, or where learned positions
        do not reach max_length; MemoryError where there is no room for max_length.
        """
        from pyx_transformer import generation

        this = "Transformer.generate"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        return generation.generate(self, src, src_lengths, options)

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

        return generation.memory_estimate(self, batch, src_len, max_length, beam_size)

    def save(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write config.json, model.safetensors and what goes with it: see `checkpoints.save`."""
        from pyx_transformer import checkpoints

        checkpoints.save(self, directory, dtype=dtype)

    # Rows in, rows out: what generation builds on.

    def embed_source(self, ids, sources: Sequences):
        """ids (N,) -> rows (N, d_model) with scale and positions."""
        return self._embed(self.src_embedding, self.src_positions, ids, sources.position_ids())

    def embed_target(self, ids, position_ids):
        """ids (N,) at their positions (N,) in their sequences -> rows (N, d_model)."""
        return self._embed(self.tgt_embedding, self.tgt_positions, ids, position_ids)

    def sequences(self, function, name, ids, lengths, batch="B"):
        """Checked ids (B, S) as rows (N,), and their Sequences."""
        axis = "S" if name == "src" else "T"
        embedding = self.src_embedding if name == "src" else self.tgt_embedding
        return self._sequences(function, name, ids, lengths, embedding, (batch, axis))

    def _ties(self):
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
