"""Texts to texts of another language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import as_flag
from pyx_transformer._kinds import as_texts
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pipelines.texts import generated_texts, options_of
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyx_transformer.pipelines.texts import GeneratedText
    from pyx_transformer.token_model import TokenModel


def translate(
    model: TokenModel,
    texts: Sequence[str],
    *,
    spaced: bool = False,
    **settings: Any,
) -> list[list[GeneratedText]]:
    """The translations of each text, the best first.

    settings: those of `GenerationOptions`, such as beam_size=4, num_hypotheses=4, on top of the
    model's own, or `options` in their place. Unknown tokens are not generated. spaced: words stand
    between spaces in languages without them too.

    Raises TypeError where model is no Transformer or texts are no list of strings, ValueError for
    texts that are no Unicode and where the model has no tokenizers, and what `model.generate` does.
    """
    this = "translate"
    if not isinstance(model, Transformer):
        hint = "; `continue_texts` is for those" if isinstance(model, TransformerLM) else ""
        raise TypeError(f"{this}: model is a {type(model).__name__}, expected a Transformer{hint}")
    as_flag(this, "spaced", spaced)
    source, target = (tokenizer_of(this, model, f"{side}_tokenizer") for side in ("src", "tgt"))
    texts, options = as_texts(this, "texts", texts), options_of(this, model, settings)
    if not texts:
        return []
    generation = model.generate([source.encode(text) for text in texts], options=options)
    return generated_texts(generation, target, spaced=spaced)
