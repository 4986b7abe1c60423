"""Put stress marks into Russian text with the model of the package ruaccent-predictor 1.2.0, whose
wheel is unpacked and not installed. From the repository's root:

    pip download --no-deps --dest wheels ruaccent-predictor==1.2.0
    python -m zipfile -e wheels/ruaccent_predictor-1.2.0-py3-none-any.whl models
    python bench/recipes/ruaccent.py models "Мама мыла раму, а папа читал газету."

An apostrophe comes after each stressed vowel. The model was trained on sources filled up to 256
characters, which it attends to.
"""

import argparse
import json
from pathlib import Path

import pyx_transformer as pt

# Their names, and ours: the table of characters serves both sides, and so does that of positions.
NAMES = {
    "transformer": "",
    "embed.char_embed": "src_embedding",
    "embed.pos_encoding": ("src_positions.weight", "tgt_positions.weight"),
    "output_proj": "output_projection",
}
LONGEST = 256
PADDING, START, END, UNKNOWN = range(4)


def load(folder):
    """The model, with its characters as vocabularies."""
    folder = Path(folder) / "ruaccent" / "model"
    characters = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    config = pt.TransformerConfig(
        len(characters),
        len(characters),
        d_model=256,
        num_heads=8,
        num_encoder_layers=4,
        num_decoder_layers=4,
        d_ff=1024,
        final_norm=True,
        positions="learned",
        max_length=LONGEST,
        share_embeddings=True,
    )
    model = pt.load(folder / "acc_model.pt", config, NAMES)
    model.src_vocabulary = model.tgt_vocabulary = sorted(characters, key=characters.get)
    return model


def source_ids(model, text):
    """The ids of a text of up to 254 characters."""
    if len(text) > LONGEST - 2:
        raise ValueError(f"the text has {len(text)} characters, expected at most {LONGEST - 2}")
    known = {character: i for i, character in enumerate(model.src_vocabulary)}
    return [START, *(known.get(character, UNKNOWN) for character in text), END]


def stressed(model, texts, *, padded=True):
    """The texts with stress marks; padded: as the package has it."""
    rows = [source_ids(model, text) for text in texts]
    if padded:
        rows = [ids + [PADDING] * (LONGEST - len(ids)) for ids in rows]
    found = model.generate(rows, max_length=LONGEST - 1)
    return [
        "".join(model.tgt_vocabulary[token] for token in tokens if token not in (PADDING, START))
        for tokens in found.sequences
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where the wheel is unpacked")
    parser.add_argument("texts", nargs="+")
    arguments = parser.parse_args()
    print(*stressed(load(arguments.folder), arguments.texts), sep="\n")
