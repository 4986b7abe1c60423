"""Attention to look at: the page holds the arrays, shows them by each switch, and says no word to
anybody; what pipelines give is what their models attend to."""

import html
import json
import re

import numpy as np
import pytest
from browser import assert_quiet, browser, open_page, seen_on
from directories import TINY, library

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.pages import AttentionMap, AttentionView
from pyx_transformer.pages import attention as module
from pyx_transformer.pipelines.opened import pipeline_of
from pyx_transformer.text import Words
from pyx_transformer.tokenizers.listed import SPECIAL

# Three of which end an element or an attribute, and one that turns what follows around.
STRANGE = ["</script>", "<!--<script>", "\"'>&amp;", "\u202egnp", "مرحبا", "犬", " "]


@pytest.fixture(scope="module")
def page():
    with browser() as driver:
        yield driver


def weights(rng, *shape):
    scores = rng.standard_normal(shape).astype(np.float32)
    return pt.ops.softmax(3 * scores)


@pytest.fixture
def view(rng):
    """Of different layers, heads and words, each a number of its own."""
    source, target = STRANGE, ["a", "b", "c", "犬", "</s>"]
    return AttentionView(
        [
            AttentionMap("encoder", weights(rng, 3, 2, 7, 7), source, source),
            AttentionMap("decoder", weights(rng, 2, 4, 5, 5), target, ["<s>", *target[:-1]]),
            AttentionMap("cross", weights(rng, 2, 4, 5, 7), target, source),
        ],
        'a < b & "c" </title>',
    )


def press(driver, key):
    from selenium.webdriver.common.keys import Keys

    driver.switch_to.active_element.send_keys(getattr(Keys, key))


def shown(driver):
    """The numbers of the table, by what its cells say when they are pointed at."""
    return np.array(
        driver.execute_script(
            "return [...document.querySelectorAll('.attention tbody tr')].map("
            "row => [...row.querySelectorAll('td')].map(cell => cell.title))"
        )
    ).astype(np.float32)


def choose(driver, name, number):
    driver.find_elements("css selector", f".{name} label")[number].click()


def test_every_switch_shows_the_numbers_of_its_array(view, page, tmp_path):
    view.save(tmp_path / "page.html")
    open_page(page, tmp_path / "page.html")
    for kind, one in enumerate(view.maps):
        choose(page, "kinds", kind)
        for layer, heads in enumerate(one.weights):
            choose(page, "layers", layer)
            for head, wanted in enumerate(heads):
                choose(page, "heads", head)
                np.testing.assert_array_equal(shown(page), wanted)
    assert page.title == view.title
    assert page.execute_script("return document.querySelector('h1').textContent") == view.title
    assert_quiet(page)


def test_a_word_shows_what_it_attends_to(view, page, tmp_path):
    """By the pointer and by the keyboard."""
    from selenium.webdriver import ActionChains

    view.save(tmp_path / "page.html")
    open_page(page, tmp_path / "page.html")
    one = view["cross"]
    words = page.find_elements("css selector", ".words.rows .word")
    assert [word.text for word in words] == one.rows

    def assert_points_at(row):
        attended = page.find_elements("css selector", ".words.columns .word")
        said = [np.float32(word.get_attribute("title")) for word in attended]
        np.testing.assert_array_equal(said, one.weights[-1, 0, row])
        chosen = page.find_elements("css selector", ".words.rows .chosen")
        assert [word.text for word in chosen] == [one.rows[row]]
        strongest = page.find_element("css selector", ".strongest").text
        assert strongest.startswith(f"{one.rows[row]} → ")
        assert f"{one.weights[-1, 0, row].max():.4f}" in strongest

    assert_points_at(0)
    ActionChains(page).move_to_element(words[3]).perform()
    assert_points_at(3)
    words[1].click()
    for key, row in (("ARROW_RIGHT", 2), ("ARROW_LEFT", 1), ("ARROW_LEFT", 0), ("ARROW_LEFT", 0)):
        press(page, key)
        assert_points_at(row)
    assert_quiet(page)


