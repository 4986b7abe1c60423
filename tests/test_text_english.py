"""Ordinary English as the training text of the translator writes it."""

import re

import pytest

from pyx_transformer.text import english


@pytest.mark.parametrize(
    ("ordinary", "tokenised"),
    [
        ("I don't know.", "i don 't know ."),
        ("What's up?", "what 's up ?"),
        ("  She's 10.5 years old, isn't she?", "she 's 10.5 years old , isn 't she ?"),
        ("Mr. Smith came at 5:30.", "mr . smith came at 5 : 30 ."),
        ("At 3 p.m. in the U.S.", "at 3 p . m . in the u . s ."),
        ("It's nine o'clock.", "it 's nine o 'clock ."),
        ('It costs 1,000 yen; "OK" (yes)!', "it costs 1,000 yen ; '' ok '' ( yes ) !"),
        ("“Be quiet,” said «mother».", "'' be quiet , '' said '' mother '' ."),
        ("``Stop.''", "'' stop . ''"),
        ("The boys’ room", "the boys ' room"),
        ("Goin' home?", "goin ' home ?"),
        ("He said, 'Let's play catch.'", "he said , ' let 's play catch . '"),
        ("Say ‘but’.", "say ' but ' ."),
        ("The '90s", "the ' 90s"),
        ("donʼt don´t don`t don＇t don′t", "don 't don 't don 't don 't don 't"),
        ("Ｗｈａｔ？", "what ?"),
        ("Year followed year…", "year followed year . . ."),
        ("No—yes – well -- no - a well‐known 3-2.", "no yes well no a well-known 3-2 ."),
        ("\ufeffI\u200b a\u00adm\u2060 here.", "i am here ."),
        ("A\u00a0$5 café's", "a $ 5 café 's"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_english(ordinary, tokenised):
    assert english(ordinary) == tokenised
    assert english(tokenised) == tokenised


def test_the_training_text_is_english_already(shared_data):
    """Setting apart what is set apart already changes abbreviations and nothing else."""
    lines = training_lines(shared_data)
    changed = [line for line in lines if english(line) != line]
    assert len(changed) < 0.002 * len(lines)
    assert all(english(line).replace(" ", "") == line.replace(" ", "") for line in changed)
    assert all(ABBREVIATED.search(line) for line in changed)


# "mr. smith", "taller than i.", "u.s.", "t. v." and "...", where other lines have "mr . smith".
ABBREVIATED = re.compile(r"(\b(mr|mrs|ms|[a-z])\.|\.\.\.)( |$)")


def test_the_training_text_in_ordinary_writing_is_restored(shared_data):
    """All of it but abbreviations, and single quotes that ordinary writing leaves in doubt."""
    lines = training_lines(shared_data)
    lost = [line for line in lines if english(ordinary(line)) != line]
    assert len(lost) < 0.002 * len(lines)
    assert [line for line in lost if not ABBREVIATED.search(line)] == []


def training_lines(shared_data):
    return (shared_data / "tanaka-en-ja/train.en").read_text(encoding="utf-8").splitlines()


def ordinary(line):
    """A tokenised line as one would type it: quotes come in pairs, single apostrophes alone."""
    line = re.sub(r"'' (.*?) ''", r'"\1"', line)
    line = re.sub(r"(?<!\S)' (.*?) '(?!\S)", r"'\1'", line)
    line = re.sub(r" '(?!\S)", "'", line)
    line = re.sub(r"(?<=\w) (?='(?:t|s|m|ll|ve|d|re|clock)\b)", "", line)
    line = re.sub(r" (?=[.,!?;:])|(?<=\$) ", "", line)
    return line[:1].upper() + line[1:]


def test_ordinary():
    """This file's own function, or the test above would prove nothing."""
    assert ordinary("he said , '' i 'm here . ''") == 'He said, "i\'m here."'
    assert ordinary("it 's ten minutes ' walk .") == "It's ten minutes' walk."
    assert ordinary("he said , ' let 's go . '") == "He said, 'let's go.'"
