"""The bar: on a terminal, after a second of work, where tqdm is installed; elsewhere the line a
minute, of who asks for it."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from unittest import mock

import pytest
from runs import OPTIONS, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.pipelines import progress as progress_module
from pyx_transformer.pipelines.progress import progress
from pyx_transformer.training import train


@contextmanager
def terminal():
    """Standard error is a terminal; a function that gives what was written on it."""
    pytest.importorskip("tqdm", reason="needs tqdm, an optional package")
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def written():
        stream.flush()
        found = b""
        while select.select([main], [], [], 0.1)[0]:
            found += os.read(main, 1 << 16)
        return found.decode()

    try:
        with os.fdopen(other, "w") as stream, mock.patch.object(sys, "stderr", stream):
            yield written
    finally:
        os.close(main)


def encoder():
    tokenizer = text.make("words", ["a b c"])
    model = pt.EncoderModel(pt.EncoderConfig(tokenizer.vocab_size, d_model=8, num_heads=2), rng=0)
    model.src_tokenizer = tokenizer
    return pt.SentenceEncoder(model)


def slowed(monkeypatch, seconds):
    """An encoder that takes its time for each batch."""
    own = encoder()
    rows_of = own.model.rows_of

    def slowly(*arguments):
        time.sleep(seconds)
        return rows_of(*arguments)

    monkeypatch.setattr(own.model, "rows_of", slowly)
    return own


def test_a_bar_after_a_second(monkeypatch):
    own = slowed(monkeypatch, 0.3)
    expected = encoder().encode(["a"] * 5).tolist()
    with terminal() as written:
        assert own.encode(["a"] * 5, max_batch_tokens=1).tolist() == expected
        shown = written()
    assert re.search(r"[1-5]/5 .*text", shown)
    assert shown.endswith("\r")  # it is taken away at the end


def test_no_bar_for_less(monkeypatch):
    own = slowed(monkeypatch, 0.01)
    with terminal() as written:
        own.encode(["a"] * 5, max_batch_tokens=1)
        pt.Translator("en-ja").translate(["yes .", "no ."])
        assert written() == ""


def test_no_bar_without_a_terminal(monkeypatch, capsys):
    """Nor is its package imported."""
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    assert not sys.stderr.isatty()
    encoder().encode(["a"] * 5, max_batch_tokens=1)
    assert capsys.readouterr() == ("", "")
    assert "tqdm" not in sys.modules


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_standard_error(stream, monkeypatch):
    if stream == "closed":
        with open(os.devnull, "w") as stream:
            pass
    monkeypatch.setattr(sys, "stderr", stream)
    assert encoder().encode(["a", "b"]).shape == (2, 8)


def test_without_the_package(monkeypatch):
    with terminal() as written:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        with progress(3, "text") as done:
            done(2)
        assert encoder().encode(["a", "b"]).shape == (2, 8)
        assert len(pt.Translator("en-ja").translate(["yes ."])) == 1
        assert written() == ""


def test_within_another_all_is_counted_by_that(monkeypatch):
    """Which has the only bar."""
    counted = []
    monkeypatch.setattr(progress_module, "new_bar", lambda *_, **__: Bar(counted))
    with terminal():
        with progress(7, "line"):
            encoder().encode(["a"] * 5, max_batch_tokens=1)
            pt.Translator("en-ja").translate(["yes .", "no ."])
        assert sum(counted) == 7 and Bar.opened == Bar.closed == 1
        with progress(2, "line", with_bar=False):  # nor is there one within it
            pt.Translator("en-ja").translate(["yes .", "no ."])
    assert sum(counted) == 7 and Bar.opened == 1


class Bar:
    """What tqdm's is."""

    opened = closed = 0

    def __init__(self, counted):
        self.update = counted.append
        Bar.opened += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        Bar.closed += 1


def test_a_line_a_minute(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    for total, begun in ((5000, 1000), (None, 0)):
        with progress(total, "line", begun=begun, say=said.append) as done:
            for second in range(1, 151):
                now[0] += 1
                done(20)
                assert len(said) == second // 60
        if total is not None:
            assert said == [
                "2,200 of 5,000 lines, 20.0 a second, 0:02:20 left",
                "3,400 of 5,000 lines, 20.0 a second, 0:01:20 left",
            ]
        else:
            assert said == ["1,200 lines, 20.0 a second", "2,400 lines, 20.0 a second"]
        said.clear()


def test_a_run_of_training(tmp_path, monkeypatch):
    """A bar below what the run tells, of the steps that are left too, which is taken away."""
    monkeypatch.setattr(progress_module, "new_bar", partial(slow_bar, progress_module.new_bar))
    monkeypatch.setattr("pyx_transformer.training.telling.new_bar", progress_module.new_bar)
    options = replace(OPTIONS, steps=8)
    with terminal() as written:
        train(new_model(), some_examples(), some_examples(3, 1), options, tmp_path / "run")
        shown = written()
    assert re.search(r" 8/8 \[00:0\d<00:00, [\d. ]+step/s, loss [\d.]+\]", shown)
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip() and "%|" not in line]
    told = r"(step \d of 8  loss|step \d of 8  validation: |8 steps; the best model)"
    assert lines[0].startswith("Transformer of ") and lines[0].endswith("steps 1 to 8")
    assert [bool(re.match(told, line)) for line in lines[1:]] == [True] * 4
    with terminal() as written:
        options = replace(options, steps=11)
        train(new_model(), some_examples(), None, options, tmp_path / "run", resume=True)
        assert re.search(r" 9/11 \[", written())


def slow_bar(new_bar, *arguments, **settings):
    """One that is shown at once."""
    bar = new_bar(*arguments, **settings)
    bar.delay, bar.mininterval = 0, 0
    return bar


def test_a_bar_starts_no_thread():
    """Runs with --workers fork below one."""
    before = threading.active_count()  # other tests may have left some
    with terminal(), progress(3, "text") as done:
        done(2)
        assert threading.active_count() == before
    with terminal(), progress(3, "text"):
        assert threading.active_count() == before


def test_errors_pass_through():
    with terminal() as written:
        with pytest.raises(KeyError), progress(3, "text") as done:
            done(1)
            raise KeyError
        assert written() == ""


def test_there_is_none_in_a_process_of_a_pool(monkeypatch):
    """A fork that has the terminal too."""
    own = slowed(monkeypatch, 0.4)
    with terminal() as written:
        one = {"max_batch_tokens": 1}
        child = get_context("fork").Process(target=own.encode, args=(["a"] * 4,), kwargs=one)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert written() == ""
