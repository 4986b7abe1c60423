"""`pyx-transformer explain --html`: the numbers of the page are the arrays of the parts, in both
languages, with a keyboard, on a telephone, in the dark, and where no scripts run."""

import re

import numpy as np
import pytest
from browser import assert_quiet, browser, open_page, seen_on
from test_explain import RIGHT, TITLES, TUTORIAL

import pyx_transformer as pt
from pyx_transformer import explain
from pyx_transformer.cli import main
from pyx_transformer.explain_text import CHINESE, ENGLISH
from pyx_transformer.pages import document

SENTENCE = "The dog is in the garden."


class Told:
    """A layout that keeps what it is told."""

    def __init__(self):
        self.grids, self.tables, self.charts, self.pictures = [], [], [], []
        self.keys = []

    def part(self, key, *formulas):
        self.keys += [f"{key}.title", f"{key}.purpose"]

    def heading(self, key):
        self.keys.append(key)

    def say(self, key, **values):
        self.keys.append(key)

    def arrays(self, *arrays):
        self.grids += arrays

    def beside(self, *pairs):
        self.grids += [array for pair in pairs for array in pair if array is not None]

    def table(self, header, rows):
        self.tables.append((header, rows))

    def chart(self, key, series, x, *, logarithmic=False):
        self.keys.append(key)
        self.charts.append(series)

    def picture(self, key, array):
        self.keys.append(key)
        self.pictures.append(array)


@pytest.fixture(scope="module")
def told():
    layout = Told()
    explain.tell(layout)
    return layout


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "page.html"
    assert main(["explain", "--html", str(path), "--sentence", SENTENCE]) == 0
    return path


@pytest.fixture(scope="module")
def page(path):
    with browser() as driver:
        open_page(driver, path)
        yield driver


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def seen(driver, selector):
    return [one.text for one in all_of(driver, selector) if one.is_displayed()]


def test_every_grid_holds_its_array(page, told):
    """All digits of every number, and 4 decimals to be seen."""
    grids = page.execute_script(
        "return [...document.querySelectorAll('.grid')].map(grid => ["
        "grid.dataset.name, [...grid.querySelectorAll('tr')].map(row => "
        "[...row.querySelectorAll('td[title]')].map(cell => [cell.title, cell.textContent])"
        ").filter(row => row.length)])"
    )
    assert [name for name, _ in grids] == [name for name, *_ in told.grids]
    for (name, cells), (_, array, *_) in zip(grids, told.grids, strict=True):
        cells = np.array(cells)
        np.testing.assert_array_equal(cells[..., 0].astype(array.dtype), array, err_msg=name)
        shown = np.char.replace(cells[..., 1], "−", "-").astype(float)
        np.testing.assert_allclose(shown, array, rtol=0, atol=0.501e-4, err_msg=name)


def test_right_and_circulated_numbers_stand_side_by_side(page):
    right, circulated = (
        {
            grid.get_attribute("data-name"): np.array(
                [float(cell.text) for cell in grid.find_elements("css selector", "td[title]")]
            ).reshape(3, 3)
            for grid in all_of(page, f".beside .{kind} .grid")
        }
        for kind in ("right", "circulated")
    )
    for name, wanted in RIGHT.items():
        np.testing.assert_array_equal(right[name], wanted)
    for name, wanted in TUTORIAL.items():
        np.testing.assert_array_equal(circulated[name], wanted)
    assert len(right) == 4 and len(circulated) == 5
    places = {
        kind: {one.location["x"] for one in all_of(page, f".beside .{kind}")}
        for kind in ("right", "circulated")
    }
    assert [len(x) for x in places.values()] == [1, 1]
    assert max(places["right"]) < min(places["circulated"])


def test_the_experiment_is_a_table_and_two_charts(page, told):
    ((header, rows),) = told.tables
    cells = page.execute_script(
        "return [...document.querySelectorAll('.measured tr')].slice(1).map(row => "
        "[...row.children].map(cell => cell.title || cell.textContent))"
    )
    np.testing.assert_array_equal(np.array(cells, float), rows)
    assert len(seen(page, ".measured th")) == len(header) + len(rows)
    charts = page.execute_script(
        "return [...document.querySelectorAll('.chart')].map(chart => "
        "[...chart.querySelectorAll('.line')].map(line => "
        "[...line.querySelectorAll('circle')].map(dot => "
        "[dot.textContent, dot.getAttribute('cy')])))"
    )
    for lines, series in zip(charts, told.charts, strict=True):
        for dots, values in zip(lines, series.values(), strict=True):
            np.testing.assert_array_equal(np.array(dots, float)[:, 0], values)
        # Of two points the higher one stands for the larger number.
        (first, *_, last), (small, *_) = np.array(lines, float)[:, :, 1]
        assert last < first < small


def test_the_picture_of_positions_tells_its_numbers(page, told):
    from selenium.webdriver.common.keys import Keys

    (wanted,) = told.pictures
    np.testing.assert_array_equal(wanted, pt.sinusoidal_positions(48, 64))
    (field,) = all_of(page, ".scan .field")
    field.send_keys(Keys.ARROW_UP, *[Keys.ARROW_DOWN] * 5, *[Keys.ARROW_RIGHT] * 3)
    (output,) = all_of(page, ".scan output")
    assert output.text == f"PE[5, 3] = {wanted[5, 3]:.6f}"


