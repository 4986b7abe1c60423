"""Texts in, texts out: a model with its tokenizers, used as one function.

translation      texts to texts of another language
continuation     the beginnings of texts to whole ones
texts            what these share: texts to ids that a model reads, hypotheses back to texts
"""

from pyx_transformer.pipelines.continuation import continue_texts
from pyx_transformer.pipelines.texts import GeneratedText
from pyx_transformer.pipelines.translation import translate

__all__ = ["GeneratedText", "continue_texts", "translate"]
