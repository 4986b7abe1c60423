"""`pyx-transformer explain`: the arrays it prints are the right ones, in both languages.

The tests read the printed text back: `arrays_in` finds every array by its name and shape. What is
compared was worked out in float64 from the inputs or from other printed arrays; RIGHT and TUTORIAL
are the right and the circulating results of the three-word example.
"""

import re
import string
import unicodedata

import numpy as np
import pytest

from pyx_transformer.explain import explain
from pyx_transformer.explain_text import CHINESE, ENGLISH

LANGUAGES = ("en", "zh")
TITLES = {
    "en": (
        "Projections",
        "Scaled dot product",
        "Heads",
        "Positions",
        "Residual and norm",
        "Feed-forward",
        "Encoder and decoder",
    ),
    "zh": ("投影", "缩放点积", "多头", "位置", "残差与归一化", "前馈网络", "编码器与解码器"),
}
NUMBER = re.compile(r"-?\d+\.\d{4}")
HALF_A_DIGIT = 0.5e-4 + 1e-9  # what rounding to the printed 4 decimals may change
SUMS = 5e-4  # what it may change in a result worked out from rounded arrays

X = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
W_K = np.array([[0.1, 0.3, 0.5], [0.2, 0.4, 0.6], [0.3, 0.5, 0.7]])
RIGHT = {
    "Q = V": [[0.30, 0.36, 0.42], [0.66, 0.81, 0.96], [1.02, 1.26, 1.50]],
    "K": [[0.14, 0.26, 0.38], [0.32, 0.62, 0.92], [0.50, 0.98, 1.46]],
    "Z": [[0.7163, 0.8804, 1.0445], [0.7829, 0.9636, 1.1443], [0.8402, 1.0353, 1.2304]],
}
TUTORIAL = {
    "Q' = V' = X X^T": [[0.14, 0.32, 0.5], [0.32, 0.77, 1.22], [0.5, 1.22, 1.94]],
    "K' = X (X + 0.2)^T": [[0.26, 0.44, 0.62], [0.62, 1.07, 1.52], [0.98, 1.7, 2.42]],
    "A'": [[0.2, 0.3, 0.5], [0.1, 0.7, 0.2], [0.4, 0.4, 0.2]],
}


@pytest.fixture(scope="module")
def parts():
    """parts[language][number] is the text of one part."""
    return {
        language: {number: explain(language, number) for number in range(1, 8)}
        for language in LANGUAGES
    }


def arrays_in(text):
    """{name: list of float64 arrays printed under that name, in order}."""
    found = {}
    lines = text.splitlines()
    for index, line in enumerate(lines):
        # Arrays are indented by 2 and stand side by side, 4 apart, each below its name and shape.
        titles = list(re.finditer(r"(?<=  )(\S(?:\S| (?! ))*) \((\d+), (\d+)\)(?=  |$)", line))
        if not titles or not line.startswith("  "):
            continue
        ends = [title.start() for title in titles[1:]] + [None]
        for title, end in zip(titles, ends, strict=True):
            name, shape = title[1], (int(title[2]), int(title[3]))
            rows = []
            for below in lines[index + 1 :]:
                if len(rows) == shape[0]:
                    break
                numbers = NUMBER.findall(below[title.start() - 1 : end])
                if numbers:
                    rows.append([float(number) for number in numbers])
            array = np.array(rows)
            assert array.shape == shape, name
            found.setdefault(name, []).append(array)
    return found


def array_in(text, name):
    (array,) = arrays_in(text)[name]
    return array


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def layer_norm(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)


