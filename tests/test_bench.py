"""The benchmarks: what they count, compare, judge and write, but not how fast anything is."""

import json
import math
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import pyx_transformer as pt

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # last: the installed package still comes first

from bench import __main__ as command  # noqa: E402 - only now is it found
from bench import encoder, footprint, kernels, machine, peers, product, report, timing  # noqa: E402
from bench.rows import Bar, Benchmark, Figure, Result, Row  # noqa: E402
from bench.timing import Contestant  # noqa: E402

BENCHMARKS = [kernels.BENCHMARK, encoder.BENCHMARK]


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


def test_a_turn_begins_with_one_call_that_is_not_timed(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    calls = []
    assert timing.turn(lambda: calls.append(0)) > 0
    assert len(calls) == 2


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
    assert list(covered.values()) == [17, 40, 40, 1, 3, 3, 3, 6, 6, 2, 2]


def test_work_of_an_encoder():
    layers, d_model, _, d_ff = model = (3, 4, 2, 5)
    weights = 4 * d_model * d_model + 2 * d_model * d_ff
    one = 2 * 7 * weights + 2 * 2 * 7 * 7 * d_model
    assert encoder.flop(model, [7]) == layers * one
    assert encoder.flop(model, [7, 7]) == 2 * layers * one
    assert encoder.weight_bytes(model) == 4 * layers * weights
    assert 2 * sum(encoder.LENGTHS) == len(encoder.LENGTHS) * max(encoder.LENGTHS)


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


SMALL = ("product m=4 n=512 k=512", "attention, causal B=1 H=8 T=128 K=64", "gelu_tanh size=2048")


@pytest.mark.parametrize("name", SMALL)
def test_contestants_agree(name):
    (row,) = (row for row in kernels.BENCHMARK.rows if row.name == name)
    installed = peers.Peers(1)
    with installed.inference_mode():
        contestants = list(row.contestants(installed))
        assert [c.name for c in contestants[:2]] == ["ours", "numpy"]
        report.check(row.name, contestants)


def test_encoders_agree():
    installed = peers.Peers(1)
    if not (installed.torch or installed.onnxruntime):
        pytest.skip("neither torch nor onnxruntime is installed")
    model = (2, 32, 4, 48)
    with installed.inference_mode():
        report.check("encoder", list(encoder.contestants(model, 2, 5, installed)))
        report.check("padded", list(encoder.padded_contestants(model, installed)))


# report


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


# footprint


def test_footprint():
    assert 0.1 < footprint.installed_mb(True) < 15
    assert footprint.process_seconds("import pyx_transformer") > 0
    with pytest.raises(subprocess.CalledProcessError):
        footprint.process_seconds("raise SystemExit(3)")


def test_product_writes_into_memory_that_is_there():
    case = product.LinearCase(m=3, n=5, k=7, bias=False)
    for contestant in product.contestants(case, peers.Peers(1)):
        first, second = np.asarray(contestant.call()), np.asarray(contestant.call())
        assert np.shares_memory(first, second), contestant.name
