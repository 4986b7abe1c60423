"""Pictures, read back: what stands in them and where, and what is said where one cannot be made."""

import base64
import io
import itertools
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from runs import OPTIONS, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import plots, text
from pyx_transformer.cli import main
from pyx_transformer.plots import fonts, labels
from pyx_transformer.training import train
from pyx_transformer.training.log import read

STRANGE = "\ue123"  # no font has it
SVG = "{http://www.w3.org/2000/svg}"
BEGINNINGS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.fixture(autouse=True)
def with_matplotlib():
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")


@pytest.fixture
def figures(monkeypatch):
    """The figures of matplotlib that have been written."""
    from matplotlib.figure import Figure

    written, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **kw: written.append(self) or savefig(self, *args, **kw),
    )
    return written


def some_weights(*shape):
    weights = np.random.default_rng(0).random(shape)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def tokens(count, begin="w"):
    return [f"{begin}{i}" for i in range(count)]


def drawn(path, weights, **options):
    """The file that weights with as many tokens as they need are drawn into."""
    target, source = np.shape(weights)[-2:]
    plots.plot_attention(weights, tokens(source, "s"), tokens(target, "t"), path, **options)
    return path.read_bytes()


def texts_of(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def panels_of(svg):
    return [one for one in texts_of(svg) if one.startswith(("layer ", "head "))]


def images_of(svg):
    """The pixels (rows, columns, RGB) of each image, the first row at the top."""
    from matplotlib.image import imread

    for image in ET.fromstring(svg).iter(f"{SVG}image"):
        data = image.get("{http://www.w3.org/1999/xlink}href").partition("base64,")[2]
        pixels = imread(io.BytesIO(base64.b64decode(data)))[..., :3]
        yield pixels[::-1] if "scale(1 -1)" in image.get("transform") else pixels


# Attention.


@pytest.mark.parametrize(
    ("shape", "options", "panels"),
    [
        ((5, 3), {}, []),
        ((5, 3), {"heads": 3}, ["head 4"]),
        ((5, 3), {"layers": [2], "heads": [0]}, ["layer 3, head 1"]),
        ((2, 5, 3), {}, ["head 1", "head 2"]),
        ((2, 5, 3), {"layers": 5, "heads": 1}, ["layer 6, head 2"]),
        ((2, 1, 5, 3), {}, ["layer 1, head 1", "layer 2, head 1"]),
        ((1, 2, 5, 3), {"layers": [2], "heads": [0, 3]}, ["layer 3, head 1", "layer 3, head 4"]),
        ((3, 2, 5, 3), {"layers": [0, 2], "heads": 1}, ["layer 1, head 2", "layer 3, head 2"]),
        ((2, 1, 2, 5, 3), {"heads": np.array([1])}, ["layer 1, head 2", "layer 2, head 2"]),
    ],
)
def test_the_numbers_of_layers_and_heads(shape, options, panels, tmp_path):
    assert panels_of(drawn(tmp_path / "a.svg", some_weights(*shape), **options)) == panels


def test_each_panel_has_the_colours_of_its_weights(tmp_path):
    from matplotlib import colormaps

    weights = some_weights(2, 3, 4, 3)
    *images, _bar = images_of(drawn(tmp_path / "a.svg", weights))
    assert len(images) == 6
    for image, panel in zip(images, weights.reshape(6, 4, 3), strict=True):
        height, width = image.shape[:2]
        for row, column in np.ndindex(4, 3):
            pixel = image[(2 * row + 1) * height // 8, (2 * column + 1) * width // 6]
            wanted = colormaps["Blues"](float(panel[row, column]))[:3]
            assert np.abs(pixel - wanted).max() < 1.5 / 255


def test_a_part_is_drawn_as_it_is_in_the_whole(tmp_path):
    whole = some_weights(3, 4, 5, 6)
    chosen = {"layers": [2], "heads": [0, 3]}
    part = drawn(tmp_path / "b.svg", whole[[2]][:, [0, 3]], **chosen)
    assert drawn(tmp_path / "a.svg", whole, **chosen) == part
    assert drawn(tmp_path / "c.svg", whole[[1]][:, [0, 3]], **chosen) != part


def test_what_a_stack_returns(tmp_path):
    encoder = pt.TransformerEncoder(2, 12, 3, 16, rng=0)
    x = np.random.default_rng(0).standard_normal((1, 5, 12))
    _, attention = encoder(x, return_attention=True)
    assert drawn(tmp_path / "a.svg", attention) == drawn(
        tmp_path / "b.svg", np.concatenate(attention)
    )
    _, attention = encoder(np.concatenate([x, x]), return_attention=True)
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 5, 5\), expected \(layers, 1, H, T, S\)"):
        drawn(tmp_path / "a.svg", attention)
    of_one = [layer[:1] for layer in attention]  # as the error says
    _, alone = encoder(x, return_attention=True)
    assert drawn(tmp_path / "a.svg", of_one) == drawn(tmp_path / "b.svg", alone)


def test_names_and_titles(tmp_path):
    weights = some_weights(1, 1, 2, 3)
    path = tmp_path / "a.svg"
    plots.plot_attention(weights, ["▁I", "▁lo", "ve"], ["ich", "liebe"], path)
    shown = texts_of(path.read_bytes())
    assert {"source", "target", "weight", "I love", "ich liebe"} <= {*shown}
    names = {"title": "$x$ is <loved>", "axis_names": ("attended to", "from")}
    plots.plot_attention(weights, list("abc"), list("de"), path, **names)
    shown = texts_of(path.read_bytes())
    assert {"$x$ is <loved>", "attended to", "from", "weight", *"abcde"} <= {*shown}
    assert not {"source", "target", "a b c", "d e"} & {*shown}
    plots.plot_attention(some_weights(2, 2), ["a", "b"], ["a", "b"], path)
    assert texts_of(path.read_bytes()).count("a b") == 1
    plots.plot_attention(weights, list("abc"), list("de"), path, title="")
    assert {*texts_of(path.read_bytes())} == {
        *"abcde", "layer 1, head 1", "source", "target", "weight", "0.0", "0.5", "1.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "source"),
    [
        ((3, 2, 1, 1), ["word"]),
        ((2, 4, 20, 20), [*["i", "would", "like"], *["extraordinarily"] * 17]),
        ((1, 1, 3, 20), ["word"] * 20),
        ((1, 1, 40, 2), ["incomprehensibilities", "b"]),
        ((1, 3, 2, 2), ["音楽", "好き"]),
    ],
)
def test_no_text_lies_on_another(shape, source, figures, tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    target = (source * shape[2])[: shape[2]]
    numbers = {"layers": range(99 - shape[0], 99), "heads": range(99 - shape[1], 99)}
    weights, path = some_weights(*shape), tmp_path / "a.png"
    plots.plot_attention(weights, source[: shape[3]], target, path, **numbers)
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    boxes = {one: one.get_window_extent(renderer) for one in shown}
    panels = [axis.get_window_extent(renderer) for axis in figure.axes]
    assert sum(one.get_text().startswith("layer 9") for one in shown) == shape[0] * shape[1]
    for one, other in itertools.combinations(shown, 2):
        assert not boxes[one].overlaps(boxes[other]), (one.get_text(), other.get_text())
    for one, panel in itertools.product(shown, panels):
        assert not boxes[one].overlaps(panel), one.get_text()
    labelled = [one for one in shown if one.get_text() in {*source, *target}]
    assert min(one.get_fontsize() for one in labelled) >= 8


@pytest.mark.parametrize(
    ("shape", "options", "error", "says"),
    [
        ((1, 1, 2, 4), {}, ValueError, r"source has 3 tokens, expected S = 4 because weights is "),
        ((1, 1, 3, 2), {}, ValueError, r"target has 2 tokens, expected T = 3 because .*1, 3, 2\)"),
        ((4, 3), {}, ValueError, "target has 2 tokens, expected T = 4"),
        ((3,), {}, ValueError, r"weights has shape \(3,\), expected \(layers, H, T, S\)"),
        ((1, 0, 2, 3), {}, ValueError, "expected something to draw"),
        ((1, 1, 2, 3), {"source": "abc"}, TypeError, "source is 'abc', expected a list of texts"),
        ((1, 1, 2, 3), {"source": ["a", 3, "b"]}, TypeError, r"source\[1\] is 3"),
        ((1, 1, 2, 3), {"layers": [0, 1]}, ValueError, "layers has 2 entries, expected 1 to 1"),
        ((2, 3, 2, 3), {"heads": [2, 1]}, ValueError, r"heads is \[2, 1\], .* rising order"),
        ((2, 3, 2, 3), {"heads": [1, 3]}, ValueError, r"heads\[1\] is 3, expected 0 to 2 because"),
        ((2, 3, 2, 3), {"layers": -1}, ValueError, "layers is -1, expected 0 to"),
        ((2, 3, 2, 3), {"axis_names": ["a"]}, ValueError, "axis_names has 1 texts, expected 2"),
    ],
)
def test_what_does_not_fit(shape, options, error, says, tmp_path):
    arguments = {"source": ["a", "b", "c"], "target": ["a", "b"], **options}
    with pytest.raises(error, match=f"^plot_attention: .*{says}"):
        plots.plot_attention(np.zeros(shape), path=tmp_path / "a.png", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2, 4, 250, 250), (1, 1, 1, 3000), (1, 1, 3000, 1)])
