"""A task of five sentence pairs, its recipe, and how the command refuses what it is given."""

from pyx_transformer.cli import main

PAIRS = [
    ("i know .", "ich weiß ."),
    ("you know .", "du weißt ."),
    ("the cat sleeps .", "die katze schläft ."),
    ("i sleep .", "ich schlafe ."),
    ("you sleep .", "du schläfst ."),
]
RECIPE = """
[data]
train_source = "train.en"
train_target = "train.de"
dev_source = "train.en"
dev_target = "train.de"

[text]
kind = "words"

[model]
d_model = 32
num_heads = 2
num_encoder_layers = 1
num_decoder_layers = 1
d_ff = 64

[training]
steps = 120
batch_tokens = 64
peak_rate = 1e-2
warmup = 20
schedule = "cosine"
dropout = 0.0
validate_every = 60
metric = "exact_match"
max_length = 8
"""
# An encoder of the sources, which learns to tell their masked tokens.
ENCODER = (
    RECIPE.replace('train_target = "train.de"\n', "")
    .replace('dev_target = "train.de"\n', "")
    .replace("num_decoder_layers = 1\n", "")
    .replace('metric = "exact_match"\n', "")
)


def write(folder):
    """Write the files of the task."""
    for side, name in enumerate(("train.en", "train.de")):
        (folder / name).write_text("".join(pair[side] + "\n" for pair in PAIRS), "utf-8")
    (folder / "recipe.toml").write_text(RECIPE)


def refused(arguments, capsys, *says):
    """The command ends with status 2 and one line on stderr that says all this."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for word in says:
        assert word in err
    return err
