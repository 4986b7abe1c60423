"""The subcommands, each a thin layer over the Python function that does it.

training     vocab, train, evaluate
generation   translate, generate, score
encoders     embed, rank, classify, tag
models       inspect, convert
completion   completion
lines        texts as they come, and results
arguments    what else they share
"""

from pyx_transformer.commands.completion import add_completion
from pyx_transformer.commands.encoders import add_classify, add_embed, add_rank, add_tag
from pyx_transformer.commands.generation import add_generate, add_score, add_translate
from pyx_transformer.commands.models import add_convert, add_inspect
from pyx_transformer.commands.training import add_evaluate, add_train, add_vocab

ADDED = (
    add_vocab,
    add_train,
    add_evaluate,
    add_translate,
    add_generate,
    add_score,
    add_embed,
    add_rank,
    add_classify,
    add_tag,
    add_inspect,
    add_convert,
    add_completion,
)