def test_the_trained_translator_is_that_of_the_sentence(page):
    translator = pt.Translator("en-ja")
    view = translator.attention(SENTENCE)
    (translation,) = translator.translate([SENTENCE], beam_size=4)
    (said,) = seen(page, ".trained > p")
    assert SENTENCE in said and translation in said
    maps = page.execute_script(
        "return document.querySelector('.attention').view.maps.map("
        "map => [map.name, map.rows, map.columns, [...map.weights]])"
    )
    for (name, rows, columns, weights), one in zip(maps, view.maps, strict=True):
        assert (name, rows, columns) == (one.name, one.rows, one.columns)
        np.testing.assert_array_equal(np.float32(weights), one.weights.reshape(-1))


def test_the_language_is_switched(page):
    for number, (code, sentences) in enumerate({"zh": CHINESE, "en": ENGLISH}.items()):
        all_of(page, ".languages label")[1 - number].click()
        titles = [re.sub(r"^\d\s*", "", title) for title in seen(page, ".part h2")]
        assert titles == list(TITLES[code])
        assert seen(page, "h1") == [page.title] == [sentences["page.title"]]
        assert seen(page, ".attention .layers legend") == [{"zh": "层", "en": "Layer"}[code]]
        assert page.execute_script("return document.documentElement.lang") == code
        text = page.find_element("css selector", "main").text
        assert ("查询" in text) is (code == "zh") and ("query" in text) is (code == "en")
    assert_quiet(page)


def test_every_sentence_is_in_the_page(path, told):
    """The two of each key stand one behind the other."""
    text = path.read_text("utf-8")
    for key in told.keys:
        for sentences in (ENGLISH, CHINESE):
            first = re.match(r"[^\n{^_'\" .]*", sentences[key])[0]
            assert first in text, key
    assert text.count('<p lang="en">') == text.count('<p lang="zh">')


@pytest.mark.parametrize("width", (360, 800))
def test_it_fits(page, width):
    with seen_on(page, width, dark=width == 360):
        for label in reversed(all_of(page, ".languages label")):
            label.click()
            assert page.execute_script("return document.documentElement.scrollWidth") == width


def test_without_scripts_there_are_texts_numbers_and_pictures(path, told):
    with browser(scripts=False) as driver:
        open_page(driver, path)
        for number, code in enumerate(("en", "zh")):
            all_of(driver, ".languages label")[number].click()  # which needs none
            titles = [re.sub(r"^\d\s*", "", title) for title in seen(driver, ".part h2")]
            assert titles == list(TITLES[code])
        assert len(all_of(driver, ".grid")) == len(told.grids)
        assert len(all_of(driver, ".trained .static svg")) == 3 * 4 + 2 * 4 + 2 * 4
        pictures = all_of(driver, ".trained .static svg, .chart, .scan img")
        assert all(one.is_displayed() and one.size["height"] > 50 for one in pictures)
        assert_quiet(driver)


def test_links_lead_to_the_parts(path):
    """What is linked to has a name that nothing else has."""
    text = path.read_text("utf-8")
    names = re.findall(r' id="([^"]+)"', text)
    assert sorted({*names}) == sorted(names)
    parts = re.findall(r'<section class="part" id="([^"]+)"', text)
    assert re.findall(r'<a href="#([^"]+)"', text) == parts and len(parts) == 7


def test_colours_are_known_by_day_and_by_night():
    styles = [document.asset(f"{name}.css") for name in ("page", "attention", "explain")]
    day, night = re.findall(r":root \{(.*?)\}", styles[0], re.DOTALL)
    known = {*re.findall(r"(--[\w-]+):", day)}
    used = {*re.findall(r"var\((--[\w-]+)\)", "".join(styles))}
    assert used <= {*known, "--weight"}  # that of a cell
    assert {*re.findall(r"(--[\w-]+):", night)} <= known


def test_a_sentence_is_no_html_and_no_formula():
    page = explain.explain_html('a_1 </script> <b> & "q.k" \ue000\ue001')
    assert page.count("</script>") == 3  # of data, and of two scripts
    shown = "<bdi>a_1 &lt;/script&gt; &lt;b&gt; &amp; &quot;q.k&quot; \ue000\ue001</bdi>"
    assert page.count(shown) == 2


def test_the_first_language_is_the_one_asked_for(tmp_path):
    text = explain.explain_html(language="zh")
    assert '<html lang="zh">' in text and CHINESE["page.title"] in text.partition("</title>")[0]
    assert re.search(r'value="zh" id="language-zh" checked', text)
    explain.write_html(tmp_path / "a.html", language="zh")
    assert (tmp_path / "a.html").read_text("utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--html", "page.txt"], "path is 'page.txt', expected a name that ends in .html"),
        (["--html", "none/page.html"], "path: there is no folder none"),
        (["--html", "page.html", "--part", "2"], "--part is for text, expected none with --html"),
        (["--sentence", "a"], "--sentence is for a page, expected --html too"),
        (["--html", "page.html", "--sentence", ""], "the text has no tokens"),
    ],
)
def test_what_is_asked_wrongly(arguments, says, capsys):
    assert main(["explain", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_languages_are_checked():
    with pytest.raises(ValueError, match=r"^explain_html: language is 'fr', expected one of"):
        explain.explain_html(language="fr")
    with pytest.raises(TypeError, match="text is 3, expected a string"):
        explain.explain_html(3)