def test_choices_are_made_with_the_keyboard(view, page, tmp_path):
    view.save(tmp_path / "page.html")
    open_page(page, tmp_path / "page.html")
    page.execute_script("document.querySelector('.kinds input:checked').focus()")
    press(page, "ARROW_LEFT")
    press(page, "TAB")
    press(page, "ARROW_RIGHT")
    press(page, "TAB")
    for _ in range(3):
        press(page, "ARROW_RIGHT")
    np.testing.assert_array_equal(shown(page), view["decoder"].weights[0, 3])


def test_words_of_arabic_run_from_right_to_left(rng, page, tmp_path):
    words = ["مرحبا", "يا", "عالم", "</s>"]
    one = AttentionMap("encoder", weights(rng, 1, 1, 4, 4), words, words)
    AttentionView([one], "مرحبا").save(tmp_path / "page.html")
    open_page(page, tmp_path / "page.html")
    places = [word.location["x"] for word in page.find_elements("css selector", ".rows .word")]
    assert places == sorted(places, reverse=True)
    # What they attend to is told as the rest of the page is.
    places = [part.location["x"] for part in page.find_elements("css selector", ".strongest > *")]
    assert places == sorted(places) and len(places) == 7


def test_a_large_map_is_a_picture_that_tells_its_numbers(rng, page, tmp_path):
    words = [str(i) for i in range(90)]
    one = AttentionMap("encoder", weights(rng, 1, 2, 90, 90), words, words)
    AttentionView([one], "numbers").save(tmp_path / "page.html")
    open_page(page, tmp_path / "page.html")
    (canvas,) = page.find_elements("css selector", ".scroll canvas")
    assert [canvas.get_attribute(side) for side in ("width", "height")] == ["90", "90"]
    values = page.execute_script("return [...document.querySelector('.attention').view.weights()]")
    np.testing.assert_array_equal(np.float32(values).reshape(90, 90), one.weights[0, 0])
    for row, column in ((3, 70), (44, 45), (89, 0)):
        page.execute_script(
            "const canvas = arguments[0], box = canvas.getBoundingClientRect();"
            "const [row, column] = arguments[1];"
            "canvas.dispatchEvent(new PointerEvent('pointermove', {"
            "clientX: box.x + (column + 0.5) / 90 * box.width,"
            "clientY: box.y + (row + 0.5) / 90 * box.height}))",
            canvas,
            (row, column),
        )
        said = canvas.get_attribute("title").removeprefix(f"{row} → {column} ")
        assert np.float32(said) == one.weights[0, 0, row, column]
        assert page.find_element("css selector", ".words.rows .chosen").text == str(row)
    assert_quiet(page)


@pytest.mark.parametrize("dark", (False, True))
def test_it_fits_a_telephone(view, dark, page, tmp_path):
    view.save(tmp_path / "page.html")
    with seen_on(page, width=360, dark=dark):
        open_page(page, tmp_path / "page.html")
        assert page.execute_script("return document.documentElement.scrollWidth") == 360
        ground = "return getComputedStyle(document.documentElement).backgroundColor"
        shade = sum(map(int, re.findall(r"\d+", page.execute_script(ground))[:3])) / 3
        assert shade < 60 if dark else shade > 200


def test_without_scripts_there_is_a_picture_of_every_head(view, tmp_path):
    view.save(tmp_path / "page.html")
    with browser(scripts=False) as driver:
        open_page(driver, tmp_path / "page.html")
        assert not driver.find_element("css selector", ".live").is_displayed()
        pictures = driver.find_elements("css selector", ".static svg")
        assert len(pictures) == sum(one.weights[:, :, 0, 0].size for one in view.maps)
        assert all(picture.is_displayed() for picture in pictures)
        assert (
            "犬"
            in driver.find_element("css selector", ".static svg text")
            .find_element("xpath", "..")
            .text
        )
        assert_quiet(driver)


def test_a_notebook_shows_the_page(view):
    shown = view._repr_html_()
    (inner,) = re.findall(r'^<iframe srcdoc="([^"]*)"', shown)
    assert html.unescape(inner) == view.html() == view.html()


