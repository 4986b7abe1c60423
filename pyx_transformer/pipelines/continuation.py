"""The beginnings of texts to whole ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyx_transformer._kinds import as_texts
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pipelines.texts import generated_texts, options_of
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyx_transformer.pipelines.texts import GeneratedText
    from pyx_transformer.token_model import TokenModel


def continue_texts(
    model: TokenModel, prompts: Sequence[str], **settings: Any
) -> list[list[GeneratedText]]:
    """Texts that begin with each prompt, the best or first drawn first.

    settings: those of `GenerationOptions`, such as num_samples=3, temperature=0.8, on top of the
    model's own, or `options` in their place. Unknown tokens are not generated.

    Raises TypeError where model is no TransformerLM or prompts are no list of strings, ValueError
    for prompts that are no Unicode and where the model has no tokenizer, and what `model.generate`
    does.
    """
    this = "continue_texts"
    if not isinstance(model, TransformerLM):
        hint = "; `translate` is for those" if isinstance(model, Transformer) else ""
        raise TypeError(
            f"{this}: model is a {type(model).__name__}, expected a TransformerLM{hint}"
        )
    tokenizer = tokenizer_of(this, model, "tgt_tokenizer")
    texts, options = as_texts(this, "prompts", prompts), options_of(this, model, settings)
    if not texts:
        return []
    generation = model.generate([tokenizer.encode(text) for text in texts], options=options)
    return generated_texts(generation, tokenizer)
