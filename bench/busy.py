"""`python -m bench busy`: small and large work while other processes hold the cores.

Each contestant works in a process of its own: here threads that wait in a loop would meet.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from functools import partial

import pyx_transformer as pt
from bench import decode, encoder
from bench.peers import Peers
from bench.rows import Bar, Benchmark, Row
from bench.timing import Contestant
from bench.worker import Worker

TRANSLATOR, SMALL, LARGE = "busy, translator", "busy, small encoder", "busy, large encoder"
BUSY = (0, 1, 2, 4)  # processes that never rest
SENTENCES = 20  # each in a call of its own
WORK = {SMALL: ((1, 16), 20), LARGE: ((8, 128), 1)}  # (B, T) of the encoder, how many calls
ONE_THREAD = "one-thread"


def rows():
    for group in (TRANSLATOR, SMALL, LARGE):
        for busy in BUSY:
            yield Row(
                group,
                {"busy": busy},
                partial(contestants, group),
                surroundings=partial(busy_processes, busy),
                quick=group == SMALL and busy == 2,
            )


@contextlib.contextmanager
def busy_processes(number):
    """So many processes that do nothing, as fast as they can."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def contestants(group, peers):
    """Ours, ours on one thread, and the libraries that can do the work."""
    names = {"ours": True, ONE_THREAD: True}
    if group == TRANSLATOR:
        names["ctranslate2"] = peers.ctranslate2
    else:
        names |= {"torch": peers.torch, "onnxruntime": peers.onnxruntime}
    for name, is_there in names.items():
        if is_there:
            threads = 1 if name == ONE_THREAD else peers.threads
            call = Worker("busy", group, "ours" if name == ONE_THREAD else name, threads)
            yield Contestant(name, call, is_compared=False)


@contextlib.contextmanager
def work(group, name, threads):
    """The work of a contestant."""
    pt.set_num_threads(threads)
    peers = Peers(threads)
    call = translator_call(name, peers) if group == TRANSLATOR else encoder_call(group, name, peers)
    with peers.inference_mode():
        yield lambda: call() and None


def translator_call(name, peers):
    """Greedy translations with the shipped model, from ids."""
    model = decode.shipped_model()
    sentences = [model.src_tokenizer.encode(text) for text in decode.english(SENTENCES)]
    if name == "ours":
        translate = model.generate
    else:
        translator = decode.shipped_ctranslate2(peers.ctranslate2, peers.threads)
        translate = partial(decode.translated_lines, translator, beam_size=1)
    return lambda: [translate([sentence]) for sentence in sentences]


def encoder_call(group, name, peers):
    shape, calls = WORK[group]
    every = encoder.contestants(encoder.MODELS[0], *shape, peers)
    call = next(contestant.call for contestant in every if contestant.name == name)
    return lambda: [call() for _ in range(calls)]


def beside_one_thread(text, asked, *groups):
    """A bar: the time of one thread, with as many busy processes as threads."""
    return Bar(
        f"{text}, 2 busy processes: time of one thread",
        "x",
        asked,
        lambda row: row.group in groups and row.sizes["busy"] == 2,
        lambda result: 1 / result.ratio(ONE_THREAD),
        at_most=True,
    )


BENCHMARK = Benchmark(
    "busy",
    rows=tuple(rows()),
    bars=(
        beside_one_thread("small work", 1.5, TRANSLATOR, SMALL),
        beside_one_thread("large work", 1.2, LARGE),
    ),
)