def test_a_sentence_too_long_for_a_picture(shape, tmp_path):
    with pytest.raises(ValueError, match=rf"{shape[3]} source tokens would have .* shorter"):
        drawn(tmp_path / "a.png", np.zeros(shape, np.float32))
    assert not list(tmp_path.iterdir())


# Texts and fonts.


@pytest.mark.parametrize(
    "token",
    [
        "$",
        "$\\frac$",
        "a$b$c$",
        "\\alpha",
        "^_{}%#&~",
        "a\nb",
        "\x00\x1b[31m",
        "\u202e",
        "",
        " ",
        "<b>&amp;",
        "_x",
        "x" * 5000,
    ],
    ids=ascii,
)
def test_any_token_is_a_label(token, tmp_path, recwarn):
    """As plain text, in a line of bounded length."""
    plots.plot_attention(some_weights(2, 1), [token], ["$$", token], tmp_path / "a.svg")
    assert not recwarn.list
    shown = labels.label(token)
    assert shown.isprintable() and 0 < len(shown) <= 30
    assert texts_of((tmp_path / "a.svg").read_bytes()).count(shown) >= 2


def test_labels_are_what_the_tokens_are():
    plain = ["$x^2$", "\\n", "犬", "مرحبا", "می\u200cروم", "<b>", "a b"]
    assert [labels.label(token) for token in plain] == plain
    assert labels.label("a\nb\x1b\u2028") == "a\\nb\\x1b\\u2028"
    assert [labels.label(token) for token in ("", " ", "\t")] == ["''", "' '", "'\\t'"]


