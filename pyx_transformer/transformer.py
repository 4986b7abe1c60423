"""The whole model of "Attention Is All You Need": token ids in, logits out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.attention import Sequences
from pyx_transformer.config import TransformerConfig
from pyx_transformer.layers import Embedding, Layer, Linear, as_generator, as_state
from pyx_transformer.positions import sinusoidal_positions
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.generation import Generation


class AttentionWeights(NamedTuple):
    """Attention weights of a whole model, one array per layer, no averaging over heads."""

    encoder: list[NDArray[np.float32]]  # (B, H, S, S)
    decoder: list[NDArray[np.float32]]  # (B, H, T, T)
    cross: list[NDArray[np.float32]]  # (B, H, T, S)


class Transformer(Layer):
    """Embeddings, positions, encoder, decoder and output projection: the model of the paper.

    State-dict keys: encoder.*, decoder.* (PyTorch's), src_embedding.weight, tgt_embedding.weight,
    output_projection.weight, output_projection.bias, and src_positions.weight and
    tgt_positions.weight where positions are learned. Tied weights are stored once, under the key
    that comes first here, and `load_state_dict` takes either key.

    src_vocabulary and tgt_vocabulary are lists of tokens, or None; they are saved and loaded with
    the model.
    """

    def __init__(self, config: TransformerConfig, *, rng: np.random.Generator | int | None = None):
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"Transformer: config is {config!r}, expected a TransformerConfig")
        rng = as_generator("Transformer", rng)
        self.config = config
        self.src_vocabulary: list[str] | None = None
        self.tgt_vocabulary: list[str] | None = None
        options = {
            "activation": config.activation,
            "norm_first": config.norm_first,
            "final_norm": config.final_norm,
            "layer_norm_eps": config.layer_norm_eps,
            "rng": rng,
        }
        sizes = (config.d_model, config.num_heads, config.d_ff)
        self.src_embedding = Embedding(config.src_vocab_size, config.d_model, rng=rng)
        self.tgt_embedding = Embedding(config.tgt_vocab_size, config.d_model, rng=rng)
        if config.positions == "learned":
            self.src_positions = Embedding(config.max_length, config.d_model, rng=rng)
            self.tgt_positions = Embedding(config.max_length, config.d_model, rng=rng)
        self.encoder = TransformerEncoder(config.num_encoder_layers, *sizes, **options)
        self.decoder = TransformerDecoder(config.num_decoder_layers, *sizes, **options)
        self.output_projection = Linear(
            config.d_model, config.tgt_vocab_size, bias=config.output_bias, rng=rng
        )
        self._sinusoidal = np.empty((0, config.d_model), np.float32)
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
    ):
        """src (B, S), tgt (B, T) token ids -> logits (B, T, V), zeros from tgt_lengths[b] on.

        Logits at place t are for the token after tgt[:, t]. With return_attention, also the
        `AttentionWeights`.
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
            self.embed_target(tgt, targets.places()),
            targets,
            self.decoder.project(memory, sources),
            weights=weights.decoder,
            memory_weights=weights.cross,
        )
        logits = targets.padded(self.output_projection.apply(rows))
        return (logits, weights) if wanted else logits

    def encode(self, src: ArrayLike, src_lengths: ArrayLike | None = None) -> NDArray[np.float32]:
        """src (B, S) token ids -> memory (B, S, d_model), zeros from src_lengths[b] on."""
        src, sources = self.sequences("Transformer.encode", "src", src, src_lengths)
        return sources.padded(self.encoder.apply(self.embed_source(src, sources), sources))

    def generate(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        *,
        max_length: int | None = None,
    ) -> Generation:
        """Greedy translation of src (B, S): see `generation.generate`."""
        from pyx_transformer import generation

        return generation.generate(self, src, src_lengths, max_length=max_length)

    def score(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: ArrayLike | None = None,
        tgt_lengths: ArrayLike | None = None,
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given translations: see `generation.score`."""
        from pyx_transformer import generation

        return generation.score(self, src, tgt, src_lengths, tgt_lengths)

    def save(self, directory: str | os.PathLike) -> None:
        """Write config.json, model.safetensors and the vocabularies: see `checkpoints.save`."""
        from pyx_transformer import checkpoints

        checkpoints.save(self, directory)

    # Rows in, rows out: what generation builds on.

    def embed_source(self, ids, sources: Sequences):
        """ids (N,) -> rows (N, d_model) with scale and positions."""
        return self._embed("src", ids, sources.places())

    def embed_target(self, ids, places):
        """ids (N,) at their places (N,) in their sequences -> rows (N, d_model)."""
        return self._embed("tgt", ids, places)

    def _embed(self, side, ids, places):
        config = self.config
        embedding = self.src_embedding if side == "src" else self.tgt_embedding
        scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        positions = None
        if config.positions == "sinusoidal":
            positions = self._sinusoidal_up_to(int(places.max(initial=-1)) + 1)
        elif config.positions == "learned":
            positions = (self.src_positions if side == "src" else self.tgt_positions).weight
        return embedding.apply(ids, scale, positions, places)

    def _sinusoidal_up_to(self, length):
        """At least that many rows of the table, which grows by doubling."""
        table = self._sinusoidal
        if len(table) < length:
            config = self.config
            table = self._sinusoidal = sinusoidal_positions(
                max(length, 2 * len(table), 64),
                config.d_model,
                start=config.position_start,
                layout=config.position_layout,
                frequencies=config.position_frequencies,
            )
        return table

    def sequences(self, function, name, ids, lengths, batch="B"):
        """Checked ids (B, S) as rows (N,), and their Sequences."""
        axis = "S" if name == "src" else "T"
        embedding = self.src_embedding if name == "src" else self.tgt_embedding
        ids = _checks.as_integers(function, name, ids, -math.inf, math.inf, (batch, axis))
        if lengths is not None:
            because = (name, ids.shape)
            lengths = _checks.as_lengths(function, f"{name}_lengths", lengths, *ids.shape, because)
        sequences = Sequences.of(*ids.shape, lengths)
        self.check_length(function, f"{name} has length", int(sequences.counts.max(initial=0)))
        if sequences.is_padded:  # what fills up the batch may be anything
            ids = np.where(np.arange(sequences.length) < sequences.counts[:, None], ids, 0)
        ids = _checks.as_token_ids(function, name, ids, embedding.weight.shape)
        return sequences.rows(ids), sequences

    def check_length(self, function, what, length):
        """Raise ValueError where learned positions do not reach as far as `length`."""
        if self.config.positions == "learned" and length > self.config.max_length:
            raise ValueError(
                f"{function}: {what} {length}, expected at most max_length = "
                f"{self.config.max_length} because positions are learned"
            )

    # Tied weights.

    def _ties(self):
        """Pairs of keys that hold one weight, the stored one second."""
        ties = {}
        if self.config.share_embeddings:
            ties["tgt_embedding.weight"] = "src_embedding.weight"
        if self.config.tie_output:
            shared = self.config.share_embeddings
            ties["output_projection.weight"] = (
                "src_embedding.weight" if shared else "tgt_embedding.weight"
            )
        return ties

    def state_dict(self):
        state = super().state_dict()
        for key in self._ties():
            del state[key]
        return state

    def load_state_dict(self, state):
        state = as_state("Transformer.load_state_dict", state)
        ties = self._ties()
        for key, stored in ties.items():
            if key not in state:
                continue
            if stored in state and not np.array_equal(state[key], state[stored]):
                raise ValueError(
                    f"Transformer.load_state_dict: {key} differs from {stored}, expected the same "
                    "values because the config ties them"
                )
            state[stored] = state[key]
        for key, stored in ties.items():
            if stored in state:
                state[key] = state[stored]
        super().load_state_dict(state)
        if self.config.share_embeddings:
            self.tgt_embedding.share(self.src_embedding)

    @property
    def num_parameters(self):
        """How many numbers the parameters hold, tied ones counted once."""
        shapes = self._all_shapes()
        return sum(math.prod(s) for key, s in shapes.items() if key not in self._ties())
