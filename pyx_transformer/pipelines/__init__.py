"""Texts in, texts out: a model with its tokenizers, used as one object.

translator       texts to texts of another language
text_generator   the beginnings of texts to whole ones, at once or as they grow
sentence_encoder texts to vectors, which `sentence_modules` says how
cross_encoder    pairs of texts to scores
classifiers      texts to labels, and the labels of their parts

opened           what all of them are made of: a directory or a model
reading          texts as ids that a model can read, and batches of them
attending        what a model attends to as it reads a text, to look at
texts            hypotheses back to texts (`generated_text`), and what to tell of them
progress         a bar on a terminal
"""

from pyx_transformer.pipelines.classifiers import Label, Span, TextClassifier, TokenClassifier
from pyx_transformer.pipelines.cross_encoder import CrossEncoder, Ranked
from pyx_transformer.pipelines.sentence_encoder import SentenceEncoder
from pyx_transformer.pipelines.text_generator import TextGenerator
from pyx_transformer.pipelines.translator import Translator

__all__ = [
    "CrossEncoder",
    "Label",
    "Ranked",
    "SentenceEncoder",
    "Span",
    "TextClassifier",
    "TextGenerator",
    "TokenClassifier",
    "Translator",
]


def __dir__() -> list[str]:
    return sorted(__all__)
