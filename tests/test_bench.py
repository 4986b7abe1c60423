"""The benchmarks: what they count, compare, judge and write, but not how fast anything is."""

import json
import math
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from models import small_config

import pyx_transformer as pt

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # last: the installed package still comes first

from bench import __main__ as command  # noqa: E402 - only now is it found
from bench import (  # noqa: E402
    busy,
    decode,
    embed,
    encoder,
    footprint,
    kernels,
    machine,
    page,
    peers,
    product,
    report,
    scale,
    scaling,
    timing,
    train,
)
from bench.rows import Bar, Benchmark, Figure, Missing, Result, Row  # noqa: E402
from bench.timing import Contestant  # noqa: E402
from bench.worker import Worker  # noqa: E402
from pyx_transformer import _runtime  # noqa: E402

BENCHMARKS = [part.BENCHMARK for part in (kernels, encoder, decode, train, embed, scale, busy)]


def named(benchmark):
    return benchmark.name


def a_row(name="work", contestants=None, **sizes):
    return Row(name, sizes, contestants or (lambda peers: []), flop=100)


def a_result(row=None, **seconds):
    """A result with the given seconds; a limit of one second in every round."""
    rounds = len(seconds["ours"])
    return Result(row or a_row(), seconds, [1.0] * rounds)


@pytest.fixture
def no_peers(monkeypatch):
    """As if nothing but NumPy were installed, with limits that take no time to measure."""
    monkeypatch.setattr(peers, "module", lambda name: None)
    monkeypatch.setattr(machine, "PEAK_SECONDS", 0.001)
    monkeypatch.setattr(machine, "READ_FLOATS", 1 << 16)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SHORTEST_PAUSE", 0.0)
    threads = pt.get_num_threads()
    yield
    pt.set_num_threads(threads)


# timing


