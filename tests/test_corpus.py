"""A file of characters as examples: where one text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyx_transformer.training.corpus import parts_of


@pytest.mark.parametrize(
    ("text", "size", "parts"),
    [
        ("", 5, []),
        ("\n\n\n", 5, []),
        ("abcde", 5, ["abcde"]),
        ("abcdef", 5, ["abcde", "f"]),
        ("abcde\nf", 5, ["abcde", "f"]),  # the line break itself is in no part
        ("abcde\n\nf", 5, ["abcde", "f"]),
        ("a\nb\n\nc\nd\n", 6, ["a\nb", "c\nd"]),  # an empty line, though a line ends later
        ("a\nb\nc\nd", 4, ["a\nb", "c\nd"]),
        ("a\n\nb\n\nc\n\nd", 7, ["a\n\nb\n\nc", "d"]),
        ("abcdefgh\n\nij", 3, ["abc", "def", "gh", "ij"]),
        ("\n\n\n\nabcdef", 4, ["abcd", "ef"]),
    ],
)
def test_parts(text, size, parts):
    assert parts_of(text, size) == parts


@given(st.text("ab\n"), st.integers(1, 9))
def test_nothing_but_line_breaks_is_lost(text, size):
    parts = parts_of(text, size)
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")
    for part in parts:
        assert 0 < len(part) <= size
        assert part == part.strip("\n")
