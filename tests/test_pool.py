"""Files of texts through a pool of processes, and runs of it that are stopped."""

import json
import multiprocessing
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from models import save_models_of_words
from small_task import refused

import pyx_transformer as pt
from pyx_transformer import pool
from pyx_transformer.batch import Classify, Embed, Generate, Translate
from pyx_transformer.cli import main
from pyx_transformer.pipelines import progress

COMMAND = [sys.executable, "-m", "pyx_transformer"]
WORKERS = ["--workers", "2", "--input", "in.txt", "--output"]
TRANSLATE = [*COMMAND, "translate", "--workers", "2", "in.txt", "out.txt"]
WORDS = ["i", "love", "music", ".", "he", "is", "my", "brother", "she", "at", "home", "how", "much"]
# Each takes about half a second, of which CI has more.
KILLS = 100 if os.environ.get("CI") else 10


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    save_models_of_words(folder)
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that files lie in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentences(count, words=WORDS, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(count)]


def write(lines, ending="\n"):
    """in.txt, of these lines."""
    with open("in.txt", "wb") as file:
        file.write((ending.join(lines) + ending).encode(errors="surrogateescape"))
    return lines


def read(path="out.txt"):
    """The lines of a file, all of which end."""
    with open(path, encoding="utf-8", newline="") as file:
        *lines, last = file.read().split("\n")
    assert last == ""
    return lines


def left():
    return sorted(name for name in os.listdir() if name.startswith("out"))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_translations_are_the_plain_ones(workers):
    lines = write([*sentences(100), "", "こんにちは", *sentences(20, seed=1)])
    seen = []
    job = Translate("en-ja", beam_size=2)
    found = pool.run(job, "in.txt", "out.txt", workers=workers, report=lambda *n: seen.append(n))
    assert found == []
    assert read() == pt.Translator("en-ja").translate(lines, beam_size=2)
    assert seen == sorted(seen) and (seen[0], seen[-1]) == ((0, 122), (122, 122))
    assert len(seen) == 1 + 8
    assert left() == ["out.txt"]


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
def test_vectors_are_the_plain_ones(name, own):
    lines = write([*sentences(50, "abcdef"), ""], "\r\n")
    pool.run(Embed(own / "encoder", normalize=True), "in.txt", name, workers=2)
    expected = pt.SentenceEncoder(own / "encoder").encode(lines, normalize=True)
    if name == "out.npy":
        found = np.load(name)
    else:
        rows = list(map(json.loads, read(name)))
        assert [row["text"] for row in rows] == lines
        found = np.array([row["embedding"] for row in rows], np.float32)
    assert found.dtype == np.float32 and found.tobytes() == expected.tobytes()


def test_line_breaks_in_a_result(own, monkeypatch):
    """They are spaces in a file of lines, and stay in JSON."""
    write(["a b"])
    monkeypatch.setattr(Generate, "_run", lambda self, _, rows: [["x\ny\r\u2028z"] * len(rows)])
    job = Generate(own / "language")
    pool.run(job, "in.txt", "out.txt", workers=1)
    assert read() == ["x y  z"]
    pool.run(job, "in.txt", "out.jsonl", workers=1)
    assert json.loads(read("out.jsonl")[0]) == {"text": "a b", "generated": "x\ny\r\u2028z"}


@pytest.mark.parametrize("content", [b"", b"\n", b"a b", b"\xef\xbb\xbfa b\n\nc"])
def test_odd_files(content, own, folder):
    (folder / "in.txt").write_bytes(content)
    pool.run(Translate(own / "translator"), "in.txt", "out.txt", workers=2)
    text = content.decode("utf-8-sig")
    lines = text.removesuffix("\n").split("\n") if text else []
    filled = pt.Translator(own / "translator").translate([line for line in lines if line])
    expected = [filled.pop(0) if line else "" for line in lines]
    assert read() == expected


def test_vectors_of_no_lines(own, folder):
    (folder / "in.txt").write_bytes(b"")
    pool.run(Embed(own / "encoder"), "in.txt", "out.npy", workers=1)
    assert np.load("out.npy").shape == (0, 12)


