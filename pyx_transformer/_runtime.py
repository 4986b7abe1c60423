"""What the process runs on: the compiled kernels that suit its CPU, and how many threads they use.

Both are settled when this module is imported, from the environment:

- `PYX_TRANSFORMER_ISA` names the instruction set; without it, the best that the CPU runs.
- `PYX_TRANSFORMER_NUM_THREADS`, else `OMP_NUM_THREADS`, is the number of threads; without them, the
  number of CPUs that the process may use. `set_num_threads` overrides both.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import operator
import os
import sys
from typing import TYPE_CHECKING, Literal, overload

from pyx_transformer._version import __version__

_PACKAGE = "pyx_transformer._kernels"
_ISAS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "neon")
_ISA_VARIABLE = "PYX_TRANSFORMER_ISA"
_THREADS_VARIABLES = ("PYX_TRANSFORMER_NUM_THREADS", "OMP_NUM_THREADS")
_MOST_THREADS = 1024  # far more, and the operating system ends the process instead of raising

try:
    cpu = importlib.import_module(f"{_PACKAGE}.cpu")
except ModuleNotFoundError as error:
    raise ImportError(
        f"pyx_transformer was found in {os.path.dirname(os.path.abspath(__file__))}, which has no "
        "compiled modules. If that is its source folder, run `pip install .` in the folder above "
        "and start Python elsewhere, or run `pip install -e .`"
    ) from error


def available_isas() -> tuple[str, ...]:
    """Names of the instruction sets that this CPU runs and this build has, the best one first."""
    built = _built_isas()
    return tuple(isa for isa in cpu.supported() if isa in built)


def load_kernels(isa: str):
    """The kernels compiled for that instruction set. The CPU must run it."""
    return importlib.import_module(_module_name(isa))


def _module_name(isa):
    return f"{_PACKAGE}.{isa.replace('-', '_')}"


def _built_isas():
    return [isa for isa in _ISAS if importlib.util.find_spec(_module_name(isa))]


def _choose_kernels(requested):
    """The module for the requested instruction set, or with "" for the best that the CPU runs.

    Raises ImportError where the CPU does not run it or the build lacks it: to use slower kernels
    is for the user to decide.
    """
    runs = cpu.supported()
    isa = requested or next(iter(runs), "")
    if isa in available_isas():
        return load_kernels(isa)
    if requested:
        problem = f"{_ISA_VARIABLE} is {requested!r}"
    elif runs:
        problem = f"the kernels for {isa}, the best instruction set of this CPU, were not built"
    else:
        problem = "this CPU is too old for every instruction set that can be built"
    raise ImportError(
        f"pyx_transformer: {problem}. This CPU runs {_listed(runs)}; this build has "
        f"{_listed(_built_isas())}; {_ISA_VARIABLE} can be {_listed(available_isas())}"
    )


def _listed(names):
    return ", ".join(names) or "none"


def set_num_threads(n: int) -> None:
    """Let every later call use up to `n` threads, whatever the environment says.

    Results do not depend on it. Raises TypeError unless `n` is an integer, and ValueError unless it
    is from 1 to 1024.
    """
    global _threads, _threads_from
    try:
        if isinstance(n, bool):
            raise TypeError
        count = operator.index(n)
    except TypeError:
        raise TypeError(
            f"set_num_threads: n is of type {type(n).__name__}, expected an integer"
        ) from None
    _threads, _threads_from = (
        _checked_threads(count, "set_num_threads: n", count),
        "set_num_threads",
    )


def get_num_threads() -> int:
    """The number of threads that a call may use."""
    return _threads


def threads_are_given() -> bool:
    """Whether an environment variable says how many."""
    return _threads_from in _THREADS_VARIABLES


def _checked_threads(count, name, shown):
    if count is None or not 1 <= count <= _MOST_THREADS:
        raise ValueError(f"{name} is {shown!r}, expected a whole number from 1 to {_MOST_THREADS}")
    return count


def _initial_threads(environ):
    """How many threads to use, and the words that say where the number comes from."""
    for name in _THREADS_VARIABLES:
        text = environ.get(name, "").strip()
        if text:
            # OMP_NUM_THREADS may list a number for each level of nesting: the first one counts.
            first = text.partition(",")[0] if name == "OMP_NUM_THREADS" else text
            try:
                count = int(first)
            except ValueError:
                count = None
            return _checked_threads(count, name, text), name
    return min(_usable_cpus(), _MOST_THREADS), "the CPUs this process may use"


def _usable_cpus():
    cpus = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    return math.ceil(min(cpus, _cpu_quota()))


def _cpu_quota(membership="/proc/self/cgroup", mount="/sys/fs/cgroup"):
    """How many CPUs' time the control groups (version 1 or 2) of this process get; infinity if all.

    A group also keeps to the limits of the groups around it. In a container, `membership` may give
    the path outside it: then only its root is found under `mount`.
    """
    quota = math.inf
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = f"{mount}/cpu" if controllers else mount
        while path:
            quota = min(quota, _group_quota(f"{root}{path}"))
            path = path.rpartition("/")[0]
        quota = min(quota, _group_quota(root))
    return quota


def _group_quota(group):
    version_2 = _text(f"{group}/cpu.max")
    version_1 = _text(f"{group}/cpu.cfs_quota_us") + " " + _text(f"{group}/cpu.cfs_period_us")
    match (version_2 or version_1).split():
        case [quota, period] if quota.isdecimal():  # not "max", not -1
            return int(quota) / int(period)
    return math.inf


def _text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


@contextlib.contextmanager
def freed_memory_kept():
    """Have the C library keep freed memory for the next arrays instead of giving it back.

    A training step frees and takes the same hundreds of megabytes again: fresh pages, each of which
    the system clears, cost a fifth of its time. For the whole process, where its C library is
    glibc; nothing happens elsewhere.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        yield
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # M_... of malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_max, 0)
    try:
        yield
    finally:
        # What glibc's thresholds grow to by themselves, which setting them once has stopped.
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 64 << 20)
        mallopt(mmap_max, 2**16)