def assert_near(printed, expected, tolerance):
    np.testing.assert_allclose(printed, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("language", LANGUAGES)
def test_projections_are_those_of_the_three_word_example(parts, language):
    text = parts[language][1]
    assert_near(array_in(text, "X"), X, HALF_A_DIGIT)
    assert_near(array_in(text, "W_Q = W_V"), X, HALF_A_DIGIT)
    assert_near(array_in(text, "W_K"), W_K, HALF_A_DIGIT)
    np.testing.assert_array_equal(array_in(text, "Q = V"), RIGHT["Q = V"])
    np.testing.assert_array_equal(array_in(text, "K"), RIGHT["K"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_attention_is_that_of_the_three_word_example(parts, language):
    text = parts[language][2]
    scores = (X @ X) @ (X @ W_K).T
    weights = softmax(scores / np.sqrt(3))
    assert_near(array_in(text, "Q K^T"), scores, HALF_A_DIGIT)
    assert_near(array_in(text, "Q K^T / sqrt(3)"), scores / np.sqrt(3), HALF_A_DIGIT)
    assert_near(array_in(text, "A"), weights, HALF_A_DIGIT)
    assert_near(array_in(text, "Z"), weights @ X @ X, HALF_A_DIGIT)
    np.testing.assert_array_equal(array_in(text, "Z"), RIGHT["Z"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_of_the_tutorial_come_from_where_the_text_says(parts, language):
    text = parts[language][2]
    for name, printed_there in TUTORIAL.items():
        np.testing.assert_array_equal(array_in(text, name), printed_there)
    q, k, a = map(np.array, TUTORIAL.values())
    its_softmax = softmax(q @ k.T / np.sqrt(3))
    assert_near(array_in(text, "softmax(Q' K'^T / sqrt(3))"), its_softmax, HALF_A_DIGIT)
    assert_near(array_in(text, "A' V'"), a @ q, HALF_A_DIGIT)

    # What the paragraph claims of them.
    is_not_its_own_product = {"en": "Z' is not even A' V'", "zh": "Z' 甚至不等于 A' V'"}
    assert is_not_its_own_product[language] in text
    assert_near(q, X @ X.T, 1e-12)
    assert_near(k, X @ (X + 0.2).T, 1e-12)
    assert not np.allclose(k, X @ W_K) and not np.allclose(k, X @ W_K.T)
    assert (q > 0).all() and (np.diff(k, axis=0) > 0).all()
    rows_that_grow = (np.diff(a, axis=1) > 0).all(axis=1)
    assert rows_that_grow.tolist() == [True, False, False]


@pytest.mark.parametrize("language", LANGUAGES)
def test_division_keeps_variance_and_softmax_independent_of_d_k(parts, language):
    rows = re.findall(r"^ +(\d+)((?: +\d+\.\d{4}){4})$", parts[language][2], re.MULTILINE)
    d_k = np.array([int(size) for size, _ in rows])
    assert d_k.tolist() == [4, 16, 64, 256, 1024]
    table = np.array([numbers.split() for _, numbers in rows], dtype=np.float64)
    variance, variance_divided, largest, largest_divided = table.T
    np.testing.assert_allclose(variance, d_k, rtol=0.05)
    np.testing.assert_allclose(variance_divided, 1, rtol=0.05)
    assert (np.diff(largest) > 0).all() and largest[-1] > 0.9
    assert np.ptp(largest_divided) < 0.05 and largest_divided.max() < 0.3


def test_heads(parts):
    text = parts["en"][3]
    head_weights = [array_in(text, "A of head 1"), array_in(text, "A of head 2")]
    for weights in head_weights:
        assert_near(weights.sum(axis=-1), 1, 2e-4)
    assert np.abs(head_weights[0] - head_weights[1]).max() > 0.01, "the heads should differ"
    assert array_in(text, "Concat(head_1, head_2)").shape == (3, 4)
    assert array_in(text, "MultiHead(E)").shape == (3, 4)
    assert float(re.search(r"(\d\.\d{6})", text)[1]) <= 1e-6


def test_positions(parts):
    text = parts["en"][4]
    position = np.arange(3.0)
    encoding = np.stack(
        [np.sin(position), np.cos(position), np.sin(position / 100), np.cos(position / 100)], -1
    )
    assert_near(array_in(text, "PE"), encoding, HALF_A_DIGIT)
    embeddings = array_in(parts["en"][3], "E")
    assert_near(array_in(text, "X"), embeddings + encoding, SUMS)
    without, backwards = array_in(text, "MultiHead(E)"), array_in(text, "MultiHead(R E)")
    assert_near(backwards[::-1], without, 1.01e-4)
    placed = array_in(text, "MultiHead(E + PE)")
    placed_backwards = array_in(text, "MultiHead(R E + PE)")
    assert (np.abs(placed_backwards[::-1] - placed).max(axis=-1) > 1e-3).all()


def test_residual_and_norm(parts):
    text = parts["en"][5]
    x, total, y = (array_in(text, n) for n in ("X", "X + MultiHead(X)", "Y = LayerNorm(...)"))
    np.testing.assert_array_equal(x, array_in(parts["en"][4], "X"))
    assert_near(array_in(text, "MultiHead(X)"), array_in(parts["en"][4], "MultiHead(E + PE)"), 0)
    assert_near(total, x + array_in(text, "MultiHead(X)"), SUMS)
    assert_near(y, layer_norm(total), SUMS)
    moments = np.stack([total.mean(axis=-1), total.var(axis=-1)], axis=-1)
    assert_near(array_in(text, "of X + MultiHead(X)"), moments, SUMS)
    assert_near(array_in(text, "of Y"), [[0, 1]] * 3, 1.01e-4)


def test_feed_forward(parts):
    text = parts["en"][6]
    y = array_in(text, "Y")
    np.testing.assert_array_equal(y, array_in(parts["en"][5], "Y = LayerNorm(...)"))
    hidden = array_in(text, "max(0, Y W_1 + b_1)")
    assert (hidden >= 0).all() and (hidden == 0).any() and (hidden > 0).any()
    correction = array_in(text, "FFN(Y)")
    assert_near(array_in(text, "M"), layer_norm(y + correction), SUMS)
    np.testing.assert_array_equal(array_in(text, "FFN(Y[love])"), correction[1:2])


def test_encoder_and_decoder(parts):
    text = parts["en"][7]
    np.testing.assert_array_equal(array_in(text, "M = Encoder(X)"), array_in(parts["en"][6], "M"))
    assert float(re.search(r"(\d\.\d{6})", text)[1]) <= 1e-6

    arrays = arrays_in(text)
    for head in ("A of head 1", "A of head 2"):
        to_itself, to_the_source = arrays[head]
        assert (to_itself[np.triu_indices(3, 1)] == 0).all()
        assert (to_itself[np.tril_indices(3)] > 0).all() and (to_the_source > 0).all()
        for weights in (to_itself, to_the_source):
            assert_near(weights.sum(axis=-1), 1, 2e-4)

    output, with_another_word = array_in(text, "Decoder(T, M)"), array_in(text, "Decoder(T*, M)")
    np.testing.assert_array_equal(with_another_word[:-1], output[:-1])
    assert (with_another_word[-1] != output[-1]).any()
    assert_near(array_in(text, "P").sum(axis=-1), 1, 3e-4)


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_seven_parts_follow_in_order(parts, language):
    text = explain(language)
    titles = re.findall(r"^\d\. .*$", text, re.MULTILINE)
    assert titles == [f"{number}. {title}" for number, title in enumerate(TITLES[language], 1)]
    assert text == "\n".join(parts[language].values())
    sentences = {"en": ENGLISH, "zh": CHINESE}[language]
    for part in parts[language].values():
        assert part.count(f"\n{sentences['formula']}\n") == 1
        assert part.count(f"\n{sentences['purpose']}\n") == 1


def test_both_languages_show_the_same_arrays_and_formulas(parts):
    for number in range(1, 8):
        english, chinese = parts["en"][number], parts["zh"][number]
        assert NUMBER.findall(english) == NUMBER.findall(chinese)
        assert list(arrays_in(english)) == list(arrays_in(chinese))
        formulas = [
            text.split(f"{sentences['formula']}\n")[1].split("\n\n")[0]
            for text, sentences in ((english, ENGLISH), (chinese, CHINESE))
        ]
        assert formulas[0] == formulas[1]


def test_both_languages_have_the_same_sentences_with_the_same_numbers_to_fill_in():
    assert list(ENGLISH) == list(CHINESE)
    for key in ENGLISH:
        english, chinese = (
            sorted(field for _, field, _, _ in string.Formatter().parse(sentences[key]) if field)
            for sentences in (ENGLISH, CHINESE)
        )
        assert english == chinese, key


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_fits_a_terminal_of_80_columns(language):
    text = explain(language)
    for line in text.splitlines():
        columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        assert columns <= 80, line
        assert line == line.rstrip()
    assert text.isascii() is (language == "en")
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fr",), "language is 'fr', expected one of 'en', 'zh'"),
        ((None,), "language is None, expected one of 'en', 'zh'"),
        (("en", 0), "part is 0, expected at least 1"),
        (("en", 8), "part is 8, expected at most 7"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^explain: {message}$"):
        explain(*arguments)


@pytest.mark.parametrize("part", (1.0, True, "1", [1]), ids=repr)
def test_a_part_is_an_integer(part):
    with pytest.raises(TypeError, match=r"^explain: part is .*, expected an integer$"):
        explain("en", part)


def test_a_language_is_a_name():
    with pytest.raises(TypeError, match=r"^explain: language is \['en'\], expected one of"):
        explain(["en"])
