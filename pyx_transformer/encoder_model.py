"""The encoder-only Transformer: token ids in, a row for each of them out, and its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from pyx_transformer import _checks
from pyx_transformer._reprs import counted
from pyx_transformer.config import EncoderConfig
from pyx_transformer.embeddings import TokenEmbeddings
from pyx_transformer.head_configs import ClassifierConfig, MaskedLMConfig
from pyx_transformer.heads import ClassifierHead, MaskedLMHead, activated, tanh
from pyx_transformer.layers import Embedding, Linear
from pyx_transformer.parameters import PassParameters, Rng
from pyx_transformer.sequences import Sequences
from pyx_transformer.stacks import TransformerEncoder, given, new_hidden, padded_hidden
from pyx_transformer.sub_layers import TrainingPass, in_turn
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

    from pyx_transformer import _wanted
    from pyx_transformer._wanted import Given
    from pyx_transformer.tokenizers.protocol import Tokenizer

    Floats = NDArray[np.float32]


class EncoderModel(TokenModel):
    """Embeddings with token types and a norm, a stack that sees both ways, a pooler, a head.

    Devlin et al., 2019 (BERT). `encode` gives the last rows, model(src) the head's logits;
    `EncoderModel.load` opens one that there is. All of it is of token ids:
    `pt.SentenceEncoder(model).encode(texts)` is of texts, and of a head for labels
    `pt.TextClassifier`, `pt.TokenClassifier` or `pt.CrossEncoder`.

    State-dict keys: encoder.* (for plain layers those of torch.nn.TransformerEncoder),
    src_embedding.weight; src_positions.weight where positions are learned, src_embedding_norm.*,
    token_type_embedding.weight, embedding_projection.*, pooler.*, where the config has them; of the
    masked-token head head.dense.*, head.norm.*, output_projection.bias, and the embedding's weight
    as output_projection.weight unless that is its own; of a classifier head.dense.*, head.norm.*
    where there are such, and head.classifier.*.

    src_tokenizer is one of `text`, or None; src_vocabulary is its list of tokens, or a list set in
    its place, or None. Both are saved and loaded with the model.
    """

    config_type = EncoderConfig
    of_texts = "SentenceEncoder"
    has_encoder, has_decoder = True, False
    switches: ClassVar = {"pooler.weight": "pooler"}
    config: EncoderConfig
    src_embedding: Embedding
    src_vocabulary = Vocabulary()

    def __init__(self, config: EncoderConfig, *, rng: Rng = None):
        """config: its sizes, or its layers, and its head; rng: what the weights are drawn from, as
        in `Linear`.

        Raises TypeError or ValueError for what is no config or no rng.
        """
        super().__init__(config, rng)
        self.src_tokenizer: Tokenizer | None = None

    def _build(self, rng):
        config, width = self.config, self.config.embedding_width
        self._embeddings(rng, "src")
        self.token_type_embedding = self.embedding_projection = self.pooler = None
        self.head: MaskedLMHead | ClassifierHead | None = None
        if config.num_token_types:
            self.token_type_embedding = Embedding(config.num_token_types, width, rng=rng)
        if config.embedding_size is not None:
            self.embedding_projection = Linear(width, config.d_model, rng=rng)
        plain = self.side("src")
        self._sides["src"] = TokenEmbeddings(
            config,
            plain.tokens,
            plain.positions,
            plain.norm,
            self.token_type_embedding,
            self.embedding_projection,
        )
        self.encoder = TransformerEncoder.of(config.encoder, rng)
        if config.pooler:
            self.pooler = Linear(config.d_model, config.d_model, rng=rng)
        if isinstance(config.head, MaskedLMConfig):
            self.head = MaskedLMHead(config.head, config.d_model, width, rng)
            self.output_projection = Linear(width, config.src_vocab_size, rng=rng)
        elif config.head is not None:
            self.head = ClassifierHead(config.head, config.d_model, rng)

    def in_words(self) -> list[str]:
        words, head = self.config.encoder.in_words(), self.config.head
        if isinstance(head, ClassifierConfig):
            words.append(counted(len(head.labels), "label"))
        elif head is not None:
            words.append("tells masked tokens")
        return [*words, *super().in_words()]

    @overload
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.Alone],
    ) -> Floats: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithHidden],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.Either],
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def __call__(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """src (B, S) token ids -> the head's logits: (B, S, V) float32, zeros in the padding, for
        masked tokens, with as many labels as V for a classifier of tokens, (B, labels) for one of
        sequences, zeros where one is empty.

        Arguments, and what else is given, as for `encode`. Raises as that does, and ValueError for
        a model without a head.
        """
        this = "EncoderModel"
        if self.head is None:
            raise ValueError(f"{this}: it has no head, expected a call of encode or pooled")
        rows, sources, extra = self._encoded(
            this, src, src_lengths, token_types, return_attention, return_hidden_states
        )
        logits = self.logits_of(rows, sources)
        if not self._is_of_sequences:
            logits = sources.padded(logits)
        return given(logits, *extra)

    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.Alone],
    ) -> Floats: ...
    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithAttention],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithHidden],
    ) -> tuple[Floats, list[Floats]]: ...
    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.WithBoth],
    ) -> tuple[Floats, list[Floats], list[Floats]]: ...
    @overload
    def encode(
        self,
        src: ArrayLike,
        src_lengths: Given = None,
        token_types: Given = None,
        **wanted: Unpack[_wanted.Either],
    ) -> Floats | tuple[Floats | list[Floats], ...]: ...
    def encode(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> Floats | tuple[Floats | list[Floats], ...]:
        """src (B, S) token ids -> last hidden state (B, S, d_model) float32, zeros in the padding.

        src_lengths (B,) counts the real tokens: all unless given. token_types (B, S) from 0 to
        num_token_types - 1: 0 unless given. With return_attention, also the list of each layer's
        weights (B, H, S, S); with return_hidden_states, also the list of rows (B, S, d_model) after
        the embeddings and after each layer, before a final norm. Raises TypeError or ValueError,
        naming the argument, also where learned positions do not reach as far.
        """
        rows, sources, extra = self._encoded(
            "EncoderModel.encode",
            src,
            src_lengths,
            token_types,
            return_attention,
            return_hidden_states,
        )
        return given(sources.padded(rows), *extra)

    def pooled(
        self,
        src: ArrayLike,
        src_lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """src (B, S) token ids -> tanh(W h + b) (B, d_model) float32 of each first row h.

        Zeros for an empty sequence. Raises as `encode` does, and ValueError for a model without a
        pooler.
        """
        this = "EncoderModel.pooled"
        if self.pooler is None:
            raise ValueError(f"{this}: the model has no pooler, expected pooler=True in its config")
        rows, sources, _ = self._encoded(this, src, src_lengths, token_types, False, False)
        out = np.zeros((len(sources.counts), self.config.d_model), np.float32)
        real = sources.counts > 0
        out[real] = tanh(self.pooler.apply(rows[sources.starts[real]]))
        return out

    @property
    def _is_of_sequences(self) -> bool:
        """Whether the head gives one row of logits for each sequence."""
        head = self.config.head
        return isinstance(head, ClassifierConfig) and not head.of_tokens

    def rows_of(
        self,
        function: str,
        texts: list[NDArray[np.int64]],
        types: list[NDArray[np.int64]] | None = None,
    ) -> tuple[NDArray[np.float32], Sequences]:
        """Token ids (S,) of at least one text -> the rows (N, d_model) of all of them, and which
        are whose.

        types: token types of each text. Raises ValueError for ids that the model lacks, and where
        learned positions do not reach as far.
        """
        ids, sources = self.sequences(function, "src", texts, None)
        table = self.token_type_embedding
        flat = None
        if table is not None:
            flat = np.zeros_like(ids)
            if types is not None:
                flat = _checks.as_token_ids(
                    function, "token types", np.concatenate(types), table.weight.shape
                )
        rows = self.side("src").apply(ids, sources.position_ids(), flat)
        return self.encoder.apply(rows, sources), sources

    def logits_of(self, rows: NDArray[np.float32], sources: Sequences) -> NDArray[np.float32]:
        """The head's logits: of each row (N, V) or (N, labels), or of each sequence (B, labels),
        zeros where one is empty."""
        assert self.head is not None
        if isinstance(self.head, MaskedLMHead):
            return self.output_projection.apply(self.head.apply(rows))
        if self.head.config.of_tokens:
            return self.head.apply(rows)
        logits = np.zeros((len(sources.counts), len(self.head.config.labels)), np.float32)
        real = sources.counts > 0
        logits[real] = self.head.apply(self._of_sequences(rows, sources, real))
        return logits

    def _of_sequences(self, rows, sources, real):
        """A row for each real sequence, as the classifier's pooling says."""
        assert isinstance(self.config.head, ClassifierConfig)
        if self.config.head.pooling == "mean":
            return means(rows, sources.starts[real], sources.counts[real])
        first = rows[sources.starts[real]]
        return first if self.pooler is None else tanh(self.pooler.apply(first))

    def _encoded(self, this, src, src_lengths, token_types, return_attention, return_hidden):
        """The last rows, their sequences, and attention and hidden states as asked for."""
        ids, sources = self.sequences(this, "src", src, src_lengths)
        types = self._types(this, token_types, sources)
        batch, length = len(sources.counts), sources.length
        wanted = _checks.as_flag(this, "return_attention", return_attention)
        attention = self.encoder.new_attention(wanted, batch, length, length)
        rows = self.side("src").apply(ids, sources.position_ids(), types)
        hidden = new_hidden(this, return_hidden, rows)
        rows = self.encoder.apply(rows, sources, attention=attention, hidden=hidden)
        return rows, sources, (attention, padded_hidden(hidden, sources))

    def _types(self, this: str, token_types: Any, sources: Sequences):
        """Token types as rows (N,), None where the model has none."""
        if self.token_type_embedding is None:
            if token_types is not None:
                raise ValueError(f"{this}: token_types were given, expected None for this model")
            return None
        if token_types is None:
            return np.zeros(int(sources.counts.sum()), np.int64)
        shape = (len(sources.counts), sources.length)
        table = self.token_type_embedding.weight.shape
        types = _checks.as_token_ids(this, "token_types", token_types, table, shape)
        return sources.rows(types)

    def forward(
        self, batch: Any, parameters: PassParameters, dropout: Any
    ) -> tuple[Floats, Callable[[Floats], None]]:
        """The head's rows of a training `Batch`, which `projection` reads: of all tokens, of those
        at its places, or one of each sequence; back takes their gradient and gives nothing."""
        if self.head is None:
            raise ValueError("EncoderModel.forward: it has no head, expected one to train it with")
        run = TrainingPass(parameters, dropout, batch.input_sequences)
        types = batch.token_types
        if types is None and self.token_type_embedding is not None:
            types = np.zeros_like(batch.inputs)
        rows, embed_back = self.side("src").forward(batch.inputs, run, types)
        rows, encoder_back = self.encoder.forward(rows, run)
        run = run.over(batch.target_bounds)
        rows, read_back = self._read(rows, batch, run)
        rows, head_back = self.head.forward(rows, run)
        return rows, in_turn([embed_back, encoder_back, read_back, head_back])

    def _read(self, rows, batch, run):
        """The rows of a training `Batch` that the head reads, with their way back; run is over
        these."""
        head, sequences = self.config.head, batch.input_sequences
        if not isinstance(head, ClassifierConfig) or head.of_tokens:
            return picked(rows, slice(None) if batch.places is None else batch.places)
        if head.pooling == "mean":
            return averaged(rows, sequences.starts, sequences.counts)
        rows, first_back = picked(rows, sequences.starts)
        if self.pooler is None:
            return rows, first_back
        rows, pooler_back = self.pooler.forward(rows, run.parameters)
        rows, tanh_back = activated(rows, "tanh")
        return rows, in_turn([first_back, pooler_back, tanh_back])

    @property
    def projection(self) -> Linear:
        return self.head.classifier if isinstance(self.head, ClassifierHead) else super().projection

    def ties(self) -> dict[str, str]:
        tied = {"output_projection.weight": "src_embedding.weight"}
        head = self.config.head
        return tied if isinstance(head, MaskedLMConfig) and head.tied else {}


def means(rows, starts, counts):
    """The mean of each run of rows, added up in float64."""
    sums = np.add.reduceat(rows.astype(np.float64), starts, axis=0)
    return (sums / counts[:, None]).astype(np.float32)


def averaged(rows, starts, counts):
    """`means` of all rows, one run after another, with their way back."""
    shares = counts[:, None].astype(np.float32)
    return means(rows, starts, counts), lambda grad: np.repeat(grad / shares, counts, axis=0)


def picked(rows, places):
    """rows[places], each row once at most, with their way back."""

    def back(grad):
        grad_rows = np.zeros_like(rows)
        grad_rows[places] = grad
        return grad_rows

    return rows[places], back