@pytest.mark.parametrize(
    ("sentence", "lines"),
    [
        ("a bc def", ["a bc def"]),
        ("a bc def ghi", ["a bc def", "ghi"]),
        ("abcdefghijk", ["abcdefgh", "ijk"]),
        ("私は音楽が好き", ["私は音楽", "が好き"]),
        ("ab cd ef gh ij kl mn op", ["ab cd ef", "gh ij kl", "mn op"]),
        ("ab cd ef gh ij kl mn op qr st", ["ab cd ef", "gh ij kl", "mn op qr …"]),
        ("", [""]),
    ],
)
def test_titles_in_lines(sentence, lines):
    assert labels.wrapped(sentence, 8).split("\n") == lines


def test_a_missing_character_is_one_warning(tmp_path):
    call = [STRANGE, "b"], ["c", STRANGE, "\ue124"]
    with pytest.warns(UserWarning, match="no font here has all the characters") as caught:
        plots.plot_attention(some_weights(2, 2, 3, 2), *call, tmp_path / "a.png")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "U+E123, U+E124 are missing" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its texts are drawn where it is looked at
        plots.plot_attention(some_weights(2, 2, 3, 2), *call, tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("characters", "packages"),
    [
        ("犬", "fonts-noto-cjk"),
        ("ひ한\U00020bb7", "fonts-noto-cjk"),
        ("م", "fonts-noto-core"),
        ("ह犬", "fonts-noto-cjk and fonts-noto-core"),
        ("😀", "fonts-symbola"),
        (STRANGE, "fonts-unifont"),
    ],
)
def test_a_package_is_named_once(characters, packages):
    said = fonts.of_missing({*characters})
    assert f"U+{ord(min(characters)):04X}" in said
    assert f"; install Debian's {packages}, or " in said
    assert said.endswith("--attention page.html")


