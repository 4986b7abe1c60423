"""The choice of instruction set and threads, what show_config tells of it, and forks."""

import os
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from pyx_transformer import _runtime

VARIABLES = ("PYX_TRANSFORMER_ISA", "PYX_TRANSFORMER_NUM_THREADS", "OMP_NUM_THREADS")


def python(code, timeout=60, **variables):
    """Run code in a new Python with only these of the package's variables set."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def config(**variables):
    """show_config's answer in a new Python with these variables."""
    code = "import pyx_transformer as pt; print(pt.show_config('dict'))"
    answer = python(code, **variables)
    assert answer.returncode == 0, answer.stderr
    return eval(answer.stdout)


def import_error(**variables):
    """The last line that importing the package with these variables leaves on stderr."""
    answer = python("import pyx_transformer", **variables)
    assert answer.returncode != 0
    return answer.stderr.splitlines()[-1]


@pytest.fixture
def threads_restored():
    before = _runtime._threads, _runtime._threads_from
    yield
    _runtime._threads, _runtime._threads_from = before


# Instruction sets


def test_best_instruction_set_is_the_default():
    assert config()["isa"] == _runtime.cpu.supported()[0]


@pytest.mark.parametrize("isa", _runtime.available_isas())
def test_variable_chooses_the_instruction_set(isa):
    assert config(PYX_TRANSFORMER_ISA=isa)["isa"] == isa


def test_empty_variable_counts_as_unset():
    assert config(PYX_TRANSFORMER_ISA="")["isa"] == _runtime.cpu.supported()[0]


def test_unknown_instruction_set_is_an_import_error():
    assert import_error(PYX_TRANSFORMER_ISA="mmx") == (
        "ImportError: pyx_transformer: PYX_TRANSFORMER_ISA is 'mmx'. "
        f"This CPU runs {', '.join(_runtime.cpu.supported())}; "
        f"this build has {', '.join(_runtime._built_isas())}; "
        f"PYX_TRANSFORMER_ISA can be {', '.join(_runtime.available_isas())}"
    )


def test_instruction_set_that_the_cpu_lacks_is_an_import_error(monkeypatch):
    monkeypatch.setattr(_runtime.cpu, "supported", lambda: ("x86-64-v2",))
    with pytest.raises(ImportError, match=r"ISA is 'x86-64-v4'\. This CPU runs x86-64-v2;"):
        _runtime._choose_kernels("x86-64-v4")


def test_missing_build_is_an_import_error(monkeypatch):
    monkeypatch.setattr(_runtime.cpu, "supported", lambda: ("x86-64-v9", "x86-64-v2"))
    with pytest.raises(ImportError, match=r"the kernels for x86-64-v9, .* were not built"):
        _runtime._choose_kernels("")


def test_cpu_below_every_build_is_an_import_error(monkeypatch):
    monkeypatch.setattr(_runtime.cpu, "supported", lambda: ())
    with pytest.raises(ImportError, match=r"this CPU is too old .* This CPU runs none;"):
        _runtime._choose_kernels("")


def test_modules_are_what_their_names_say(kernels):
    assert kernels.__name__.endswith("." + kernels.ISA_NAME.replace("-", "_"))
    widths = {"x86-64-v4": 16, "x86-64-v3": 8, "x86-64-v2": 4, "neon": 4}
    assert widths[kernels.ISA_NAME] == kernels.VECTOR_WIDTH


# Threads


def test_variables_set_the_number_of_threads():
    answer = config(PYX_TRANSFORMER_NUM_THREADS="3", OMP_NUM_THREADS="5")
    assert answer["num_threads"] == 3
    assert answer["num_threads_from"] == "PYX_TRANSFORMER_NUM_THREADS"
    answer = config(PYX_TRANSFORMER_NUM_THREADS="", OMP_NUM_THREADS="5,2")
    assert answer["num_threads"] == 5
    assert answer["num_threads_from"] == "OMP_NUM_THREADS"


def test_default_is_the_usable_cpus():
    answer = config()
    assert answer["num_threads"] == _runtime._usable_cpus()
    assert answer["num_threads_from"] == "the CPUs this process may use"


