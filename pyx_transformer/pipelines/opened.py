"""What a pipeline is made of: a directory, or a model."""

from __future__ import annotations

import os
from typing import TypeVar

from pyx_transformer._checks import brief
from pyx_transformer._reprs import with_article
from pyx_transformer.checkpoints import load
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.head_configs import ClassifierConfig
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.token_model import TokenModel
from pyx_transformer.transformer import Transformer

M = TypeVar("M", bound=TokenModel)


def opened(function: str, model: str | os.PathLike[str] | TokenModel, *kinds: type[M]) -> M:
    """`model`, or the one of that directory. Raises what `load` does, and TypeError for another
    kind, saying what is for those."""
    found = load(model) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(found, kinds):
        names = " or ".join(with_article(kind.__name__) for kind in kinds)
        other = pipeline_of(found)
        hint = f"; {other} is for those" if other is not None else ""
        is_model = isinstance(found, TokenModel)
        came = with_article(type(found).__name__) if is_model else brief(found)
        raise TypeError(f"{function}: model is {came}, expected {names}{hint}")
    return found


def pipeline_of(model: object) -> str | None:
    """The class for models such as this one."""
    if isinstance(model, Transformer):
        return "Translator"
    if isinstance(model, TransformerLM):
        return "TextGenerator"
    if not isinstance(model, EncoderModel):
        return None
    head = model.config.head
    if not isinstance(head, ClassifierConfig):
        return "SentenceEncoder"
    if head.of_tokens:
        return "TokenClassifier"
    return "CrossEncoder" if len(head.labels) == 1 else "TextClassifier"


def classifier(
    function: str, model: str | os.PathLike[str] | EncoderModel, *, of_tokens: bool
) -> tuple[EncoderModel, ClassifierConfig]:
    """An encoder with a head for labels, of tokens or of texts, and that head's config. Raises as
    `opened` does, and ValueError for another head."""
    found = opened(function, model, EncoderModel)
    head = found.config.head
    if not isinstance(head, ClassifierConfig) or head.of_tokens != of_tokens:
        what = "labels of tokens" if of_tokens else "labels of texts"
        raise ValueError(
            f"{function}: model has no head for {what}; {pipeline_of(found)} is for such models"
        )
    return found, head