@pytest.mark.parametrize(
    ("package", "sentence", "font"),
    [
        ("fonts-noto-cjk", "私 は 音楽 が 好き です", "NotoSansCJKjp"),
        ("fonts-noto-cjk", "我 非常 喜欢 音乐", "NotoSansCJK"),
        ("fonts-noto-cjk", "나는 음악을 좋아한다", "NotoSansCJK"),
        ("fonts-noto-core", "मुझे संगीत पसंद है", "NotoSansDevanagari"),
        ("matplotlib", "أنا أحب الموسيقى", "DejaVuSans"),
    ],
    ids=ascii,
)
def test_writing_of_many_kinds(package, sentence, font, tmp_path, monkeypatch):
    """Fonts that are there are used, also where matplotlib wrote its list before they were."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    there = {path.rpartition("/")[2].partition("-")[0] for path in findSystemFonts()}
    if package != "matplotlib" and not any(name.startswith(font[:11]) for name in there):
        pytest.skip(f"needs Debian's {package}")
    others = [one for one in fontManager.ttflist if "Noto" not in one.name]
    monkeypatch.setattr(fontManager, "ttflist", others)
    words = sentence.split()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_as = tmp_path / "a.pdf"
        plots.plot_attention(some_weights(len(words), len(words)), words, words, drawn_as)
    embedded = drawn_as.read_bytes()
    assert font.encode() in embedded and b"LastResort" not in embedded


def test_chinese_is_not_drawn_as_japanese(monkeypatch):
    known = ["DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC"]
    from matplotlib import font_manager

    monkeypatch.setattr(fonts, "_take_in_new_fonts", lambda: None)
    entries = [font_manager.FontEntry(name=name) for name in known]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    assert list(fonts._installed("直"))[:2] == ["DejaVu Sans", "Noto Sans CJK SC"]
    assert list(fonts._installed("直す"))[:2] == ["DejaVu Sans", "Noto Sans CJK JP"]


# Files.


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_the_ending_says_which_format(ending, tmp_path):
    for draw in (
        lambda path: drawn(path, some_weights(2, 3)),
        lambda path: plots.plot_curves([{"step": 1, "loss": 3.0}], path),
    ):
        first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
        draw(first)
        draw(second)
        assert first.read_bytes().startswith(BEGINNINGS[ending.lower()])
        assert first.read_bytes() == second.read_bytes()
        assert {*tmp_path.iterdir()} == {first, second}


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(figure, file, **options):
        file.write(b"half")
        raise OSError("no space")

    (tmp_path / "a.png").write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        drawn(tmp_path / "a.png", some_weights(2, 2))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("nowhere/a.png", FileNotFoundError, "path: there is no folder .*nowhere"),
        (".", IsADirectoryError, "path is .*, a folder, expected a file"),
        ("a.jpg", ValueError, r"a.jpg', expected a name that ends in .png or .svg or .pdf"),
        ("png", ValueError, r"png', expected a name that ends in .png or .svg or .pdf"),
    ],
)
def test_places_that_cannot_be_written_to(path, error, says, tmp_path):
    for call in (
        lambda: plots.require(tmp_path / path),
        lambda: plots.plot_curves([], tmp_path / path),
        lambda: plots.plot_attention(some_weights(1, 1), ["a"], ["b"], tmp_path / path),
    ):
        with pytest.raises(error, match=f"^plots: .*{says}"):
            call()


def test_settings_of_matplotlib_stay(tmp_path):
    import matplotlib

    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    with matplotlib.rc_context({"text.usetex": True}):
        plots.plot_attention(np.ones((1, 1, 1, 1)), ["$"], ["_"], tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


def test_the_command_says_so_in_one_plain_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = text.make("words", [f"a {STRANGE}"])
    model = pt.Transformer(pt.TransformerConfig(5, 5, d_model=8, num_heads=2), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    model.save("model")
    arguments = ["translate", "--model", "model", f"a {STRANGE}", "--max-length", "3"]
    assert main([*arguments, "--attention", "a.png"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    *_, line = err.splitlines()
    assert line.startswith("pyx-transformer: a.png: no font here has all the characters")


# Curves.


def lines_of(figure):
    """What each line shows: its panel's name, its own, its steps and values, and its marker."""
    return {
        (axis.get_ylabel(), line.get_label()): (
            line.get_xdata().tolist(),
            line.get_ydata().tolist(),
            line.get_marker(),
        )
        for axis in figure.axes
        for line in axis.lines
    }