@pytest.mark.parametrize("name", _runtime._THREADS_VARIABLES)
@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", "1025", "9" * 5000])
def test_bad_variable_is_named(name, value):
    assert import_error(**{name: value}) == (
        f"ValueError: {name} is {value!r}, expected a whole number from 1 to 1024"
    )


@pytest.mark.parametrize("n", [1, 3, 1024, np.int64(2)])
def test_set_num_threads(n, threads_restored):
    _runtime.set_num_threads(n)
    assert _runtime.get_num_threads() == n
    assert type(_runtime.get_num_threads()) is int
    assert _runtime.show_config("dict")["num_threads_from"] == "set_num_threads"


@pytest.mark.parametrize("n", [0, -1, 1025, 2**80])
def test_set_num_threads_refuses_numbers_out_of_range(n):
    before = _runtime.get_num_threads()
    with pytest.raises(ValueError) as error:
        _runtime.set_num_threads(n)
    assert str(error.value) == f"set_num_threads: n is {n}, expected a whole number from 1 to 1024"
    assert _runtime.get_num_threads() == before


@pytest.mark.parametrize("n", [None, "2", 2.0, [2], True, False, np.True_, np.ones(2, int)])
def test_set_num_threads_refuses_other_types(n):
    name = type(n).__name__
    with pytest.raises(TypeError, match=f"n is of type {name}, expected an integer"):
        _runtime.set_num_threads(n)


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/\n", {}, np.inf),
        ("0::/\n", {"cpu.max": "max 100000\n"}, np.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "cpu.max": "200000 100000\n"}, 0.5),
        ("0::/not/mounted/here\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "5:memory:/m\n4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            np.inf,
        ),
        ("", {}, np.inf),
    ],
)
def test_quota_of_control_groups(membership, files, cpus, tmp_path):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _runtime._cpu_quota(tmp_path / "membership", tmp_path / "mount") == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(0.5, 1), (1.5, 2), (2.0, 2), (9.0, 4), (np.inf, 4)])
def test_quota_is_rounded_up(quota, cpus, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 5}, raising=False)
    monkeypatch.setattr(_runtime, "_cpu_quota", lambda: quota)
    assert _runtime._usable_cpus() == cpus


# The report


def test_show_config_prints_what_the_dict_holds(capsys):
    assert _runtime.show_config() is None
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    answer = _runtime.show_config("dict")
    assert dict(lines) == {
        name: ", ".join(value) if isinstance(value, tuple) else str(value)
        for name, value in answer.items()
    }


def test_show_config_is_a_table_in_a_notebook(monkeypatch, capsys):
    displayed = []
    ipython = SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    display = SimpleNamespace(display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(_runtime, "_threads_from", "<a & b>")
    assert _runtime.show_config() is None
    assert capsys.readouterr().out == ""
    (table,) = displayed
    cells = re.findall(r"<th scope='row'>(.*?)</th><td>(.*?)</td>", table._repr_html_())
    assert [name for name, _ in cells] == [*_runtime.show_config("dict")]
    assert ("num_threads_from", "&lt;a &amp; b&gt;") in cells
    monkeypatch.setattr(ipython, "get_ipython", lambda: None)
    _runtime.show_config()
    assert capsys.readouterr().out == f"{table!r}\n"


def test_show_config_refuses_other_modes():
    with pytest.raises(ValueError, match="mode is 'json', expected 'print' or 'dict'"):
        _runtime.show_config("json")


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_fork_can_use_threads():
    """The parent's threads are busy before each fork, and work again after it."""
    answer = python(
        """
        import os
        import numpy as np
        from pyx_transformer._runtime import kernels

        x = np.ones((256, 256), np.float32)
        packed = kernels.PackedLinear(x)

        def product():
            out = np.empty_like(x)
            kernels.linear(out, x, packed, None, None, 0, 3)
            return (out == 256).all()

        for _ in range(10):
            assert product()
            child = os.fork()
            if child == 0:
                os._exit(0 if product() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert product()
        """
    )
    assert answer.returncode == 0, answer.stderr
