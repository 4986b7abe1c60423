"""The bar: on a terminal, after a second of work, where tqdm is installed."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from contextlib import contextmanager
from multiprocessing import get_context
from unittest import mock

import pytest

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.pipelines.progress import progress


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