def test_tokens_end_no_element(view):
    """Neither script nor text; the bytes of the weights are those of the arrays."""
    page = view.html()
    (data,) = re.findall(r'class="data">(.*?)</script>', page, re.DOTALL)
    maps = json.loads(data)
    assert [one["name"] for one in maps] == ["encoder", "decoder", "cross"]
    assert maps[0]["rows"][:3] == STRANGE[:3]
    assert page.count("</script>") == 2  # of data, and of the script itself
    assert "\u202e" not in page and "&lt;/title&gt;" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"name": "self"}, ValueError, "name is 'self', expected one of 'encoder', 'decoder', 'cr"),
        ({"weights": np.ones((2, 3, 4))}, ValueError, r"weights has shape \(2, 3, 4\), expected"),
        ({"rows": ["a"]}, ValueError, "rows has 1 labels, expected 2 because weights is"),
        ({"columns": ["a"] * 4}, ValueError, "columns has 4 labels, expected 3 because weights is"),
        ({"rows": "ab"}, TypeError, "rows is 'ab', expected a list of texts"),
        ({"weights": np.ones((0, 1, 2, 3))}, ValueError, "expected something to look at"),
        ({"weights": np.full((1, 1, 2, 3), np.nan)}, ValueError, "values that are not finite"),
    ],
)
def test_a_map_is_checked(changes, error, says):
    right = {
        "name": "cross",
        "weights": np.ones((1, 1, 2, 3)),
        "rows": ["a", "b"],
        "columns": ["c", "d", "e"],
    }
    assert AttentionMap(**right).weights.dtype == np.float32
    with pytest.raises(error, match=f"^AttentionMap: .*{says}"):
        AttentionMap(**{**right, **changes})


def test_a_view_has_its_maps_by_name(view):
    assert [*view] == ["encoder", "decoder", "cross"] and "cross" in view and "self" not in view
    assert [view[name] for name in view] == [*view.maps]
    with pytest.raises(KeyError, match="'self', expected one of"):
        view["self"]


def test_a_view_is_checked(view, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"maps\[0\] is 'cross'"):
        AttentionView(["cross"], "a")
    for maps in ([], [view.maps[0], view.maps[0]]):
        with pytest.raises(ValueError, match="expected at least one, and one of each"):
            AttentionView(maps, "a")
    with pytest.raises(ValueError, match=r"^AttentionView.save: path is .*a.txt', expected a name"):
        view.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="name is 'cross', expected None because a page has all"):
        view.save(tmp_path / "a.html", "cross")
    with pytest.raises(FileNotFoundError, match="path: there is no folder"):
        view.save(tmp_path / "none" / "a.html")
    monkeypatch.setattr(module, "MOST_NUMBERS", 500)
    with pytest.raises(ValueError, match="774 weights, as of 3 layers, 2 heads, 7 x 7 tokens, exp"):
        AttentionView(view.maps, "a")