@overload
def show_config(mode: Literal["print"] = "print") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, object]: ...
def show_config(mode: str = "print") -> dict[str, object] | None:
    """Show what the package runs on, in a notebook as a table; with `mode="dict"`, return it
    instead.

    version                 of the package
    isa                     the instruction set in use
    available_isas          what PYX_TRANSFORMER_ISA may be here, the best one first
    vector_width            floats in a vector
    openmp                  the OpenMP standard compiled with (yyyymm), or None: calls run serially
    num_threads             threads that a call may use
    num_threads_from        the variable or function that says so

    Raises ValueError for any other mode.
    """
    if mode not in ("print", "dict"):
        raise ValueError(f"show_config: mode is {mode!r}, expected 'print' or 'dict'")
    config = {
        "version": __version__,
        "isa": kernels.ISA_NAME,
        "available_isas": available_isas(),
        "vector_width": kernels.VECTOR_WIDTH,
        "openmp": cpu.openmp_version() or None,
        "num_threads": _threads,
        "num_threads_from": _threads_from,
    }
    if mode == "dict":
        return config
    table = _Table(
        (name, _listed(value) if isinstance(value, tuple) else str(value))
        for name, value in config.items()
    )
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        importlib.import_module("IPython.display").display(table)
    else:
        print(table)
    return None


class _Table(list[tuple[str, str]]):
    """Names and values, which show themselves in lines or, in a notebook, as a table."""

    def __repr__(self) -> str:
        return "\n".join(f"{name:<16}  {value}" for name, value in self)

    def _repr_html_(self) -> str:
        import html

        rows = (
            f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self
        )
        return f"<table>{''.join(rows)}</table>"


if TYPE_CHECKING:
    from pyx_transformer._kernels import _entry as kernels
else:
    kernels = _choose_kernels(os.environ.get(_ISA_VARIABLE, "").strip())
_threads, _threads_from = _initial_threads(os.environ)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=kernels.pause_threads)