def test_commands(own, capsys, monkeypatch):
    lines = write(sentences(40, "abcdef"))
    models = {name: str(own / name) for name in ("translator", "language", "encoder")}
    options = ["--model", models["translator"], "--max-length", "5"]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert main(["translate", *options, *WORKERS, "out.txt"]) == 0
    translator = pt.Translator(models["translator"])
    assert read() == translator.translate(lines, beam_size=4, max_length=5)
    err = capsys.readouterr().err
    assert re.search(
        r"pyx-transformer translate: 40 of 40 lines, [\d,.]+ a second, 0:00:00 left", err
    )
    options = ["--model", models["language"], "--max-length", "4", "--top-k", "2", "--seed", "3"]
    assert main(["generate", *options, *WORKERS, "out.txt"]) == 0
    generator = pt.TextGenerator(models["language"])
    assert read() == generator.generate(lines, max_length=4, top_k=2, seed=3)
    assert (
        main(["embed", "--model", models["encoder"], "--pooling", "max", *WORKERS, "out.npy"]) == 0
    )
    encoder = pt.SentenceEncoder(models["encoder"], pooling="max")
    assert np.load("out.npy").tobytes() == encoder.encode(lines).tobytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "-"], "--output is missing, expected a file because of --workers"),
        (["--input", "-"], "--input is missing, expected a file because of --workers"),
        (["x"], "files and --input or --output were given, expected one of them"),
        (["--input", "nowhere"], "nowhere is missing"),
        (["--output", "nowhere/out.txt"], "there is no folder nowhere"),
        (["--output", "."], "is ., a folder, expected a file"),
        (["--scores"], "--scores was given, expected none with --workers"),
        (["--json"], "--json was given, expected none with --workers"),
        (["--n-best", "2"], "--n-best was given, expected none with --workers"),
        (["--beam-size", "0"], "--beam-size is 0, expected at least 1"),
        (["--src-lang", "en"], "--src-lang and --tgt-lang are 'en' and None"),
    ],
)
def test_wrong_arguments(arguments, says, own, capsys):
    write(["i am"])
    model = ["--model", str(own / "translator")]
    assert says in refused(["translate", *model, *WORKERS, "out.txt", *arguments], capsys)
    assert left() == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["in.txt"], "1 files were given, expected two with --workers"),
        (["in.txt", "out.txt", "x"], "3 files were given, expected two with --workers"),
        (["-", "out.txt"], "--input is missing, expected a file because of --workers"),
        (["in.txt", "nowhere/out.txt"], "there is no folder nowhere"),
    ],
)
def test_wrong_files(files, says, own, capsys):
    write(["i am"])
    command = ["translate", "--model", str(own / "translator"), "--workers", "2"]
    assert says in refused([*command, *files], capsys)
    assert left() == []


def test_a_target_that_is_no_file(own, capsys):
    """It stays what it is, as /dev/null has to."""
    write(["i am"])
    os.mkfifo("out.txt")
    said = refused(["translate", "--model", str(own / "translator"), *WORKERS, "out.txt"], capsys)
    assert "out.txt is a pipe, expected a file" in said
    assert stat.S_ISFIFO(os.stat("out.txt").st_mode) and left() == ["out.txt"]


def test_wrong_settings_without_workers(own, capsys):
    write(["i am"])
    command = ["translate", "--model", str(own / "translator")]
    says = "was given, expected --workers too"
    assert f"--resume {says}" in refused([*command, "--resume", "i am"], capsys)
    assert f"--on-error {says}" in refused([*command, "--on-error", "keep", "i am"], capsys)
    said = refused([*command, *WORKERS, "out.txt", "--workers", "0"], capsys)
    assert "--workers is 0" in said


