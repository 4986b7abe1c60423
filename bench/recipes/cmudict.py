"""The data of cmudict.toml, and the word error rate of what it trains. From the repository's root:

    python bench/recipes/cmudict.py prepare cmudict
    pyx-transformer train bench/recipes/cmudict.toml --output runs/cmudict
    python bench/recipes/cmudict.py score cmudict runs/cmudict/model

A tenth of the words is held out, by a fixed seed, and a further hundredth to validate on. A word
with several pronunciations is right with any of them, and all of them are trained on.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

import pyx_transformer as pt

DICTIONARY = Path("../shared/data/cmudict/cmudict.dict")
SEED = 0


def pronunciations():
    """Phonemes without stress marks, by word."""
    words = defaultdict(list)
    for line in DICTIONARY.read_text(encoding="utf-8").splitlines():
        word, *phonemes = line.split("#")[0].split()
        spoken = re.sub(r"\d", "", " ".join(phonemes))
        known = words[re.sub(r"\(\d+\)$", "", word)]
        if spoken not in known:
            known.append(spoken)
    return words


def parts():
    """The words of each part."""
    words = sorted(pronunciations())
    order = np.random.default_rng(SEED).permutation(len(words))
    test, dev = len(words) // 10, len(words) // 100
    bounds = {"test": (0, test), "dev": (test, test + dev), "train": (test + dev, len(words))}
    return {part: [words[i] for i in order[a:b]] for part, (a, b) in bounds.items()}


def prepare(folder):
    """Write the files that the recipe names: letters and phonemes, spaces between them."""
    folder.mkdir(parents=True, exist_ok=True)
    known = pronunciations()
    for part, words in parts().items():
        pairs = [
            (" ".join(word), spoken)
            for word in words
            for spoken in (known[word] if part == "train" else known[word][:1])
        ]
        for name, lines in zip(("words", "phonemes"), zip(*pairs, strict=True), strict=True):
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"{part}.{name}").write_text(text, encoding="utf-8")


def score(model_folder, beam_size):
    """Print the share of the held-out words that come out wrong."""
    translator, known, words = pt.Translator(model_folder), pronunciations(), parts()["test"]
    texts = [" ".join(word) for word in words]
    found = translator.translate(texts, beam_size=beam_size, max_length=40)
    wrong = sum(text not in known[word] for word, text in zip(words, found, strict=True))
    print(f"word error rate {wrong / len(words):.4f} ({wrong} of {len(words)} words)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("prepare", "score"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--beam-size", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.folder)
    else:
        score(arguments.model, arguments.beam_size)