def test_what_a_log_tells_is_drawn(figures, tmp_path):
    entries = [
        {"step": 1, "loss": 3.0, "learning_rate": 0.5},
        {"step": 2, "loss": None, "skipped": [1]},
        {"step": 2, "validation": {"loss": 2.5, "bleu": 1.0, "bleu_signature": "tok:char"}},
        {"step": 3, "loss": 2.0, "learning_rate": 0.25},
        {"step": 4, "validation": {"loss": 1.5, "bleu": 3.0}},
        {"step": 4, "test": {"loss": 1.75, "bleu": 2.0, "exact_match": 0.5}},
    ]
    plots.plot_curves(entries, tmp_path / "a.png")
    assert lines_of(figures[0]) == {
        ("loss", "training"): ([1, 3], [3, 2], "o"),
        ("loss", "validation"): ([2, 4], [2.5, 1.5], "o"),
        ("loss", "test"): ([4], [1.75], "o"),
        ("bleu", "validation"): ([2, 4], [1, 3], "o"),
        ("bleu", "test"): ([4], [2], "o"),
        ("exact match", "test"): ([4], [0.5], "o"),
        ("learning rate", "training"): ([1, 3], [0.5, 0.25], "o"),
    }
    for count in range(1, len(entries)):
        plots.plot_curves(iter(entries[:count]), tmp_path / "a.svg")


def test_many_points_are_a_line(figures, tmp_path):
    losses = [{"step": step, "loss": 1 / step} for step in range(1, 100)]
    figure = {"step": 50, "validation": {"loss": 1.0}}
    plots.plot_curves([*losses[:50], figure, *losses[50:]], tmp_path / "a.png")
    markers = [marker for *_, marker in lines_of(figures[0]).values()]
    assert markers == ["", "o"]


@pytest.mark.parametrize(
    ("told", "note"),
    [
        ({}, None),
        ({"dropout": 0.0, "label_smoothing": 0.0}, None),
        ({"dropout": 0.1, "label_smoothing": 0.0}, "with dropout (0.1), which raises it; "),
        ({"label_smoothing": 0.2}, "with label smoothing (0.2), which raises it; "),
        (
            {"dropout": 0.1, "label_smoothing": 0.2},
            "with dropout (0.1) and label smoothing (0.2), which raise it; ",
        ),
    ],
)
def test_why_the_training_loss_is_higher(told, note, tmp_path):
    plots.plot_curves([{"step": 1, "loss": 3.0, **told}], tmp_path / "a.svg")
    notes = [one for one in texts_of((tmp_path / "a.svg").read_bytes()) if "training loss" in one]
    wanted = [f"The training loss is {note}validation is without."] if note else []
    assert notes == wanted


def test_a_run_however_it_is_named(tmp_path):
    folder = tmp_path / "run"
    train(new_model(), some_examples(), some_examples(5, seed=1), OPTIONS, folder)
    entries = read(folder / "log.jsonl")

    class Result:
        pass

    result = Result()
    result.entries = entries
    path = tmp_path / "a.svg"
    pictures = set()
    for run in (entries, result, folder, str(folder), folder / "log.jsonl"):
        plots.plot_curves(run, path)
        pictures.add(path.read_bytes())
    (picture,) = pictures
    assert {"loss", "validation", "learning rate", "exact match", "step"} <= {*texts_of(picture)}
    assert b"with dropout (0.2) and label smoothing (0.1)" in picture


@pytest.mark.parametrize(
    ("entries", "error", "says"),
    [
        ([], ValueError, r"entries is \[\], expected entries with a loss"),
        ([{"step": 3, "skipped": [1], "loss": None}], ValueError, "expected entries with a loss"),
        ([{"loss": 3.0}], ValueError, r"entries\[0\] is {'loss': 3.0}, expected one with a step"),
        ([3], TypeError, r"entries\[0\] is 3, expected dict"),
        (3, TypeError, "entries is 3, expected a list of entries of a log"),
        ("nowhere.jsonl", FileNotFoundError, "nowhere.jsonl is missing"),
        (".", FileNotFoundError, "log.jsonl is missing"),
    ],
)
def test_what_is_no_run(entries, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"^plot_curves: .*{says}"):
        plots.plot_curves(entries, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