@pytest.mark.parametrize("ending", ("png", "svg", "pdf"))
def test_a_picture_is_that_of_one_map(view, ending, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    drawn = []
    monkeypatch.setattr(
        module.plots, "plot_attention", lambda *given, **named: drawn.append((*given, named))
    )
    path = tmp_path / f"a.{ending}"
    view.save(path)
    view.save(path, "encoder", layers=1, heads=[0, 2])
    for (weights, source, target, where, named), name, layers, heads in zip(
        drawn, ("cross", "encoder"), (None, 1), (None, [0, 2]), strict=True
    ):
        one = view[name]
        assert weights is one.weights and (source, target, where) == (one.columns, one.rows, path)
        assert (named["title"], named["layers"], named["heads"]) == (view.title, layers, heads)


def test_the_shipped_translator(tmp_path):
    """A row of each token that is written, which the model attends from as it comes to be."""
    translator = pt.Translator("en-ja")
    text = "I love my cat."
    view = translator.attention(text)
    (best,) = translator.translate([text], return_attention=True)
    written = best.tokens
    assert view["cross"].rows == view["decoder"].rows == written
    assert view["cross"].columns == view["encoder"].rows == best.source_tokens
    assert view["decoder"].columns == ["<s>", *written[:-1]]
    np.testing.assert_array_equal(view["cross"].weights, best.attention)
    again = translator.attention(text, " ".join(written[:-1]))
    for one in view.maps:
        np.testing.assert_array_equal(again[one.name].weights, one.weights)
    for found in (best, translator.hypotheses([text], num_hypotheses=2, max_length=3)[0][1]):
        shown = translator.attention(text, found)["cross"]
        assert shown.rows == found.tokens
    other = translator.hypotheses([text], num_hypotheses=2, return_attention=True)[0][1]
    np.testing.assert_array_equal(
        translator.attention(text, other)["cross"].weights, other.attention
    )
    cut = translator.attention(text, max_length=2)
    assert cut["cross"].rows == written[:2]
    stopped = translator.attention(text, stop_when=lambda _, ids: len(ids) == 2)
    assert stopped["cross"].rows == written[:2]
    with pytest.raises(ValueError, match="attention: the text has no tokens"):
        translator.attention("")


@pytest.mark.parametrize("name", TINY)
def test_every_family_attends_as_theirs_does(name, shared_data):
    transformers = library()
    torch = pytest.importorskip("torch")
    folder = shared_data / "hf-tiny" / name
    model = pt.load(folder)
    kinds = {
        "EncoderModel": transformers.AutoModel,
        "TransformerLM": transformers.AutoModelForCausalLM,
        "Transformer": transformers.AutoModelForSeq2SeqLM,
    }
    theirs = kinds[TINY[name]].from_pretrained(folder, attn_implementation="eager").eval()
    for side in ("src", "tgt"):
        if size := getattr(model.config, f"{side}_vocab_size", None):
            tokens = [*SPECIAL, *map(str, range(3, size))]
            setattr(model, f"{side}_tokenizer", Words(tokens))
    pipeline = getattr(pt, pipeline_of(model))
    if pipeline is pt.CrossEncoder:  # these words have no pairs
        pipeline = pt.TextClassifier
    settings = {"max_length": 9} if pipeline is pt.Translator else {}
    view = pipeline(model).attention("11 7 5 13 19 17", **settings)
    first, last = view.maps[0], view.maps[-1]

    def ids(words):
        return torch.tensor([[SPECIAL.index(w) if w in SPECIAL else int(w) for w in words]])

    given = {"input_ids": ids(first.columns), "output_attentions": True}
    if TINY[name] == "Transformer":
        given["decoder_input_ids"] = ids(view["decoder"].columns)
        assert view["decoder"].rows[:-1] == view["decoder"].columns[1:] == last.rows[:-1]
    with torch.no_grad():
        found = theirs(**given)
    names = {"encoder": "encoder_attentions", "decoder": "decoder_attentions"}
    if TINY[name] != "Transformer":
        names = dict.fromkeys(names, "attentions")
    for one in view.maps:
        wanted = torch.cat(found[names.get(one.name, "cross_attentions")]).numpy()
        assert one.weights.shape == wanted.shape
        np.testing.assert_allclose(one.weights, wanted, rtol=0, atol=2e-5)


def test_two_texts_that_are_read_together(shared_data, tmp_path):
    from stand_ins import reranker

    reranker(tmp_path / "model", shared_data)
    encoder = pt.CrossEncoder(tmp_path / "model")
    first, second = "where is it", "it is here"
    one = encoder.attention(first, second)["encoder"]
    read = encoder.tokenizer.read([first], [second])
    assert one.rows == one.columns == encoder.tokenizer.tokens(read.ids[0])
    _, wanted = encoder.model.encode(
        read.ids[0][None], token_types=read.types[0][None], return_attention=True
    )
    np.testing.assert_array_equal(one.weights, np.concatenate(wanted))


def test_the_command_writes_the_page(tmp_path, capsys):
    path = tmp_path / "page.html"
    text = "I love my cat."
    assert main(["translate", text, "--attention", str(path)]) == 0
    assert path.read_text("utf-8") == pt.Translator("en-ja").attention(text).html()
    assert capsys.readouterr().out == "".join(
        f"{one}\n" for one in pt.Translator("en-ja").translate([text], beam_size=4)
    )
    assert main(["translate", text, "--attention", str(tmp_path / "page.txt")]) == 2
    assert "--attention: path is" in capsys.readouterr().err