class Clock:
    """In place of `time`: only the work that is said to take time moves it."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


def test_a_turn_begins_with_one_call_that_is_not_timed(monkeypatch):
    clock, seconds = Clock(), iter([50.0, 1.0, 3.0, 5.0])
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "TURN_SECONDS", 4.0)
    assert timing.turn(lambda: clock.passes(next(seconds))) == 2.0
    assert list(seconds) == [5.0]


def test_contestants_take_turns_and_every_other_round_runs_backwards(monkeypatch):
    monkeypatch.setattr(timing, "turn", lambda call: call())
    monkeypatch.setattr(timing, "wait_until_idle", lambda: order.append("pause"))
    order = []

    def contestant(name, seconds):
        return Contestant(name, lambda: order.append(name) or seconds)

    def limit():
        order.append("limit")
        return 0.5

    seconds, limits = timing.rounds([contestant("a", 1.0), contestant("b", 2.0)], 3, limit)
    assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert limits == [0.5] * 3
    assert order[1::2] == ["a", "b", "limit", "b", "a", "limit", "a", "b", "limit"]
    assert order[::2] == ["pause"] * 9


def test_a_pause_lasts_until_no_thread_runs(monkeypatch):
    monkeypatch.setattr(timing, "LONGEST_PAUSE", 0.05)
    done = threading.Event()

    def spin():
        while not done.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="still runs"):
            timing.wait_until_idle()
    finally:
        done.set()
        thread.join()
    monkeypatch.setattr(timing, "LONGEST_PAUSE", 2.0)
    timing.wait_until_idle()


# rows and bars


def test_ratios_are_taken_within_a_round():
    result = a_result(ours=[1.0, 2.0, 4.0], torch=[3.0, 4.0, 4.0])
    assert result.ratio("torch") == 2.0  # the medians' ratio is 2 too, the rounds' are 3, 2, 1
    assert a_result(ours=[1.0, 4.0, 2.0], torch=[3.0, 4.0, 5.0]).ratio("torch") == 2.5
    assert result.share == 0.5


def test_ratio_to_the_best_setting_of_the_best_library():
    result = a_result(**{"ours": [1.0], "numpy": [5.0], "torch": [4.0], "torch slow-path": [3.0]})
    assert result.ratio_to_best("torch") == 3.0
    assert result.ratio_to_best("numpy", "torch") == 3.0
    assert result.ratio_to_best("numpy") == 5.0
    assert math.isnan(result.ratio_to_best("torch", "onnxruntime"))


def test_a_bar_judges_the_worst_row_or_the_mean():
    rows = [a_row(m=1), a_row(m=2), a_row(m=3), a_row("other")]
    results = [
        a_result(row, ours=[1.0], torch=[seconds])
        for row, seconds in zip(rows, (2.0, 8.0, 5.0, 0.1), strict=True)
    ]

    def verdict(asked, results=results, **options):
        bar = Bar(
            "bar",
            "x",
            asked,
            lambda row: row.group == "work",
            lambda result: result.ratio_to_best("torch"),
            **options,
        )
        return bar.judge(rows, results)

    assert (verdict(2.0).got, verdict(2.0).met) == (2.0, True)
    assert verdict(2.1).met is False
    assert verdict(2.0).where == "3 of 3 rows, worst: work m=1"
    assert (verdict(8.0, at_most=True).got, verdict(7.9, at_most=True).met) == (8.0, False)
    assert verdict(4.3, mean=True).got == pytest.approx(80 ** (1 / 3))
    assert verdict(1.0, results[1:2]).where == "1 of 3 rows, worst: work m=2"
    nothing = verdict(1.0, [a_result(rows[0], ours=[1.0], numpy=[2.0])])
    assert (nothing.got, nothing.met, nothing.where) == (None, None, "0 of 3 rows")


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=named)
def test_rows_have_names_of_their_own_and_groups_are_in_one_piece(benchmark):
    names = [row.name for row in benchmark.rows]
    assert len(set(names)) == len(names)
    groups = [row.group for row in benchmark.rows]
    assert sorted(groups, key=groups.index) == groups
    assert any(row.quick for row in benchmark.rows)


def test_bars_cover_the_rows_that_they_are_about():
    covered = {
        bar.text: sum(map(bar.covers, benchmark.rows))
        for benchmark in BENCHMARKS
        for bar in benchmark.bars
    }
    assert list(covered.values()) == [
        *(17, 40, 40, 1, 3, 3, 3, 6, 6, 2, 2),
        *(*[1] * 7, 2, 4, 2),
        *(1, 1, 1),
        *(1, 1, 6),
        *(1, 1, 1),
        *(2, 1),
    ]


def test_work_of_an_encoder():
    layers, d_model, _, d_ff = model = (3, 4, 2, 5)
    weights = 4 * d_model * d_model + 2 * d_model * d_ff
    one = 2 * 7 * weights + 2 * 2 * 7 * 7 * d_model
    assert encoder.flop(model, [7]) == layers * one
    assert encoder.flop(model, [7, 7]) == 2 * layers * one
    assert encoder.weight_bytes(model) == 4 * layers * weights
    assert 2 * sum(encoder.LENGTHS) == len(encoder.LENGTHS) * max(encoder.LENGTHS)


def test_work_of_decoding():
    config = small_config(d_model=4, num_heads=2, d_ff=5, num_decoder_layers=3, tgt_vocab_size=7)
    projections, cross, feed_forward, output = 4 * 4 * 4, 2 * 4 * 4, 2 * 4 * 5, 4 * 7
    weights = 3 * (projections + cross + feed_forward) + output
    assert decode.step_weights(config) == weights
    encoding = encoder.flop((2, 4, 2, 5), [decode.SOURCE] * 3)
    assert decode.flop(config, 3, 1) == encoding + 2 * 3 * decode.TARGET * weights
    rows = 1 + 4 * (decode.TARGET - 1)  # four after the first step
    assert decode.flop(config, 3, 4) == encoding + 2 * 3 * rows * weights


# what is compared


def test_different_results_are_refused():
    ours = Contestant("ours", lambda: np.zeros(3))
    same = Contestant("numpy", lambda: np.full(3, 1e-6))
    other = Contestant("torch", lambda: np.array([0.0, 0.0, 0.1]))
    missing = Contestant("torch", lambda: np.array([0.0, 0.0, np.nan]))
    report.check("row", [ours, same, other._replace(is_compared=False)])
    for wrong in (other, missing):
        with pytest.raises(AssertionError, match="row: the results of ours"):
            report.check("row", [ours, same, wrong])


@pytest.mark.parametrize("ours, theirs", [([30_000, 5], [30_001, 5]), (["ab", "c"], ["ab", "d"])])
def test_ids_and_text_have_to_be_the_same(ours, theirs):
    first = Contestant("ours", lambda: ours)
    report.check("row", [first, Contestant("torch", lambda: list(ours))])
    with pytest.raises(AssertionError, match="row: the results of ours"):
        report.check("row", [first, Contestant("torch", lambda: theirs)])


SMALL = (
    "product m=4 n=512 k=512",
    "attention, causal B=1 H=8 T=128 K=64",
    "attention, biases by distance B=1 H=8 T=128 K=64",
    "gelu_tanh size=2048",
    "rotary, interleaved rows=128 H=8 K=64",
    "rotary, halves rows=128 H=8 K=64",
    "gated feed-forward B=1 T=16 D=512 F=2048",
)


@pytest.mark.parametrize("name", SMALL)
def test_contestants_agree(name):
    (row,) = (row for row in kernels.BENCHMARK.rows if row.name == name)
    installed = peers.Peers(1)
    with installed.inference_mode():
        contestants = list(row.contestants(installed))
        assert [c.name for c in contestants[:2]] == ["ours", "numpy"]
        report.check(row.name, contestants)


NEEDED = {"onnxruntime": ("onnx", "onnxruntime"), "transformers": ("torch", "transformers")}


def beside(peer, monkeypatch):
    """Peers of which that one is there and no other; the test is skipped where it is missing."""
    needed = NEEDED.get(peer, (peer,))
    for name in needed:
        pytest.importorskip(name, reason=f"needs {name} to compare with")
    find = peers.module
    monkeypatch.setattr(peers, "module", lambda name: find(name) if name in needed else None)
    return peers.Peers(1)


def assert_agreement(peer, contestants):
    """Ours and the peer are compared, and agree; the list of contestants."""
    contestants = list(contestants)
    compared = {contestant.name.split()[0] for contestant in contestants if contestant.is_compared}
    assert compared == {"ours", peer}
    report.check(peer, contestants)
    return contestants


SHARED_OR_NOT = [(1, 8, 2, 16, 30, 3, 5, is_shared) for is_shared in (True, False)]


@pytest.mark.parametrize("sizes", SHARED_OR_NOT)
def test_training_steps_lower_the_loss(sizes, monkeypatch):
    monkeypatch.setattr(train, "RATE", 1e-3)
    step = train.our_step(sizes)
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("sizes", SHARED_OR_NOT)
def test_training_steps_agree(sizes, monkeypatch):
    """Ours and PyTorch's losses, over the steps that are compared before any is timed."""
    monkeypatch.setattr(train, "RATE", 1e-3)
    contestants = train.steps(sizes, beside("torch", monkeypatch))
    assert [contestant.name for contestant in contestants] == ["ours", "torch"]
    right = train.torch_step

    def wrong(*arguments):
        step = right(*arguments)
        return lambda: step() + 1e-3

    monkeypatch.setattr(train, "torch_step", wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        list(train.steps(sizes, peers.Peers(1)))


def test_work_of_a_training_step():
    # 2 layers each, d 4, d_ff 8, vocabulary 10: 3 attention blocks and 2 feed-forward ones a layer.
    weights = 2 * (3 * 4 * 16 + 2 * 2 * 32) + 40
    assert train.flop((2, 4, 2, 8, 10, 3, 5, False)) == 6 * 15 * weights


@pytest.mark.parametrize("peer", ["torch", "onnxruntime"])
def test_encoders_agree(peer, monkeypatch):
    installed = beside(peer, monkeypatch)
    with installed.inference_mode():
        assert_agreement(peer, encoder.contestants((2, 32, 4, 48), 2, 5, installed))


def test_encoders_of_padding_agree(monkeypatch):
    installed = beside("torch", monkeypatch)
    with installed.inference_mode():
        assert_agreement("torch", encoder.padded_contestants((2, 32, 4, 48), installed))


@pytest.mark.parametrize("peer", ["ctranslate2", "transformers"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_translators_agree(peer, beam_size, monkeypatch):
    installed = beside(peer, monkeypatch)
    config = small_config(
        d_model=32, num_heads=4, src_vocab_size=61, tgt_vocab_size=83, position_layout="halves"
    )
    with installed.inference_mode():
        contestants = assert_agreement(peer, decode.contestants(config, 2, beam_size, installed))
    ids = contestants[0].call()
    assert ids.shape == (2, decode.TARGET)
    assert len(set(ids.ravel())) > 20  # not one token over and over
    assert ids.min() >= len(decode.SPECIAL)


def test_a_beam_of_one_sentence_is_timed_beside_greedy_search(no_peers):
    config = small_config(position_layout="halves")
    for B, names in ((1, ["ours", "greedy"]), (2, ["ours"])):
        found = list(decode.contestants(config, B, 3, peers.Peers(1)))
        assert [contestant.name for contestant in found] == names
        assert not any(contestant.is_compared for contestant in found[1:])


def test_the_trained_model_translates_alike(shared_data):
    contestants = list(decode.trained_contestants(3, peers.Peers(1)))
    report.check("words", contestants)
    assert all(contestants[0].call())
    model = decode.trained_model(shared_data / "aren")
    ids = {token: i for i, token in enumerate(model.src_vocabulary)}
    assert decode.transliterated(model, ids, [list("آزا"), list("آتزمون")]) == ["azza", "atzmon"]


# report


def test_a_row_without_what_it_needs_is_left_out(no_peers, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYX_TRANSFORMER_TEST_DATA", str(tmp_path))
    with pytest.raises(Missing, match=r"no data in .*aren; PYX_TRANSFORMER_TEST_DATA"):
        list(decode.trained_contestants(1, peers.Peers(1)))

    def missing(peers):
        raise Missing("no model")
        yield

    rows = [a_row(contestants=missing, m=1), a_row(contestants=zeros_alone, m=2)]
    options = Namespace(threads=1, rounds=1, quick=False, rows=None, output=None)
    bar = Bar("all", "%", 1, lambda row: True, lambda result: 1.0)
    (verdict,) = report.run(Benchmark("small", rows, [bar]), options)
    assert "work m=1: left out, no model" in capsys.readouterr().out
    assert verdict.where.startswith("1 of 2 rows")


def zeros_alone(peers):
    yield Contestant("ours", lambda: np.zeros(2))


def test_speed_is_told_in_what_a_row_makes():
    row = Row("work", {}, list, flop=3e9, bytes=5e9, made=(64, "tokens"))
    assert report.speed_of(a_result(row, ours=[0.5, 0.5, 9.0])) == "128 tokens/s"
    assert report.row_facts(a_result(row, ours=[0.5]))["tokens"] == 64
    assert report.speed_of(a_result(Row("work", {}, list, flop=3e9), ours=[0.5])) == "6.0 GFLOP/s"
    assert report.speed_of(a_result(Row("work", {}, list, bytes=5e9), ours=[0.5])) == "10.0 GB/s"


def test_a_figure_that_cannot_be_measured_is_not_judged():
    verdict = Figure("peak", "%", 0.1, lambda quick: math.nan).judge(True)
    assert (verdict.got, verdict.met) == (None, None)


def test_a_benchmark_is_printed_and_written(no_peers, tmp_path, capsys):
    def contestants(peers):
        yield Contestant("ours", lambda: np.zeros(2))
        yield Contestant("numpy", lambda: np.zeros(2))

    rows = [a_row(contestants=contestants, m=1), a_row(contestants=contestants, m=2)]
    bar = Bar("faster", "x", 1e-9, lambda row: True, lambda r: r.ratio_to_best("numpy"))
    figure = Figure("size", "MB", 15, lambda quick: 16.0)
    output = tmp_path / "results" / "small.json"
    options = Namespace(threads=1, rounds=2, quick=False, rows=None, output=output)
    report.run(Benchmark("small", rows, [bar], [figure]), options)

    written = json.loads(output.read_text())
    assert written["benchmark"] == "small"
    assert written["versions"]["pyx_transformer"] == pt.__version__
    assert [row["name"] for row in written["rows"]] == ["work m=1", "work m=2"]
    for row in written["rows"]:
        assert list(row["contestants"]) == ["ours", "numpy"]
        assert len(row["contestants"]["numpy"]["rounds"]) == len(row["limit_seconds"]) == 2
    assert [(v["text"], v["met"]) for v in written["bars"]] == [("faster", True), ("size", False)]
    printed = capsys.readouterr().out
    assert "geometric mean" in printed
    assert "MISSED" in printed


def test_options_choose_rows(no_peers):
    rows = [Row("a", {"m": 1}, list), Row("a", {"m": 2}, list, quick=True)]

    def chosen(**options):
        options = Namespace(**{"quick": False, "rows": None, **options})
        return [row.sizes["m"] for row in rows if report.is_asked(row, row.name, options)]

    assert chosen() == [1, 2]
    assert chosen(quick=True) == [2]
    assert chosen(rows=command.re.compile("m=1")) == [1]
    with pytest.raises(SystemExit, match="no row has"):
        report.run(Benchmark("small", rows, []), command.parse(["kernels", "--rows", "^b"]))


# the command


def test_only_a_whole_run_writes_into_results():
    results = REPOSITORY / "bench" / "results"
    assert command.parse(["kernels"]).output == results / "kernels.json"
    assert command.parse(["encoder"]).output == results / "encoder.json"
    assert command.parse(["decode"]).output == results / "decode.json"
    assert command.parse(["kernels", "--quick"]).output is None
    assert command.parse(["kernels", "--rows", "gelu"]).output is None
    assert command.parse(["kernels", "--quick", "--output", "x.json"]).output == Path("x.json")


def test_rounds_and_threads():
    assert command.parse(["kernels"]).rounds > command.parse(["kernels", "--quick"]).rounds
    assert command.parse(["kernels", "--rounds", "2"]).rounds == 2
    assert command.parse(["kernels"]).threads == 2
    for arguments in (["kernels", "--threads", "0"], ["nothing"], []):
        with pytest.raises(SystemExit):
            command.parse(arguments)


def test_the_command_runs_one_row():
    line = [sys.executable, "-m", "bench", "kernels", "--threads=1", "--rounds=1"]
    line += ["--rows", "gelu_tanh size=2048"]
    answer = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "\ngelu_tanh " in answer.stdout


# decode: Python time and memory


def test_a_call_inside_a_timed_call_counts_once(monkeypatch):
    seconds = iter([0.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(decode.time, "perf_counter", lambda: next(seconds))
    watch = decode.Stopwatch()
    inner = watch.timed(lambda: 5)
    outer = watch.timed(lambda: inner() + 1)
    assert outer() == 6
    assert inner() == 5
    assert watch.seconds == 3.0 + 4.0


def test_compiled_functions_and_methods_are_timed():
    kernels = _runtime.kernels
    with decode.timed_kernels() as watch:
        linear = pt.Linear(3, 5, rng=0)
        assert isinstance(linear.packed, kernels.PackedLinear)
        assert watch.seconds == 0.0
        linear(np.ones((2, 3)))
        by_function = watch.seconds
        assert linear.weight.shape == (5, 3)  # by a method
        assert 0.0 < by_function < watch.seconds
    assert _runtime.kernels is kernels


def test_python_time_is_what_the_kernels_do_not_take(monkeypatch):
    """Of calls that take 0.25 s of Python and then 3 s of a kernel."""
    clock, kernels = Clock(), ModuleType("kernels")
    kernels.work = lambda: clock.passes(3.0)

    def generated(*_):
        clock.passes(0.25)
        _runtime.kernels.work()

    monkeypatch.setattr(_runtime, "kernels", kernels)
    monkeypatch.setattr(decode, "time", clock)
    monkeypatch.setattr(decode, "our_model", Namespace(__wrapped__=lambda config: None))
    monkeypatch.setattr(decode, "generated", generated)
    assert decode.python_microseconds(True) == 0.25e6 / decode.TARGET


def test_python_time_of_a_model(monkeypatch):
    """It is there, and the median of three calls is no more than half of what all took."""
    monkeypatch.setattr(decode, "CONFIG", small_config(position_layout="halves"))
    start = time.perf_counter()
    seconds = 1e-6 * decode.python_microseconds(True) * decode.TARGET
    assert 0 < seconds < (time.perf_counter() - start) / 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part")
def test_the_peak_of_a_call():
    np.ones(1 << 24)  # a higher peak, before
    grown = decode.peak_growth(lambda: np.ones(1 << 23))
    assert grown == pytest.approx(8 << 23, rel=0.1)


# footprint


def test_footprint(tmp_path, monkeypatch):
    assert footprint.process_seconds("import pyx_transformer, time; time.sleep(0.5)") > 0.5
    (tmp_path / "folder").mkdir()
    for name, size in (("a", 1_200_000), ("folder/b", 300_000)):
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.setattr(footprint, "PACKAGE", tmp_path)
    assert footprint.installed_mb(True) == 1.5
    with pytest.raises(subprocess.CalledProcessError):
        footprint.process_seconds("raise SystemExit(3)")


# busy


def test_busy_processes_are_there_while_the_row_is_and_no_longer():
    with busy.busy_processes(2) as processes:
        time.sleep(0.5)
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)


def test_a_worker_works_and_ends_with_its_owner(monkeypatch):
    worker = Worker("busy", busy.SMALL, "ours", 1)
    worker()
    process = worker._process
    del worker
    assert process.wait(10) == 0
    with pytest.raises(RuntimeError, match="ended before its work was done"):
        Worker("busy", "no group", "ours", 1)


def test_product_writes_into_memory_that_is_there():
    case = product.LinearCase(m=3, n=5, k=7, bias=False)
    for contestant in product.contestants(case, peers.Peers(1)):
        first, second = np.asarray(contestant.call()), np.asarray(contestant.call())
        assert np.shares_memory(first, second), contestant.name


def test_the_model_of_a_step_on_several_machines(tmp_path, capsys):
    times = {"compute": 1.0, "exchange": 0.0, "update": 0.1, "bytes": 125_000_000}
    shared = scaling.predicted(times, 1e9, 0.0, grows=False)
    assert [one.machines for one in shared] == [1, 2, 4, 8, 16, 32, 64]
    # One machine exchanges nothing; of two, each sends half of a Gbit, and gets as much, twice.
    assert shared[0].seconds == 1.1 and shared[0].speed_up == 1
    assert shared[1].exchange == 1.0
    assert math.isclose(shared[1].seconds, 0.5 + 1.0 + 0.1)
    assert math.isclose(scaling.exchange(4, 0.0, 1e9, 50e-6), 300e-6)
    grown = scaling.predicted(times, math.inf, 0.0, grows=True)
    assert [one.speed_up for one in grown] == [1, 2, 4, 8, 16, 32, 64]
    kept = scaling.report(times, 10e9, 50e-6, tmp_path / "scale.svg")
    assert "A model, not a measurement: 10 Gbit/s, 50 us" in capsys.readouterr().out
    assert (tmp_path / "scale.svg").stat().st_size > 1000 and kept["is"] == "a model"


def test_the_page_shows_what_was_measured():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


@pytest.mark.parametrize(
    ("value", "at_most", "shown"),
    [
        (1.069, False, "1.06"),
        (1.061, True, "1.07"),
        (0.9999, False, "0.999"),
        (12.34, True, "12.4"),
        (199.9, False, "199"),
        (2.0, True, "2.00"),
        (1.1, True, "1.10"),
    ],
)
def test_figures_are_rounded_against_us(value, at_most, shown):
    assert page.against_us(value, at_most) == shown
    assert page.floored(1.06999) == 1.06 and page.floored(1.15) == 1.15


def test_times_have_three_digits():
    seconds = [0.00012345, 0.0009996, 0.01, 0.9994, 0.9996, 12.345]
    shown = ["123 us", "1 ms", "10 ms", "999 ms", "1 s", "12.3 s"]
    assert list(map(page.time, seconds)) == shown
