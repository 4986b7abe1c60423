"""The commands for texts as a user types them: embed, rank, classify, tag, translate and generate
with other people's models, score, inspect, convert."""

import io
import json
import math
import shutil
import subprocess
import sys

import directories
import numpy as np
import pytest
from models import assert_same_bits, save_models_of_words
from small_task import refused
from terminal import CTRL_D, terminal

import pyx_transformer as pt
from pyx_transformer.cli import main
from pyx_transformer.pipelines.inspection import inspect

LINES = ["a b c", "d", "", "c b a a"]
# The command with a generator that waits for Enter after each part of a text that it streams.
PAUSING = """
import sys
from pyx_transformer.pipelines import TextGenerator
real = TextGenerator.stream
def stream(self, *arguments, **settings):
    for part in real(self, *arguments, **settings):
        yield part
        print("...", end="", file=sys.stderr, flush=True)
        sys.stdin.readline()
TextGenerator.stream = stream
from pyx_transformer.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    save_models_of_words(folder)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory, shared_data):
    """A function that gives the directory of a model of transformers, made once."""
    folder = tmp_path_factory.mktemp("others")

    def of(name):
        directories.library()
        made = folder / name
        if not made.exists():
            made.mkdir()
            labels = ("B-LOC", "B-PER", "I-PER")
            tags = {"id2label": dict(enumerate(labels)), "initializer_range": 0.5}
            kinds = {
                "reranker": ("BertForSequenceClassification", {"num_labels": 1}),
                "tagger": ("BertForTokenClassification", tags),
            }
            if name in kinds:
                kind, settings = kinds[name]
                directories.bert(made, shared_data, kind, **settings)
            else:
                getattr(directories, name)(made, shared_data)
        return str(made)

    return of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stdin(monkeypatch):
    """A function that puts lines on standard input."""

    def put(lines):
        content = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))

    return put


def printed(arguments, capsys):
    """What a command prints, nothing on standard error."""
    assert main([str(one) for one in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


# embed


def test_embed(own, folder, stdin, capsys):
    """JSON lines, on standard output or in a file, and a .npy file: the same numbers."""
    vectors = pt.SentenceEncoder(own / "encoder").encode(LINES)
    model = ["embed", "--model", own / "encoder"]
    stdin(LINES)
    lines = printed(model, capsys)
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == LINES
    assert_same_bits(np.array([row["embedding"] for row in rows], np.float32), vectors)
    assert printed([*model, *LINES], capsys) == lines
    assert printed([*model, *LINES, "--output", "found.jsonl"], capsys) == []
    assert (folder / "found.jsonl").read_text("utf-8").splitlines() == lines
    stdin(LINES)
    assert printed([*model, "-", "--output", "found.npy", "--max-batch-tokens", 1], capsys) == []
    assert_same_bits(np.load(folder / "found.npy"), vectors)
    assert sorted(path.name for path in folder.iterdir()) == ["found.jsonl", "found.npy"]
    stdin([])
    assert printed([*model, "--output", "none.npy"], capsys) == []
    assert np.load(folder / "none.npy").shape == (0, 12)


def test_embed_with_settings(own, folder, capsys):
    encoder = pt.SentenceEncoder(own / "encoder", pooling="max")
    flags = ["--pooling", "max", "--normalize", "--dimension", "5", "--prompt", "f "]
    arguments = ["embed", "--model", own / "encoder", *LINES, *flags, "--output", "found.npy"]
    assert printed(arguments, capsys) == []
    expected = encoder.encode(LINES, normalize=True, truncate_dim=5, prompt="f ")
    assert_same_bits(np.load(folder / "found.npy"), expected)


def test_a_file_is_whole_or_as_it_was(own, folder, capsys, monkeypatch):
    (folder / "found.npy").write_bytes(b"before")
    arguments = ["embed", "--model", str(own / "encoder"), "a b", "--output", "found.npy"]
    refused([*arguments, "--dimension", "99"], capsys, "--dimension is 99, expected at most 12")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
        refused(arguments, capsys, "pyx-transformer embed: disk full")
    assert (folder / "found.npy").read_bytes() == b"before"
    assert [path.name for path in folder.iterdir()] == ["found.npy"]
    for name, says in (
        ("found.txt", "--output is found.txt, expected a .npy or .jsonl file"),
        ("no/found.npy", "--output: there is no folder no"),
        ("", "--output: is empty, expected a path"),
    ):
        refused([*arguments[:-1], name], capsys, says)


# rank, classify, tag


def test_rank(others, stdin, capsys):
    texts = ["i know him", "many animals", 'she said " no "', "ünï ☃"]
    encoder = pt.CrossEncoder(others("reranker"))
    expected = [f"{one.score:.6f}\t{one.text}" for one in encoder.rank("who ?", texts)]
    arguments = ["rank", "--model", others("reranker"), "who ?"]
    assert printed([*arguments, *texts], capsys) == expected
    stdin(texts)
    assert printed([*arguments, "--top-k", "2", "--max-batch-tokens", "1"], capsys) == expected[:2]
    refused([*arguments, "a", "--top-k", "0"], capsys, "rank: --top-k is 0, expected at least 1")
    refused([*arguments, "many animals " * 50], capsys, "rank: text 1 has", "at most 64")
    rows = [json.loads(line) for line in printed([*arguments, *texts, "--json"], capsys)]
    assert [f"{row['score']:.6f}\t{row['text']}" for row in rows] == expected


def test_classify(own, stdin, capsys):
    classifier = pt.TextClassifier(own / "classifier")
    arguments = ["classify", "--model", own / "classifier"]
    found, scores = classifier.classify(LINES), classifier.scores(LINES)
    assert printed([*arguments, *LINES], capsys) == [one.label for one in found]
    stdin(LINES)
    lines = printed([*arguments, "--scores"], capsys)
    assert lines == [f"{one.score:.6f}\t{one.label}" for one in found]
    rows = [json.loads(line) for line in printed([*arguments, *LINES, "--json"], capsys)]
    assert rows == [{"text": text, **one._asdict()} for text, one in zip(LINES, found, strict=True)]
    lines = printed([*arguments, *LINES, "--all", "--max-batch-tokens", "1"], capsys)
    assert [json.loads(line) for line in lines] == [
        {"ja": float(row[0]), "nö": float(row[1])} for row in scores
    ]
    assert "nö" in lines[0]


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "max"])
def test_tag(aggregation, others, stdin, capsys):
    texts = ["Tom Smith went to Tokyo-Yokohama .", "", "ünï ☃"]
    found = pt.TokenClassifier(others("tagger")).tag(texts, aggregation)
    stdin(texts)
    lines = printed(["tag", "--model", others("tagger"), "--aggregation", aggregation], capsys)
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == texts
    assert [row["spans"] for row in rows] == [[one._asdict() for one in own] for own in found]
    assert any(row["spans"] for row in rows)


# translate, generate, score


def test_translate_with_languages(others, own, stdin, capsys):
    texts = ["i know him well", "she said no"]
    arguments = ["translate", "--model", others("nllb"), "--max-length", "9"]
    languages = ["--src-lang", "eng_Latn", "--tgt-lang", "fra_Latn"]
    expected = pt.Translator(others("nllb")).translate(
        texts, "eng_Latn", "fra_Latn", max_length=9, beam_size=4
    )
    stdin(texts)
    assert main([*arguments, *languages]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(f"{one}\n" for one in expected)
    said = "cut off at the maximum length (--max-length): lines 1, 2"
    assert err == f"pyx-transformer: {said}\n"
    refused([*arguments, "a b"], capsys, "translate: --tgt-lang is None, expected one of")
    wrong = [*languages[:3], "xx"]
    refused([*arguments, *wrong, "a b"], capsys, "--tgt-lang is 'xx', expected one of")
    arguments = ["translate", "--model", str(own / "translator"), "--tgt-lang", "de", "a b"]
    refused(arguments, capsys, "translate: --src-lang and --tgt-lang are None and 'de', expected")


def test_generate_a_part_at_a_time(others, own, capsys):
    generator = pt.TextGenerator(others("gpt2"))
    for prompt in ("i know him", "私 は", ""):
        for flags, settings in (
            ([], {}),
            (["--beam-size", "3"], {"beam_size": 3}),
            (["--temperature", "0.8", "--seed", "3"], {"temperature": 0.8, "seed": 3}),
        ):
            arguments = ["generate", "--model", others("gpt2"), "--max-length", "9", *flags]
            assert main([*arguments, "--stream", prompt]) == 0
            (expected,) = generator.generate([prompt], max_length=9, **settings)
            assert capsys.readouterr() == (expected + "\n", "")
    own_language = ["--model", str(own / "language"), "--max-length", "3"]
    found = pt.TextGenerator(own / "language").generate(["a b", "c d"], max_length=3)
    assert main(["generate", *own_language, "--stream", "a b", "c d"]) == 0
    assert capsys.readouterr() == ("".join(f"{one}\n" for one in found), "")
    for form in ("--json", "--scores"):
        arguments = ["generate", *own_language, "--stream", form, "a b"]
        refused(arguments, capsys, f"{form} and --stream were given, expected one of them")
    arguments = ["generate", *own_language, "--stream", "--num-samples", "2", "a b"]
    refused(arguments, capsys, "--num-samples is 2, expected 1 because one text is streamed")


def test_parts_come_as_they_are_found(own):
    """Each is flushed, so that a pipe gets it before the next one is there."""
    settings = ["--model", str(own / "language"), "--stream", "--max-length", "3", "a b"]
    child = subprocess.Popen(
        [sys.executable, "-c", PAUSING, "generate", *settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    (expected,) = pt.TextGenerator(own / "language").generate(["a b"], max_length=3)
    shown = child.stdout.read(5)
    assert shown.decode() == expected[:5] and child.poll() is None
    rest, _ = child.communicate(b"\n\n\n", timeout=60)
    assert (shown + rest).decode() == expected + "\n" and child.returncode == 0


def test_generate_as_json(own, stdin, capsys):
    prompts = ["a b", "d"]
    stdin(prompts)
    arguments = ["generate", "--model", str(own / "language"), "--max-length", "3", "--json"]
    assert main(arguments) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    found = pt.TextGenerator(own / "language").generate(prompts, max_length=3)
    names = ("text", "score", "tokens", "source_tokens", "finished")
    assert rows == [{name: getattr(one, name) for name in names} for one in found]
    assert [row["source_tokens"] for row in rows] == [["a", "b"], ["d"]]


def test_who_waits_at_a_terminal_sees_a_text_grow(own):
    """Of the one prompt, or of those that are typed; what is asked for in another form is whole."""
    settings = ["--model", str(own / "language"), "--max-length", "3"]
    (expected,) = pt.TextGenerator(own / "language").generate(["a b"], max_length=3)
    for arguments, stops in ((["a b"], 3), ([], 3), (["a b", "--scores"], 0), (["a b", "c"], 0)):
        command = [sys.executable, "-c", PAUSING, "generate", *settings]
        with terminal(arguments, command=command) as screen:
            if not arguments:
                screen.until("> ")
                screen.type("a b\n")
                screen.until("a b\r\n")
            for _ in range(stops):
                screen.until("...")
                screen.type("\n")
            if not arguments:
                screen.until("> ")
                screen.type(CTRL_D)
            assert screen.rest()[1] == 0
            assert screen.all.count("...") == stops
            assert expected in screen.all.replace("...", "").replace("\r\n", "")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max-length", "50"], "generate: prompt and --max-length together are 52, expected at"),
        (["--max-length", "-1"], "generate: --max-length is -1, expected at least 0"),
        (["--top-p", "2"], "generate: --top-p is 2.0"),
        (["--top-k", "2", "--beam-size", "3"], "generate: --beam-size is 3, expected 1 because"),
        (["--num-samples", "0"], "generate: --num-samples is 0"),
        (["--stream", "--top-k", "0"], "generate: --top-k is 0, expected at least 1"),
        (["--stream", "--max-length", "50"], "generate: prompt and --max-length together are 52"),
    ],
)
def test_settings_are_named_by_their_options(flags, says, own, capsys):
    said = refused(["generate", "--model", str(own / "short"), "a b", *flags], capsys, says)
    assert "config's --" not in said


def test_score(own, others, folder, capsys):
    (folder / "source").write_text("a b c\nd\n")
    (folder / "target").write_text("c b\na\n")
    translator = pt.Translator(own / "translator")
    scores = translator.score(["a b c", "d"], ["c b", "a"])
    arguments = ["score", "--model", own / "translator", "source", "target"]
    totals = [float(one.sum(dtype=float)) for one in scores]
    assert printed(arguments, capsys) == [f"{one:.4f}" for one in totals]
    means = [f"{total / len(one):.4f}" for total, one in zip(totals, scores, strict=True)]
    assert printed([*arguments, "--per-token"], capsys) == means
    alone = pt.TextGenerator(own / "language").score(["a b c", "d"])
    lines = printed(["score", "--model", own / "language", "source"], capsys)
    assert lines == [f"{one.sum(dtype=float):.4f}" for one in alone]
    assert all(math.isfinite(float(line)) for line in lines)
    languages = ["--src-lang", "eng_Latn", "--tgt-lang", "fra_Latn"]
    lines = printed(["score", "--model", others("nllb"), "source", "target", *languages], capsys)
    scores = pt.Translator(others("nllb")).score(
        ["a b c", "d"], ["c b", "a"], "eng_Latn", "fra_Latn"
    )
    assert lines == [f"{one.sum(dtype=float):.4f}" for one in scores]


def test_what_score_refuses(own, folder, capsys):
    (folder / "source").write_text("a b c\nd\n")
    (folder / "target").write_text("c b\n")
    language, translator = str(own / "language"), str(own / "translator")
    for arguments, says in (
        ([language, "source", "target"], "score: target was given, expected none of a language"),
        ([language, "source", "--src-lang", "en"], "score: --src-lang was given, expected none"),
        ([translator, "source"], "score: target is missing, expected the file of the translations"),
        ([translator, "source", "target"], "source has 2 lines"),
        ([translator, "nowhere", "target"], "nowhere is missing"),
        ([str(own / "encoder"), "source"], "expected a Transformer; SentenceEncoder is for those"),
    ):
        refused(["score", "--model", *arguments], capsys, says)


# inspect, convert


def test_inspect(own, others, capsys):
    for name in ("translator", "language", "encoder"):
        found = inspect(own / name)
        (shown,) = ["\n".join(printed(["inspect", own / name, "--json"], capsys))]
        assert json.loads(shown) == found
        lines = printed(["inspect", own / name], capsys)
        assert [line.split()[0] for line in lines] == list(found)
        assert f"parameters  {found['parameters']}" in lines
        assert lines[-1] == f"commands    {', '.join(found['commands'])}"
    assert "missing     none" in printed(["inspect", others("nllb")], capsys)
    assert printed(["inspect", "en-ja"], capsys)[0] == "layout      pyx_transformer"
    refused(["inspect", "nowhere"], capsys, "inspect: load: nowhere is missing, expected a folder")


def test_convert(others, folder, capsys):
    assert main(["convert", others("nllb"), "ours"]) == 0
    said = f"ours: a Transformer of {pt.load('ours').num_parameters} parameters"
    assert capsys.readouterr() == ("", f"pyx-transformer: {said}\n")
    arguments = ["translate", "--max-length", "5", "--src-lang", "eng_Latn", "--tgt-lang"]
    found = []
    for name in (others("nllb"), "ours"):
        assert main([*arguments, "fra_Latn", "--model", name, "i know him"]) == 0
        found.append(capsys.readouterr())
    assert found[0] == found[1]
    assert main(["convert", "ours", "small", "--dtype", "int8"]) == 0
    capsys.readouterr()
    sizes = [(folder / name / "model.safetensors").stat().st_size for name in ("ours", "small")]
    assert sizes[0] > 2 * sizes[1]
    refused(["convert", "ours", "ours"], capsys, "convert: target is ours, expected another folder")
    refused(["convert", "ours", "o", "--dtype", "half"], capsys, "--dtype")
    refused(["convert", "nowhere", "o"], capsys, "nowhere is missing")
    assert not (folder / "o").exists()


# All of them.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["embed", "--model", "translator", "a b"],
            "embed: model is a Transformer, expected an Encoder",
        ),
        (
            ["rank", "--model", "encoder", "a b", "c d"],
            "rank: model has no head for labels of texts",
        ),
        (["classify", "--model", "encoder", "a b"], "SentenceEncoder is for such models"),
        (
            ["tag", "--model", "classifier", "a b"],
            "tag: model has no head for labels of tokens; Te",
        ),
        (["translate", "--model", "language", "a b"], "TextGenerator is for those"),
        (["generate", "--model", "encoder", "a b"], "SentenceEncoder is for those"),
        (["embed", "--model", "encoder", "--pooling", "sum", "a"], "embed: --pooling is 'sum'"),
        (["embed", "--model", "encoder", "a b", "-"], "embed: - is among other texts"),
        (
            ["embed", "--model", "encoder", "a", "--max-batch-tokens", "0"],
            "--max-batch-tokens is 0",
        ),
        (["embed", "--model", "nowhere", "a b"], "embed: load: nowhere is missing"),
        (["embed", "a b"], "--model"),
        (["tag", "--model", "encoder", "--aggregation", "average", "a"], "--aggregation"),
    ],
)
def test_errors_are_one_line(arguments, says, own, folder, capsys, monkeypatch):
    monkeypatch.chdir(own)
    refused(arguments, capsys, says)


def test_what_texts_may_have_been_taken_for(own, folder, capsys):
    (folder / "file").write_text("a b")
    arguments = ["classify", "--model", str(own / "classifier")]
    assert main([*arguments, "file"]) == 0
    said = "file is taken as a text; to classify the lines of the file: --input file"
    assert capsys.readouterr().err == f"pyx-transformer: {said}\n"
    assert main([*arguments, "a", "b"]) == 0
    said = '2 texts of one word each; to classify one text: "a b"'
    assert capsys.readouterr().err == f"pyx-transformer: {said}\n"


def test_cut_texts_are_told(others, folder, capsys):
    shutil.copytree(others("reranker"), folder / "model")
    directories.sentence_transformer(folder / "model", {})
    directories.write_json(folder / "model/sentence_bert_config.json", {"max_seq_length": 5})
    assert main(["embed", "--model", "model", "many animals", "a"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err == "pyx-transformer: encode: 1 of 2 texts cut to 5 tokens: number 1\n"


def test_standard_input_that_is_not_utf_8(own, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n")))
    arguments = ["classify", "--model", str(own / "classifier")]
    refused(arguments, capsys, "classify: standard input, line 2 is not UTF-8")