def test_jobs_that_write_no_file(own):
    write(["a b"])
    with pytest.raises(ValueError, match=r"target is out.txt, expected a .npy or .jsonl file"):
        pool.run(Embed(own / "encoder"), "in.txt", "out.txt", workers=1)
    with pytest.raises(ValueError, match=r"target is out.npy, expected a .jsonl file, which can"):
        pool.run(Embed(own / "encoder", on_error="keep"), "in.txt", "out.npy", workers=1)
    job = Classify(own / "classifier", score="score")
    with pytest.raises(ValueError, match=r"job is Classify, expected one of one column and one"):
        pool.run(job, "in.txt", "out.txt", workers=1)
    with pytest.raises(TypeError, match=r"job is .*, expected Job"):
        pool.run(print, "in.txt", "out.txt", workers=1)


def test_a_file_that_is_not_utf_8():
    write([*["i am"] * 40, "b\udcff"])
    with pytest.raises(ValueError, match=r"in.txt, line 41 is not UTF-8: invalid start byte"):
        pool.run(Translate("en-ja"), "in.txt", "out.txt", workers=1)
    assert left() == []


def test_a_line_that_is_too_long(own, capsys):
    """It is named; what is done is kept; with --on-error keep all others have their results."""
    lines = [
        "a b",
        *["a"] * 20,
        "a b c d e f a b c d e f",
        *["b c"] * 20,
        "a b c d e f a b c d",
        "c",
    ]
    write(lines)
    command = ["generate", "--model", str(own / "short"), *WORKERS, "out.txt"]
    said = refused(command, capsys)
    # Whichever of the two a worker came to first.
    assert re.search(r"in.txt, line (22: .* has 12|43: .* has 10) tokens, expected at most 9", said)
    assert left() == ["out.txt.parts"]
    said = refused(command, capsys)
    assert "out.txt.parts has a part of out.txt: go on with --resume, or remove it" in said
    said = refused([*command, "--resume", "--on-error", "keep"], capsys)
    assert "is of another run: job was Generate" in said
    command[-1] = "out.jsonl"
    assert main([*command, "--on-error", "keep"]) == 0
    err = capsys.readouterr().err
    assert "line 22 is empty: " in err and "line 43 is empty: " in err and "line 21 " not in err
    rows = list(map(json.loads, read("out.jsonl")))
    short = [line for line in lines if len(line.split()) < 10]
    expected = iter(pt.TextGenerator(own / "short").generate(short))
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1):
        if number in (22, 43):
            assert row["generated"] is None and "tokens" in row["generated_error"]
        else:
            assert row == {"text": line, "generated": next(expected)}


