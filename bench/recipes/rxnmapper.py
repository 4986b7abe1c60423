"""Map the atoms of a chemical reaction with the model of the package rxnmapper 0.4.3 (IBM), whose
wheel is unpacked and not installed. From the repository's root:

    pip download --no-deps --dest wheels rxnmapper==0.4.3
    python -m zipfile -e wheels/rxnmapper-0.4.3-py3-none-any.whl models
    python bench/recipes/rxnmapper.py models "C(C)O.BrC(C)>>CCOCC"

The model has learned to fill masked places in reactions; one of its heads attends from an atom to
the one that it came from or becomes (Schwaller et al. 2021). Reactions are taken as they are
written: the package brings them into one form first, unless told not to.
"""

import argparse
import re
from pathlib import Path

import numpy as np

import pyx_transformer as pt

TOKEN = re.compile(
    r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$"
    r"|%[0-9]{2}|[0-9]"
)
ELEMENT = re.compile(r"\[?[0-9]*(\*|[A-Z][a-z]?|se|as|[bcnops])")
UNKNOWN, FIRST, LAST = 11, 12, 13
LAYER, HEAD = 10, 5
OF_NEIGHBOURS = 90.0


def load(folder):
    """The model, with its tokens as vocabulary."""
    models = Path(folder) / "rxnmapper" / "models" / "transformers"
    folder = models / "albert_heads_8_uspto_all_1310k"
    model = pt.load(folder)
    model.src_vocabulary = (
        (folder / "vocab.txt").read_text().split("\n")[: model.config.src_vocab_size]
    )
    return model


def is_atom(token):
    """Whether a token is an atom."""
    return token[0].isalpha() or token[0] in "[*"


def bonds_of(tokens):
    """Which atoms of a SMILES are neighbours, (atoms, atoms) bool."""
    count = sum(map(is_atom, tokens))
    bonds = np.zeros((count, count), bool)
    atom, last, branches, rings = -1, None, [], {}
    for token in tokens:
        other = None
        if is_atom(token):
            atom, other, last = atom + 1, last, atom + 1
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token == ".":
            last = None
        elif token[-1].isdigit():
            if token in rings:
                other = rings.pop(token)
            else:
                rings[token] = last
        if other is not None:
            bonds[last, other] = bonds[other, last] = True
    return bonds


def mapped(model, reaction):
    """For each atom of the product the atom of the left side that it was, and the confidence."""
    tokens = TOKEN.findall(reaction)
    known = {token: i for i, token in enumerate(model.src_vocabulary)}
    ids = [FIRST, *(known.get(token, UNKNOWN) for token in tokens), LAST]
    _, attention = model.encode([ids], return_attention=True)
    attention = attention[LAYER][0, HEAD].astype(float)
    arrow = tokens.index(">>")
    sides = tokens[:arrow], tokens[arrow + 1 :]
    places = [i for i, token in enumerate(tokens) if is_atom(token)]
    left = [i + 1 for i in places if i < arrow]  # the first token is no part of the reaction
    product = [i + 1 for i in places if i > arrow]
    elements = [
        np.array([ELEMENT.match(token)[1].title() for token in side if is_atom(token)])
        for side in sides
    ]
    scores = attention[np.ix_(product, left)] + attention[np.ix_(left, product)].T
    scores[elements[1][:, None] != elements[0]] = 0
    bonds = [bonds_of(side) for side in sides]
    atoms, confidence = [None] * len(product), 1.0
    for _ in product:
        sums = scores.sum(axis=1, keepdims=True)
        scores /= np.where(sums > 0, sums, 1)
        i, j = np.unravel_index(scores.argmax(), scores.shape)
        atoms[i] = int(j)
        confidence *= scores[i, j]
        scores[np.ix_(bonds[1][i], bonds[0][j])] *= OF_NEIGHBOURS
        scores[i], scores[:, j] = 0, 0
    return atoms, float(confidence)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where the wheel is unpacked")
    parser.add_argument("reaction", help="as SMILES, left>>right")
    arguments = parser.parse_args()
    atoms, confidence = mapped(load(arguments.folder), arguments.reaction)
    print(f"atoms of the left side, by atoms of the product: {atoms}")
    print(f"confidence {confidence:.6f}")
