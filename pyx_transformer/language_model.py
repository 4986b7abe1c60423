"""The decoder-only Transformer: token ids in, logits of the next ones out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer import _checks
from pyx_transformer.layers import Embedding, Linear, as_generator
from pyx_transformer.stacks import TransformerEncoder
from pyx_transformer.token_model import TokenModel

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.config import TransformerConfig
    from pyx_transformer.generation import Generation, GenerationOptions
    from pyx_transformer.text import Tokenizer


class TransformerLM(TokenModel):
    """Embedding, positions, a causal stack without cross-attention, and output projection.

    Radford et al., 2018 and 2019 (GPT). Initialised from rng as its layers are. Raises TypeError or
    ValueError for what is no config or no rng.

    Built from the decoder's part of the config: tgt_vocab_size, num_decoder_layers and all that is
    not the source's. State-dict keys: decoder.* (those of torch.nn.TransformerEncoder),
    tgt_embedding.weight, output_projection.weight, output_projection.bias, and
    tgt_positions.weight where positions are learned. With tie_output the projection's weight is the
    embedding's.

    tgt_vocabulary is a list of tokens, or None; tgt_tokenizer is one of `text`, or None;
    generation_options are the defaults of `generate`, or None. All are saved and loaded with the
    model.
    """

    has_encoder = False

    def __init__(self, config: TransformerConfig, *, rng: np.random.Generator | int | None = None):
        super().__init__(config)
        rng = as_generator("TransformerLM", rng)
        self.tgt_vocabulary: list[str] | None = None
        self.tgt_tokenizer: Tokenizer | None = None
        self.generation_options: GenerationOptions | None = None
        self.tgt_embedding = Embedding(config.tgt_vocab_size, config.d_model, rng=rng)
        self.tgt_positions = None
        if config.positions == "learned":
            self.tgt_positions = Embedding(config.max_length, config.d_model, rng=rng)
        self.decoder = self._stack(TransformerEncoder, config.num_decoder_layers, rng)
        self.output_projection = Linear(
            config.d_model, config.tgt_vocab_size, bias=config.output_bias, rng=rng
        )
        if self._ties():
            self.load_state_dict(self.state_dict())

    def __call__(
        self,
        tgt: ArrayLike,
        tgt_lengths: ArrayLike | None = None,
        *,
        return_attention: bool = False,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """tgt (B, T) token ids -> logits (B, T, V) float32, zeros from tgt_lengths[b] on.

        Logits at position t are for the token after tgt[:, t]. With return_attention, also the list
        of each layer's weights (B, H, T, T). Raises TypeError or ValueError, naming the argument,
        also where learned positions do not reach as far.
        """
        this = "TransformerLM"
        ids, targets = self.sequences(this, "tgt", tgt, tgt_lengths)
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        batch, length = len(targets.counts), targets.length
        weights = self.decoder.new_weights(wanted, batch, length, length)
        rows = self.decoder.apply(
            self.embed_target(ids, targets.position_ids()), targets, weights=weights, is_causal=True
        )
        logits = targets.padded(self.output_projection.apply(rows))
        return (logits, weights) if wanted else logits

    def generate(
        self,
        prompt: ArrayLike,
        prompt_lengths: ArrayLike | None = None,
        *,
        options: GenerationOptions | None = None,
        **settings,
    ) -> Generation:
        """Hypotheses that begin with prompt (B, T) token ids, real up to prompt_lengths (B,).

        Before the prompt comes config.start_id; a prompt may be empty. It is read in one pass, and
        plays the part of a forced prefix: it is returned, but counts in no score and no length, and
        holds no end token.
        options and single settings: see `GenerationOptions`; neither coverage_penalty nor prefix
        nor return_attention.

        Raises TypeError or ValueError for bad ids, lengths or options; MemoryError where there is
        no room for max_length.
        """
        from pyx_transformer import generation

        this = "TransformerLM.generate"
        options = generation.GenerationOptions.chosen(this, self, options, settings)
        return generation.generate_alone(self, prompt, prompt_lengths, options)

    def score(
        self, tgt: ArrayLike, tgt_lengths: ArrayLike | None = None
    ) -> list[NDArray[np.float32]]:
        """Log-probability of every token of tgt (B, T), after config.start_id, and of the end.

        -> one float32 array (tgt_lengths[b] + 1,) per sequence. Raises as calling the model does.
        """
        from pyx_transformer import generation

        return generation.score_alone(self, tgt, tgt_lengths)

    def memory_estimate(
        self, batch: int, prompt_len: int, max_length: int, beam_size: int = 1
    ) -> int:
        """Bytes that `generate` needs at its peak, beyond the weights: see
        `generation.memory_estimate`."""
        from pyx_transformer import generation

        return generation.memory_estimate(self, batch, prompt_len, max_length, beam_size)

    def save(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write config.json, model.safetensors and what goes with it: see `checkpoints.save`."""
        from pyx_transformer import checkpoints

        checkpoints.save(self, directory, dtype=dtype)

    # Rows in, rows out: what generation builds on.

    def embed_target(self, ids, position_ids):
        """ids (N,) at their positions (N,) in their sequences -> rows (N, d_model)."""
        return self._embed(self.tgt_embedding, self.tgt_positions, ids, position_ids)

    def sequences(self, function, name, ids, lengths):
        """Checked ids (B, T) as rows (N,), and their Sequences."""
        return self._sequences(function, name, ids, lengths, self.tgt_embedding, ("B", "T"))

    def _ties(self):
        return (
            {"output_projection.weight": "tgt_embedding.weight"} if self.config.tie_output else {}
        )