def test_runs_that_differ_are_told(folder):
    write(sentences(400))
    run = subprocess.Popen(TRANSLATE, stderr=subprocess.DEVNULL)
    until(lambda: (folder / "out.txt.parts" / "00000000").exists(), run)
    job = Translate("en-ja", beam_size=4)
    with pytest.raises(BlockingIOError, match=r"another process is at work in out.txt.parts"):
        pool.run(job, "in.txt", "out.txt", workers=1, resume=True)
    stop(run)
    write(sentences(40, seed=1))
    said = r"out.txt.parts is of another run: source was \w+, now it is \w+: remove it"
    with pytest.raises(ValueError, match=said):
        pool.run(Translate("en-ja"), "in.txt", "out.txt", workers=1, resume=True)
    (folder / "out.txt.parts" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        pool.run(Translate("en-ja"), "in.txt", "out.txt", workers=1, resume=True)


@pytest.mark.parametrize(
    ("kind", "model", "first", "second"),
    [
        (Embed, "encoder", {"pooling": "cls"}, {"pooling": "max"}),
        (Embed, "encoder", {"output": "x"}, {"output": "y"}),
        # Of which a message shows the first ones.
        (
            Translate,
            "translator",
            {"options": pt.GenerationOptions(suppress_tokens=(*range(3, 9), 4))},
            {"options": pt.GenerationOptions(suppress_tokens=(*range(3, 9), 5))},
        ),
    ],
)
def test_no_run_goes_on_with_other_settings(kind, model, first, second, own):
    """Its results would be of both."""
    write(sentences(40, "abcdef"))

    def stopped(done, _):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(kind(own / model, **first), "in.txt", "out.jsonl", workers=1, report=stopped)
    with pytest.raises(ValueError, match=r"out.jsonl.parts is of another run: job was "):
        pool.run(kind(own / model, **second), "in.txt", "out.jsonl", workers=1, resume=True)
    pool.run(kind(own / model, **first), "in.txt", "out.jsonl", workers=1, resume=True)
    assert len(read("out.jsonl")) == 40


def test_no_run_goes_on_with_another_model(own):
    """Where a job has one, and not its path."""
    write(sentences(40, "abcdef"))
    first, other = (pt.load(own / "encoder") for _ in range(2))
    other.load_state_dict({key: 2 * array for key, array in other.state_dict().items()})

    def stopped(done, _):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(Embed(first), "in.txt", "out.npy", workers=1, report=stopped)
    with pytest.raises(ValueError, match="of another run: job was "):
        pool.run(Embed(other), "in.txt", "out.npy", workers=1, resume=True)
    pool.run(Embed(pt.load(own / "encoder")), "in.txt", "out.npy", workers=1, resume=True)
    assert len(np.load("out.npy")) == 40


def until(happens, run, seconds=60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.002)


def stop(run):
    run.kill()
    run.wait()


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


def test_a_worker_that_dies_and_workers_whose_parent_dies(folder):
    write(sentences(400))
    run = subprocess.Popen(TRANSLATE, stderr=subprocess.PIPE)
    until(lambda: (folder / "out.txt.parts" / "00000000").exists(), run)
    os.kill(children_of(run.pid)[0], signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2, err
    assert b"a worker has died, of a signal or for lack of memory; what is done is kept" in err
    run = subprocess.Popen([*TRANSLATE, "--resume"], stderr=subprocess.DEVNULL)
    until(lambda: len(children_of(run.pid)) == 2, run)
    workers = children_of(run.pid)
    stop(run)
    end = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_that_has_died_before_the_next_lines_are_given(own, monkeypatch):
    write(["i am"])

    def submit(*_):
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with pytest.raises(ChildProcessError, match="a worker has died"):
        pool.run(Translate(own / "translator"), "in.txt", "out.txt", workers=1)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_other_children_stay(own):
    """Where a run ends with an error, only its own processes do."""
    write([" ".join("abcdefabcdef")])
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    with pytest.raises(ValueError, match=r"in.txt, line 1: "):
        pool.run(Generate(own / "short"), "in.txt", "out.txt", workers=1)
    time.sleep(0.2)
    assert other.is_alive()
    other.kill()
    other.join()


def test_ctrl_c(folder):
    lines = write(sentences(400))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = subprocess.Popen(TRANSLATE, stderr=subprocess.PIPE, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: (folder / "out.txt.parts" / "00000000").exists(), run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.endswith(b"pyx-transformer translate: interrupted; --resume goes on\n")
    assert b"Traceback" not in err
    assert left() == ["out.txt.parts"]
    assert main([*TRANSLATE[3:], "--resume"]) == 0
    assert read() == pt.Translator("en-ja").translate(lines, beam_size=4)


def test_kills_at_random_moments(folder):
    """After any number of them the file is whole, and the one of a run that was never stopped."""
    lines = write(sentences(600))
    expected = pt.Translator("en-ja").translate(lines, beam_size=4)
    draw = random.Random(0)
    kills = finished = 0
    while kills < KILLS:
        run = subprocess.Popen([*TRANSLATE, "--resume"], stderr=subprocess.PIPE)
        try:
            _, err = run.communicate(timeout=draw.uniform(0.1, 0.6))
        except subprocess.TimeoutExpired:
            kills += 1
            stop(run)
            run.stderr.close()
            assert not (folder / "out.txt").exists() or read() == expected
            continue
        assert run.returncode == 0, err
        assert read() == expected and left() == ["out.txt"]
        finished += 1
        (folder / "out.txt").unlink()
    # As quick as a shell would be: workers outlive a run that was killed by a moment, and hold it.
    assert subprocess.run([*TRANSLATE, "--resume"], stderr=subprocess.DEVNULL).returncode == 0
    assert read() == expected and left() == ["out.txt"]
