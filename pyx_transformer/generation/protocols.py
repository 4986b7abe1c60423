"""What generation needs of a model, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from pyx_transformer.embeddings import TokenEmbeddings
    from pyx_transformer.layers import Linear
    from pyx_transformer.sequences import Sequences
    from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder


class Decoding(Protocol):
    """A model that gives the next token of a target."""

    config: Any  # with decoder, tgt_vocab_size, start_id, end_id, longest, max_length
    has_encoder: ClassVar[bool]
    has_decoder: ClassVar[bool]
    generation_options: Any
    decoder: TransformerDecoder
    output_projection: Linear

    def side(self, name: str) -> TokenEmbeddings:
        """How a side, "src" or "tgt", embeds its tokens."""

    def sequences(
        self, function: str, name: str, ids: ArrayLike, lengths: ArrayLike | None, batch: Any = "B"
    ) -> tuple[NDArray[np.int64], Sequences]:
        """Checked ids as rows."""

    def check_length(self, function: str, what: str, length: int) -> None:
        """Raise ValueError where positions do not reach as far."""


class Translating(Decoding, Protocol):
    """One whose target has a source."""

    encoder: TransformerEncoder

    def __call__(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_lengths: ArrayLike | None = None,
        tgt_lengths: ArrayLike | None = None,
        *,
        return_attention: bool = False,
    ) -> Any:
        """Logits, and attention where asked for."""
