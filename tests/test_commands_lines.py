"""Lines that are answered as they come: on a terminal, through pipes that pause, from and to files,
and what is there after Ctrl-C."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest
from models import lively, save_models_of_words, small_model
from terminal import COMMAND, CTRL_C, CTRL_D, terminal

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.cli import main
from pyx_transformer.commands import lines
from pyx_transformer.pipelines import progress

TRANSLATE = [*COMMAND, "translate"]
SENTENCES = ["i love music .", "yes .", "he is my brother ."]
SMALL = "pyx-transformer: en-ja is a small model, trained on short sentences: expect mistakes\n"
# The command with a translator that takes its time: argv[1] seconds for each part.
SLOW = """
import sys, time
from pyx_transformer.pipelines import Translator
found, seconds = Translator.hypotheses, float(sys.argv.pop(1))
def hypotheses(self, texts, *arguments, **settings):
    time.sleep(seconds if texts else 0)
    return found(self, texts, *arguments, **settings)
Translator.hypotheses = hypotheses
from pyx_transformer.cli import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def expected():
    return pt.Translator("en-ja").translate(SENTENCES)


def started(arguments=(), command=TRANSLATE, **streams):
    """The command in a process that hears Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [*command, *arguments],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
            **streams,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
    finally:
        signal.signal(signal.SIGINT, before)


# Pipes that pause


def test_a_line_is_answered_before_the_next_one_comes(expected):
    process = started()
    for sentence, translation in zip(SENTENCES, expected, strict=True):
        process.stdin.write(f"{sentence}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == f"{translation}\n"
    out, _ = process.communicate(timeout=60)
    assert out == b"" and process.returncode == 0


def test_a_line_is_whole_before_it_is_answered(expected):
    process = started()
    for piece in (b"i love ", b"music ", b".\nyes ."):
        process.stdin.write(piece)
        process.stdin.flush()
        time.sleep(0.05)
    assert process.stdout.readline().decode() == f"{expected[0]}\n"
    out, _ = process.communicate(timeout=60)
    assert out.decode() == f"{expected[1]}\n"


class Pipe:
    """The reading end of a pipe into which a function's pieces go one by one, each when all before
    it was read."""

    def __init__(self, pieces):
        self._pieces = list(pieces)

    def read1(self, _):
        return self._pieces.pop(0) if self._pieces else b""

    def fileno(self):
        raise OSError


def test_parts_are_what_is_there(monkeypatch):
    ready = []
    monkeypatch.setattr(lines, "is_ready", lambda file: ready.pop(0))
    source = lines.Lines(Pipe([b"a\n", b"b\nc", b"\nd\n", b"e"]), "pipe")
    ready[:] = [False]
    assert source.take(9) == ["a"]
    ready[:] = [True, False]
    assert source.take(9) == ["b", "c", "d"]
    assert source.take(9) == ["e"]
    assert source.take(9) == []


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"\xef\xbb\xbfa\r\n\n\xef\xbb\xbfb\r\r\n", ["a", "", "\ufeffb"]),
        ("ä\u2028ö\n".encode(), ["ä\u2028ö"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 99])
@pytest.mark.parametrize("most", [1, 2, 99])
def test_lines_are_the_same_in_any_pieces(content, texts, size, most):
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    source, found = lines.Lines(Pipe(pieces), "pipe"), []
    while part := source.take(most):
        assert len(part) <= most
        found += part
    assert found == texts


def test_a_line_without_end_is_read_once(monkeypatch):
    """Not once again for every piece of it."""
    source = lines.Lines(Pipe([b"a" * 1000] * 20_000 + [b"\n"]), "pipe")
    begun = time.process_time()
    assert list(map(len, source.take(1))) == [20_000_000]
    assert time.process_time() - begun < 5


# Parts


@pytest.fixture
def sizes(monkeypatch):
    """The sizes of the parts that a translator gets."""
    from pyx_transformer.pipelines import Translator

    found, hypotheses = [], Translator.hypotheses

    def kept(self, texts, *arguments, **settings):
        found.append(len(texts))
        return hypotheses(self, texts, *arguments, **settings)

    monkeypatch.setattr(Translator, "hypotheses", kept)
    return found


def test_parts_grow_and_the_results_stay(folder, sizes, capsys):
    texts = [*SENTENCES, "", "zzz .", "i am at home ."] * 20
    (folder / "in.txt").write_text("\n".join(texts))
    assert main(["translate", "--input", "in.txt", "--beam-size", "2", "--scores"]) == 0
    out, err = capsys.readouterr()
    assert sizes == [0, 4, 8, 16, 32, 60]
    found = pt.Translator("en-ja").hypotheses(texts, beam_size=2)
    assert out == "".join(f"{best.score:.4f}\t{best}\n" for best, *_ in found)
    zzz = ", ".join(str(6 * i + 5) for i in range(10))
    assert err.endswith(f"pyx-transformer: 20 unknown words: lines {zzz} and 10 more\n")


def test_parts_shrink_where_they_take_long(folder, sizes, monkeypatch, capsys):
    now = [0.0]

    def later():
        now[0] += 11
        return now[0]

    monkeypatch.setattr(lines.time, "monotonic", later)
    assert main(["translate", *["yes ."] * 9]) == 0
    assert sizes == [0, 4, 2, 1, 1, 1]


def test_an_error_names_the_line_of_all(folder, capsys):
    texts = [*["i love music ."] * 30, "\ud800"]
    with (
        pytest.raises(ValueError, match=r"generate: line 48 has 9 tokens"),
        lines.numbered("line", 16, 32),
    ):
        raise ValueError("generate: prompts[31] has 9 tokens")
    assert main(["translate", "--output", "out.txt", *texts]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "pyx-transformer translate: text 31 " in err and "texts[" not in err
    assert os.listdir() == []


def test_warnings_say_of_which_lines_they_are(capsys):
    import warnings

    for begin, where in ((0, ""), (16, "lines 17 to 18: ")):
        with lines.numbered("line", begin, 2):
            for _ in range(2):  # one that was told before is told again
                warnings.warn("1 of 2 texts cut: number 1", stacklevel=1)
        assert (
            capsys.readouterr().err == f"pyx-transformer: {where}1 of 2 texts cut: number 1\n" * 2
        )


def test_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert main(["translate", *["yes ."] * 20]) == 0
    told = re.findall(
        r"^pyx-transformer: ([\d,]+) of 20 texts, [\d.,]+ a second, 0:\d\d:\d\d left$",
        capsys.readouterr().err,
        re.M,
    )
    assert told == [str(one) for one in range(1, 21)]


def test_a_bar_where_results_go_elsewhere(folder):
    """On the terminal, of all lines; not between results that are on it."""
    (folder / "in.txt").write_text("yes .\n" * 28)
    command = [sys.executable, "-c", SLOW, "0.4", "translate", "--input", "in.txt"]
    with terminal(["--output", "out.txt"], command=command) as screen:
        screen.until("/28 [")
        assert screen.rest()[1] == 0
        assert (folder / "out.txt").read_text("utf-8").count("\n") == 28
    with terminal([], command=command) as screen:
        assert screen.rest()[1] == 0
        assert screen.all.count("\r\n") == 28 + 2 and "|" not in screen.all


# Files


def test_from_a_file_to_a_file(folder, expected, capsys):
    (folder / "in.txt").write_text("\n".join(SENTENCES))
    (folder / "out.txt").write_text("before")
    assert main(["translate", "--input", "in.txt", "--output", "out.txt"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(SMALL)
    assert (folder / "out.txt").read_text("utf-8") == "".join(f"{one}\n" for one in expected)
    usual = folder / "usual"
    usual.touch()
    assert stat.S_IMODE(os.stat("out.txt").st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert sorted(os.listdir()) == ["in.txt", "out.txt", "usual"]
    assert main(["translate", "--input", "in.txt", "--output", "-"]) == 0
    assert capsys.readouterr().out == (folder / "out.txt").read_text("utf-8")


@pytest.mark.parametrize("before", [True, False])
def test_a_link_as_a_file(before, folder, expected, capsys):
    """What it leads to is written, by --workers too; /dev/stdout is a link."""
    (folder / "in.txt").write_text("\n".join(SENTENCES))
    (folder / "elsewhere").mkdir()
    found = folder / "elsewhere" / "found.txt"
    (folder / "out.txt").symlink_to(found)
    for arguments in (["--input", "in.txt", "--output"], ["--workers", "1", "in.txt"]):
        if before:
            found.write_text("before")
        assert main(["translate", *arguments, "out.txt"]) == 0
        assert (folder / "out.txt").is_symlink()
        assert found.read_text("utf-8") == "".join(f"{one}\n" for one in expected)
        assert os.listdir("elsewhere") == ["found.txt"]
        found.unlink()
    assert main(["vocab", "in.txt", "--kind", "words", "--output", "out.txt"]) == 0
    assert (folder / "out.txt").is_symlink() and found.read_text().startswith("<unk>\n")
    found.unlink()
    found.parent.rmdir()
    assert main(["translate", "--output", "out.txt", "yes ."]) == 2
    assert f"--output: there is no folder {found.parent}" in capsys.readouterr().err


def test_a_pipe_as_a_file(folder, expected):
    os.mkfifo("in")
    os.mkfifo("out")
    process = started(["--input", "in", "--output", "out"])
    with open("out", encoding="utf-8") as found, open("in", "w") as end:
        for sentence, translation in zip(SENTENCES, expected, strict=True):
            print(sentence, file=end, flush=True)
            assert found.readline() == f"{translation}\n"
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert all(stat.S_ISFIFO(os.stat(name).st_mode) for name in ("in", "out"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--input", "nowhere"], "nowhere is missing"),
        (["--input", "."], ". is a folder, expected a file"),
        (["--input", "in.txt", "yes ."], "--input and 1 TEXTs were given, expected one of them"),
        (["--output", "no/out", "yes ."], "--output: there is no folder no"),
        (["--output", ".", "yes ."], "--output is ., a folder, expected a file"),
        (["--output", "", "yes ."], "--output: is empty, expected a path"),
        (["--scores", "--json", "yes ."], "--json: not allowed with argument --scores"),
    ],
)
def test_files_that_cannot_be(arguments, says, folder, capsys):
    (folder / "in.txt").write_text("yes .\n")
    assert main(["translate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") <= 2
    assert os.listdir() == ["in.txt"]


def test_wrong_settings_are_told_before_there_is_a_line(capsys):
    """Standard input would be waited for without end."""
    process = started(["--beam-size", "0"])
    assert process.stderr.readline() == SMALL.encode()
    assert b"translate: --beam-size is 0, expected at least 1" in process.stderr.readline()
    assert process.wait(timeout=60) == 2
    process.communicate()


def test_json(capsys):
    arguments = ["--n-best", "2", "--json", "i love music .", ""]
    assert main(["translate", *arguments]) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    first, second = pt.Translator("en-ja").hypotheses(["i love music .", ""], num_hypotheses=2)
    assert len(first) == 2 and len(second) == 1
    names = ("text", "score", "tokens", "source_tokens", "finished")
    assert rows[:3] == [{name: getattr(one, name) for name in names} for one in (*first, *second)]
    assert rows[3] == {
        **dict.fromkeys(names),
        "text": "",
        "tokens": [],
        "source_tokens": [],
        "finished": False,
    }
    assert rows[0]["source_tokens"] == ["i", "love", "music", "."]


def test_a_translation_is_one_line(folder, capsys):
    """Whatever its characters are, with --workers too; but in JSON it is as it is."""
    tokenizer = text.make("characters", ["a\nb"])
    sizes = dict.fromkeys(("src_vocab_size", "tgt_vocab_size"), tokenizer.vocab_size)
    model = lively(small_model(2, **sizes))  # some of its texts have line breaks
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    model.save("broken")
    texts = ["a", "ab", "", "bbb"]
    (folder / "in.txt").write_text("\n".join(texts))
    found = pt.Translator("broken").translate(texts, max_length=9)
    assert any("\n" in one for one in found)
    command = ["translate", "--model", "broken", "--max-length", "9"]
    expected = [one.replace("\n", " ") for one in found]
    assert main([*command, "--input", "in.txt"]) == 0
    assert capsys.readouterr().out == "".join(f"{one}\n" for one in expected)
    assert main([*command, "--input", "in.txt", "--scores"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [one for _, one in rows] == expected
    assert main([*command, "--workers", "1", "in.txt", "out.txt"]) == 0
    assert (folder / "out.txt").read_text("utf-8") == "".join(f"{one}\n" for one in expected)
    assert main([*command, "--input", "in.txt", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == found


# Ctrl-C


def test_ctrl_c_leaves_what_was_done(expected):
    command = [sys.executable, "-c", SLOW, "0.3", "translate"]
    process = started(command=command)
    process.stdin.write("".join(f"{one}\n" for one in [*SENTENCES * 6, "no ."] * 50).encode())
    process.stdin.flush()
    first = [process.stdout.readline().decode() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().endswith("pyx-transformer translate: interrupted\n")
    assert first == [f"{one}\n" for one in (expected * 2)[:4]]
    assert len(out.decode().splitlines()) in (0, 8, 24, 56)


def test_ctrl_c_leaves_a_file_as_it_was(folder):
    (folder / "in.txt").write_text("yes .\n" * 100)
    (folder / "out.txt").write_text("before")
    process = started(
        ["--input", "in.txt", "--output", "out.txt"],
        [sys.executable, "-c", SLOW, "0.5", "translate"],
    )
    end = time.monotonic() + 60
    while not [*folder.glob(".saving.*/out.txt")]:  # what is on its way
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith(b"translate: interrupted\n")
    assert process.returncode == 130
    assert (folder / "out.txt").read_text() == "before"
    assert sorted(os.listdir()) == ["in.txt", "out.txt"]


# A terminal


def test_a_conversation(expected):
    with terminal(["translate"]) as screen:
        screen.until("to translate a line, type it and press Enter; Ctrl-D ends\r\n")
        for sentence, translation in zip(SENTENCES, expected, strict=True):
            screen.until("> ")
            screen.type(f"{sentence}\n")
            screen.until(f"{translation}\r\n")
        screen.until("> ")
        screen.type("zzz .\n")
        screen.until("1 unknown word: line 4\r\n> ")
        screen.type(CTRL_D)
        assert screen.rest()[1] == 0


def test_results_of_a_conversation_may_go_elsewhere(expected):
    """The prompt does not."""
    with terminal(["translate"], "in err") as screen:
        for sentence, translation in zip(SENTENCES, expected, strict=True):
            screen.until("> ")
            screen.type(f"{sentence}\n")
            assert screen.process.stdout.readline().decode() == f"{translation}\n"
        screen.type(CTRL_D)
        assert screen.process.stdout.read() == b""
        assert screen.rest()[1] == 0


def test_who_types_is_told_of_an_error_and_asked_again(folder):
    save_models_of_words(folder)
    with terminal(["generate", "--model", "short", "--max-length", "1"], "in err") as screen:
        screen.until("> ")
        screen.type("a b\n" + "a b c d e f a b c d\n" + "c\n")
        said = screen.until("\r\n> ", 60) + screen.until("\r\n> ")
        assert "pyx-transformer: generate: line 2 has 10 tokens, expected at most 9" in said
        screen.type(CTRL_D)
        assert screen.rest()[1] == 0
        found = screen.process.stdout.read().decode().splitlines()
    assert found == pt.TextGenerator("short").generate(["a b", "c"], max_length=1)


def test_ctrl_c_at_the_prompt():
    with terminal(["translate"]) as screen:
        screen.until("> ")
        time.sleep(0.5)  # Python misses a signal between the prompt and its wait for a key
        screen.type(CTRL_C)
        screen.until("\r\npyx-transformer translate: interrupted\r\n")
        assert screen.rest()[1] == 130
