"""The data of pyx_transformer/recipes/reverse.toml: made-up words, and the same backwards.

    python bench/recipes/reverse.py pyx_transformer/recipes/reverse

Each is 1 to 4 syllables, no two are the same, and the last 200 are there to validate on.
"""

import argparse
import random
from pathlib import Path

VALIDATED = 200
COUNT = 6000


def words(count=COUNT):
    """So many words, the same ones every time."""
    draw, found = random.Random(0), {}
    while len(found) < count:
        syllables = [
            draw.choice("bcdfghjklmnpqrstvwxyz")
            + draw.choice(["", "", "", "l", "r"])
            + draw.choice("aeiou")
            + draw.choice(["", "", "", "l", "m", "n", "r", "s"])
            for _ in range(draw.randint(1, 4))
        ]
        found["".join(syllables)] = None
    return list(found)


def files():
    """What each file of the recipe holds, by its name."""
    made = words()
    parts = {"train": made[:-VALIDATED], "dev": made[-VALIDATED:]}
    return {
        f"{part}.{side}": "".join(f"{word[::step]}\n" for word in of_part)
        for part, of_part in parts.items()
        for side, step in (("words", 1), ("backwards", -1))
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
