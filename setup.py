"""The extension modules; pyproject.toml says everything else.

CC, CFLAGS and LDFLAGS choose the compiler and its flags as usual; PYX_TRANSFORMER_NO_OPENMP=1
builds without OpenMP; PYX_TRANSFORMER_BOUNDS_CHECK=1 checks every index into an array that the
entry points make.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = "pyx_transformer/_kernels"
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
INSTRUCTION_SETS = {
    "x86_64": {  # compiled side by side, so the one that takes longest comes first
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v2": ["-march=x86-64-v2"],
    },
    "aarch64": {"neon": []},
    "arm64": {"neon": []},  # as macOS calls it
}
# Never -ffast-math: its start-up code makes the whole process flush small numbers to zero.
# Nor does the compiler fuse a product with a sum: `fused` in simd.h says where, for all sets alike.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
# Vectors are passed between inlined functions only, and Cython's C holds more than it uses.
FLAGS += ["-Wno-psabi", "-Wno-unused-function", "-Wno-unused-but-set-variable"]
MACROS = [
    # The loops over a tile have to be compiled once per number of rows. Left to itself, GCC 12
    # merges them: 118 instead of 220 GFLOP/s on one AVX-512 core.
    ("CYTHON_INLINE", "inline __attribute__((always_inline))"),
    ("CYTHON_COMPRESS_STRINGS", "0"),  # the name of a module is replaced in them
]


def target():
    """The architecture that the compiler compiles for, as it says itself: x86_64, aarch64, ..."""
    try:
        answer = subprocess.run([*COMPILER, "-dumpmachine"], capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"pyx_transformer: cannot run the C compiler {shlex.join(COMPILER)}: {error}")
    architecture = answer.stdout.partition("-")[0]
    if architecture not in INSTRUCTION_SETS:
        sys.exit(
            f"pyx_transformer: {shlex.join(COMPILER)} -dumpmachine says {answer.stdout.strip()!r}; "
            "this package needs GCC or Clang, for x86-64 or for 64-bit Arm"
        )
    return architecture


def environment(name):
    """The compiler flags in an environment variable."""
    return shlex.split(os.environ.get(name, ""))


def is_asked_for(name):
    """Whether an environment variable is set, to more than nothing or 0."""
    return os.environ.get(name, "0") not in ("", "0")


def builds(source, *flags):
    """Whether the compiler makes a program of this C source with these flags."""
    flags += (*environment("CFLAGS"), *environment("LDFLAGS"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.c")
        path.write_text(source)
        command = [*COMPILER, str(path), "-o", f"{folder}/probe", *flags]
        return subprocess.run(command, capture_output=True).returncode == 0


def openmp_flags():
    """["-fopenmp"], or [] with a warning where the compiler or its OpenMP library is missing."""
    if is_asked_for("PYX_TRANSFORMER_NO_OPENMP"):
        reason = "as PYX_TRANSFORMER_NO_OPENMP asks"
    elif builds("#include <omp.h>\nint main(void) { return omp_in_parallel(); }", "-fopenmp"):
        return ["-fopenmp"]
    else:
        reason = f"because {shlex.join(COMPILER)} cannot build a program with -fopenmp"
    print(
        f"WARNING: pyx_transformer is built without OpenMP, {reason}: it will use one thread.",
        file=sys.stderr,
    )
    return []


def extension(name, source, flags, openmp):
    headers = sorted(str(p) for p in Path(KERNELS).iterdir() if p.suffix in (".pxd", ".pxi", ".h"))
    return Extension(
        f"pyx_transformer._kernels.{name}",
        [source],
        include_dirs=[KERNELS],
        define_macros=MACROS,
        extra_compile_args=[*FLAGS, *flags, *openmp],
        extra_link_args=[*openmp, "-s"],  # the names of functions are a tenth of the file
        depends=[*headers, "setup.py", stamp(openmp)],
    )


def extensions():
    openmp = openmp_flags()
    variants = INSTRUCTION_SETS[target()]
    for flags in variants.values():
        if not builds("int main(void) { return 0; }", *flags):
            sys.exit(
                f"pyx_transformer: {shlex.join(COMPILER)} does not know {shlex.join(flags)}: "
                "this package needs GCC 11, Clang 12, or newer"
            )
    first = next(iter(variants))
    sources = ((first, f"{KERNELS}/entry.pyx"), ("cpu", f"{KERNELS}/cpu.pyx"))
    kernels, cpu = cythonize(
        [extension(name, source, [], openmp) for name, source in sources],
        # Cython would take C that it made with other directives for its own.
        build_dir="build/checked" if BOUNDS_CHECK else "build",
        compiler_directives=DIRECTIVES,
    )
    modules = []
    for name, flags in variants.items():
        modules.append(extension(name, renamed(kernels.sources[0], first, name), flags, openmp))
    return [*modules, cpu]


def renamed(path, first, name):
    """The C of one set's kernels, as Cython wrote it, as that of another: names of one length are
    all that sets them apart."""
    assert len(name) == len(first), f"{name!r} and {first!r} differ in length"
    text = Path(path).read_text(encoding="utf-8").replace(first, name)
    copy = Path(path).with_name(f"{name}.c")
    if not copy.exists() or copy.read_text(encoding="utf-8") != text:
        copy.write_text(text, encoding="utf-8")
    return str(copy)


def stamp(openmp):
    """A file that changes with what the environment says, so that all is compiled again then."""
    flags = environment("CFLAGS"), environment("LDFLAGS")
    text = repr((COMPILER, openmp, flags, BOUNDS_CHECK))
    path = Path("build/flags.txt")
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(path)


BOUNDS_CHECK = is_asked_for("PYX_TRANSFORMER_BOUNDS_CHECK")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": BOUNDS_CHECK,
    "wraparound": False,  # a negative index is out of bounds
    "cdivision": True,
    "initializedcheck": BOUNDS_CHECK,
    "embedsignature": True,
    "auto_pickle": False,
    "emit_code_comments": False,
}

setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
