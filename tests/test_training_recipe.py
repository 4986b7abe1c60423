"""Recipes as training runs: what decides which weights are the best, and what is held back."""

import numpy as np
import pytest
import sacrebleu
import small_task
from models import translate
from runs import some_examples
from small_task import PAIRS, RECIPE

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.training import recipe, validation
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.validation import mean_loss


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files of a small task."""
    monkeypatch.chdir(tmp_path)
    small_task.write(tmp_path)
    return tmp_path


def run(content, folder):
    """Run a recipe and return where it ended, with the figures of its validations."""
    (folder / "recipe.toml").write_text(content)
    progress = recipe.load_recipe("recipe.toml").run("run")
    log = read_log(folder / "run" / "log.jsonl")
    return progress, [entry["validation"] for entry in log if "validation" in entry]


BLEU = RECIPE.replace("exact_match", "bleu").replace("_every = 60", "_every = 10")


def test_bleu_is_that_of_the_translations(folder):
    """With references that differ a little from what is learned."""
    (folder / "dev.de").write_text("".join(f"nun {target}\n" for _, target in PAIRS), "utf-8")
    content = BLEU.replace('dev_target = "train.de"', 'dev_target = "dev.de"')
    progress, figures = run(content.replace("steps = 120", "steps = 20"), folder)
    model = pt.load(folder / "run" / "model")
    sources, references = zip(*((source, f"nun {target}") for source, target in PAIRS), strict=True)
    texts = [best[0].text for best in translate(model, sources, max_length=8, beam_size=1)]
    of_peer = sacrebleu.corpus_bleu(texts, [references], tokenize="none", force=True).score
    assert 0 < of_peer < 100
    assert progress.best == figures[-1]["bleu"] == pytest.approx(of_peer)
    assert "|tok:none|" in figures[-1]["bleu_signature"]


def test_lists_are_as_good_as_files(folder):
    """The figures are the same, and errors name the place in a list."""
    run(RECIPE.replace("steps = 120", "steps = 20"), folder)
    model = pt.load("run/model")
    sources, targets = (list(side) for side in zip(*PAIRS, strict=True))
    wanted = validation.evaluate(model, "train.en", "train.de")
    assert wanted["bleu"] > 0
    assert validation.evaluate(model, sources, tuple(targets)) == wanted
    assert validation.evaluate("run/model", iter(sources), "train.de") == wanted
    with pytest.warns(UserWarning, match="^source has 1 unknown word: text 2$"):
        validation.evaluate(model, ["i know .", "you know who"], targets[:2])
    for given, error, says in (
        (
            (sources, targets[:2]),
            ValueError,
            "evaluate: source has 5 texts, expected 2 because",
        ),
        (("train.en", targets[:2]), ValueError, "train.en has 5 lines, expected 2 because target"),
        ((["a", " "], ["b", "c"]), ValueError, r"evaluate: source\[1\] is empty, expected a sent"),
        (([], []), ValueError, "evaluate: source is empty, expected at least one text"),
        ((["a"], [3]), TypeError, r"evaluate: target\[0\] is 3, expected a string"),
        ((3, ["a"]), TypeError, "evaluate: source is 3, expected a list of texts"),
    ):
        with pytest.raises(error, match=says):
            validation.evaluate(model, *given)


@pytest.mark.parametrize("asked", ["auto", "none", "char"])
def test_text_without_spaces_is_measured_by_characters(asked, folder, capsys):
    """Unless something else is asked for: as words, sentences without spaces have no BLEU."""
    pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    targets = ["".join(target.split()) for _, target in PAIRS]
    (folder / "train.de").write_text("".join(f"{one}\n" for one in targets), "utf-8")
    content = BLEU.replace('"words"', '"sentencepiece"\nsize = 40').replace("= 120", "= 100")
    (folder / "recipe.toml").write_text(f'{content}bleu_tokenizer = "{asked}"\n')
    assert main(["train", "recipe.toml", "--output", "run"]) == 0
    entries = read_log(folder / "run" / "log.jsonl")
    figures = [entry["validation"] for entry in entries if "validation" in entry][-1]
    used = "char" if asked == "auto" else asked
    assert f"tok:{used}|" in figures["bleu_signature"]
    assert f"bleu_signature {figures['bleu_signature']}\n" in capsys.readouterr().err
    assert figures["bleu"] > 10 if used == "char" else figures["bleu"] == 0


def test_a_pipeline_is_not_evaluated_but_its_model():
    with pytest.raises(TypeError, match=r"evaluate: model is Translator.*, expected its \.model"):
        validation.evaluate(pt.Translator("en-ja"), ["i know ."], ["わか る"])


def test_the_best_bleu_decides(folder, monkeypatch):
    """Whatever the loss says: here the second score is the best, and four do not better it."""
    scores = iter([10.0, 50.0, 30.0, 50.0, 49.0, 20.0, 60.0])
    monkeypatch.setattr(validation, "bleu_with_signature", lambda *_: (next(scores), ""))
    progress, figures = run(f"{BLEU}patience = 4\n", folder)
    assert [one["bleu"] for one in figures] == [10.0, 50.0, 30.0, 50.0, 49.0, 20.0]
    assert (progress.step, progress.best, progress.worse) == (60, 50.0, 4)
    assert figures[1]["loss"] > figures[-1]["loss"]
    best = pt.load(folder / "run" / "model")
    examples = recipe.load_recipe("recipe.toml").examples(best, "dev")
    assert mean_loss(best, examples) == figures[1]["loss"]


def test_a_share_of_the_examples_is_held_back(folder, monkeypatch):
    """The last two of five, when 0.4 of them are asked for."""
    content = RECIPE.replace('dev_source = "train.en"\ndev_target = "train.de"', "dev_share = 0.4")
    given = []
    train = recipe.train

    def seen(model, examples, validation, *arguments, **settings):
        given.extend([model, examples, validation])
        return train(model, examples, validation, *arguments, **settings)

    monkeypatch.setattr(recipe, "train", seen)
    _, figures = run(content.replace("steps = 120", "steps = 20"), folder)
    model, *parts = given
    assert len(figures) == 1
    for part, pairs in zip(parts, (PAIRS[:3], PAIRS[3:]), strict=True):
        sources, targets = zip(*pairs, strict=True)
        assert part.references == list(targets)
        for side, texts, ids in (
            (model.src_tokenizer, sources, part.sources),
            (model.tgt_tokenizer, targets, part.targets),
        ):
            assert [side.decode(one, spaced=True) for one in ids] == list(texts)


@pytest.mark.parametrize("share, held", [(0.4, 8), (0.01, 1), (0.124, 2), (0.95, 19)])
@pytest.mark.parametrize("with_sources", [True, False])
def test_a_split_keeps_order_and_ids(share, held, with_sources):
    whole = some_examples(20, with_sources=with_sources)
    whole.references = [str(i) for i in range(20)]
    parts = whole.split(share)
    assert [len(part) for part in parts] == [20 - held, held]
    assert parts[0].references + parts[1].references == whole.references
    for name in ("targets", "sources") if with_sources else ("targets",):
        together = getattr(parts[0], name) + getattr(parts[1], name)
        for one, expected in zip(together, getattr(whole, name), strict=True):
            np.testing.assert_array_equal(one, expected)
    for part in parts:
        assert (part.sources is None) == (not with_sources)
        assert (part.start_id, part.end_id) == (1, 2)
