"""The library in a process that forks, has threads of its own or small stacks, or is stopped."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import numpy as np
import pytest
from cases import normal
from models import assert_same_bits, num_threads, small_model, token_ids

import pyx_transformer as pt
from pyx_transformer import _runtime

ISAS = _runtime.available_isas()
has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def python(code):
    """Run code in a new Python, which has 100 seconds and must succeed."""
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100
    )
    assert answer.returncode == 0, answer.stderr


# Stacks. Each kernel comes by with sizes that fill the arrays it keeps, and with small ones.

EVERY_KERNEL = """
import hashlib
import numpy as np
import pyx_transformer as pt
from pyx_transformer.training import functions

rng = np.random.default_rng(0)
digest = hashlib.sha256()

def normal(*shape):
    return rng.standard_normal(shape, dtype=np.float32)

def see(*arrays):
    for array in arrays:
        assert np.isfinite(array).all()
        digest.update(np.ascontiguousarray(array).tobytes())

pt.set_num_threads(3)
for m, n, k in ((1, 530, 510), (3, 530, 510), (16, 512, 1030), (300, 260, 1500)):
    out, back = functions.linear(normal(m, k), normal(n, k), normal(n))
    see(out, *back(normal(m, n)))
for T, S, K in ((1, 700, 64), (5, 9, 24), (600, 610, 64), (40, 300, 1024), (40, 300, 1100)):
    query, key, value = normal(3, 2, T, K), normal(3, 2, S, K), normal(3, 2, S, K)
    mask = rng.random((T, S)) < 0.9
    see(pt.ops.scaled_dot_product_attention(query, key, value))
    see(*pt.ops.scaled_dot_product_attention(query, key, value, mask=mask, return_weights=True))
    if K <= 1024:
        out, back = functions.scaled_dot_product_attention(query, key, value, mask=mask)
        see(out, *back(normal(*out.shape)))
see(*(pt.ops.softmax(normal(70, 3000)), pt.ops.layer_norm(normal(70, 3000))))

config = pt.TransformerConfig(
    900, 1100, d_model=96, num_heads=3, num_encoder_layers=2, num_decoder_layers=2, d_ff=410,
    norm_first=True, max_length=60,
)
model = pt.Transformer(config, rng=0)
src = rng.integers(3, 900, (7, 40))
see(model(src, src))
for beam_size in (1, 4):
    options = pt.GenerationOptions(beam_size=beam_size, max_length=50)
    see(*model.generate(src, options=options))
print(digest.hexdigest())
"""


def run_every_kernel(isa, limits=(), **variables):
    """What EVERY_KERNEL prints under these limits and variables of the environment."""
    import resource

    def limit():
        for limited, most in limits:
            resource.setrlimit(limited, (most, most))

    # NumPy's own threads, if it has any, are not what is tested.
    environment = {**os.environ, "PYX_TRANSFORMER_ISA": isa, "OPENBLAS_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", EVERY_KERNEL],
        env=environment | variables,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert answer.returncode == 0, (answer.returncode, answer.stderr)
    return answer.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limits")
@pytest.mark.parametrize("isa", ISAS)
def test_64_kb_of_stack_are_enough(isa):
    """For OpenMP's threads, and 256 KB for the main one, which Python shares."""
    import resource

    small = run_every_kernel(isa, [(resource.RLIMIT_STACK, 256 << 10)], OMP_STACKSIZE="64K")
    assert small == run_every_kernel(isa) != ""


# Forks. Each child has an alarm clock, which ends it if it hangs.

PARALLEL_CALL = """
import multiprocessing, os, signal
import numpy as np
import pyx_transformer as pt

pt.set_num_threads(3)
encoder = pt.TransformerEncoder(2, 128, 4, 256, rng=0)
x = np.random.default_rng(0).standard_normal((2, 64, 128), dtype=np.float32)
expected = encoder(x).tobytes()

def is_right(_=None):
    signal.alarm(20)
    return encoder(x).tobytes() == expected

def in_a_child(function):
    child = os.fork()
    if child == 0:
        os._exit(0 if function() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@has_fork
def test_30_forks_after_parallel_calls():
    python(
        PARALLEL_CALL
        + """
for _ in range(30):
    assert is_right()
    assert in_a_child(is_right)
assert is_right()
"""
    )


@has_fork
def test_children_of_children():
    python(
        PARALLEL_CALL
        + """
for _ in range(5):
    assert in_a_child(lambda: is_right() and in_a_child(is_right) and is_right())
assert is_right()
"""
    )


@has_fork
def test_a_pool_of_forked_processes():
    python(
        PARALLEL_CALL
        + """
for _ in range(3):
    assert is_right()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(is_right, range(6)))
"""
    )


# Threads that cannot be had, and cores that others hold.


@pytest.mark.skipif(not _runtime.cpu.openmp_version(), reason="built without OpenMP")
@pytest.mark.parametrize("limit", ("processes", "memory"))
def test_one_thread_works_where_no_more_are_to_be_had(limit):
    """With one warning; OpenMP by itself would end the process."""
    python(
        PARALLEL_CALL.replace("set_num_threads(3)", "set_num_threads(1)")
        + f"limit = {limit!r}"
        + """
import resource, warnings

def refuse():
    if limit == "memory":  # no room for the stacks of two more threads
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 20),) * 2)
        return
    if os.getuid() == 0:  # whom no limit of processes binds
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

refuse()
pt.set_num_threads(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        assert is_right()
(warning,) = caught
assert warning.category is RuntimeWarning and "one thread does the work" in str(warning.message)
"""
    )


BUSY = "while True: pass"

# A thread has next to nothing of its CPU for a moment; calls are few after that, then many.
HELD_THREAD = f"""
import os, subprocess, sys, threading, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
import pyx_transformer as pt

pt.set_num_threads(2)
x, weight = np.ones((1024, 512), np.float32), np.ones((512, 512), np.float32)
pt.ops.linear(x, weight)
own = threading.get_native_id()
(other,) = {{int(thread) for thread in os.listdir("/proc/self/task")}} - {{own}}
first, second, *_ = sorted(os.sched_getaffinity(0))
busy = subprocess.Popen([sys.executable, "-c", {BUSY!r}])
for process, cpu in ((own, first), (other, second), (busy.pid, second)):
    os.sched_setaffinity(process, [cpu])
os.setpriority(os.PRIO_PROCESS, other, 19)

def both_work(calls):
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        pt.ops.linear(x, weight)
    return (time.process_time() - cpu) / (time.perf_counter() - wall) > 1.4

try:
    both_work(20)
    assert not both_work(20)
finally:
    busy.kill()
    busy.wait()
end = time.monotonic() + 5.5
while time.monotonic() < end:
    pt.ops.linear(x, weight)
    time.sleep(0.1)
assert both_work(100) or both_work(100)
"""

SMALL_CALLS = """
import sys, time
import numpy as np
import pyx_transformer as pt

config = pt.TransformerConfig(4000, 4000, d_model=256, num_heads=4, d_ff=1024)
model = pt.Transformer(config, rng=0)
src = np.random.default_rng(0).integers(3, 4000, (1, 8))
pt.set_num_threads(int(sys.argv[1]))
model.generate(src, max_length=8)
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(8):
        model.generate(src, max_length=8)
    print(time.perf_counter() - start, flush=True)
"""


def seconds_of_small_calls(rounds):
    """What the same calls take on one thread and on as many as there are CPUs, in turn."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SMALL_CALLS, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in (1, max(2, len(os.sched_getaffinity(0))))
    ]
    seconds = [0.0, 0.0]
    try:
        for _ in range(rounds):
            for i, child in enumerate(children):
                child.stdin.write("go\n")
                child.stdin.flush()
                seconds[i] += float(child.stdout.readline())
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return seconds


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPUs cannot be counted here")
def test_a_busy_machine_makes_threads_no_slower_than_one():
    """As many processes as CPUs hold these: small work takes at most 1.5 times what one thread
    takes there, in one of three attempts."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in os.sched_getaffinity(0)]
    ratios = []
    try:
        while len(ratios) < 3 and min(ratios, default=9) > 1.5:
            alone, together = seconds_of_small_calls(10)
            ratios.append(together / alone)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert min(ratios) <= 1.5, ratios


def test_threads_that_were_given_up_are_tried_again_within_seconds():
    """By who calls now and then, too: the other thread hardly moved for a moment."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    python(HELD_THREAD)


def test_an_idle_model_uses_no_cpu():
    """A tenth of a second after a call, no thread waits for work in a loop any more."""
    python(
        PARALLEL_CALL
        + """
import time
assert is_right()
time.sleep(0.1)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.01
"""
    )


# Threads of Python.


@pytest.mark.parametrize("threads", (1, 2))
def test_four_threads_share_one_model(threads):
    """All begin at once; the sinusoids that the model keeps grow under their hands."""
    rng = np.random.default_rng(0)
    batches = [
        (token_ids(rng, 23, 3, 20 + 30 * i), token_ids(rng, 19, 3, 9 + 20 * i)) for i in range(4)
    ]
    model = small_model()
    with num_threads(threads):
        expected = [(model(src, tgt), model.generate(src, max_length=9)) for src, tgt in batches]
        for _ in range(5):
            shared, barrier = small_model(), Barrier(4)

            def work(i, shared=shared, barrier=barrier):
                barrier.wait()
                order = [(i + j) % 4 for j in range(8)]
                return [
                    (b, shared(*batches[b]), shared.generate(batches[b][0], max_length=9))
                    for b in order
                ]

            with ThreadPoolExecutor(4) as pool:
                for results in pool.map(work, range(4)):
                    for b, logits, words in results:
                        assert_same_bits(logits, expected[b][0])
                        np.testing.assert_array_equal(words.sequences, expected[b][1].sequences)


def test_calls_let_other_threads_run():
    """While one is in a long call, another is never kept waiting for as long as half of it."""
    query = normal(np.random.default_rng(0), 1, 8, 4096, 64)
    took = []

    def work():
        start = time.perf_counter()
        pt.ops.scaled_dot_product_attention(query, query, query)
        took.append(time.perf_counter() - start)

    with num_threads(1):
        thread = Thread(target=work)
        thread.start()
        longest, last = 0.0, time.perf_counter()
        while thread.is_alive():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        thread.join()
    assert longest < took[0] / 2


# Ctrl-C. The calls take 3 seconds or more on two cores; the last one for ever.

LONG_CALLS = {
    "attention of narrow heads": """
        query = rng.standard_normal((1, 8, 20_000, 4), dtype=np.float32)
        mask = np.ones((20_000, 20_000), bool)
        call = lambda: pt.ops.scaled_dot_product_attention(
            query, query, query, mask=mask, softcap=5
        )
    """,
    "attention": """
        query = rng.standard_normal((1, 8, 16_384, 64), dtype=np.float32)
        call = lambda: pt.ops.scaled_dot_product_attention(query, query, query)
    """,
    "gradient of attention": """
        from pyx_transformer.training import functions
        query = rng.standard_normal((1, 8, 8192, 64), dtype=np.float32)
        out, back = functions.scaled_dot_product_attention(query, query, query)
        call = lambda: back(out)
    """,
    "linear": """
        layer = pt.Linear(6144, 6144, rng=0)
        x = rng.standard_normal((8192, 6144), dtype=np.float32)
        call = lambda: layer(x)
    """,
    "feed-forward": """
        layer = pt.FeedForward(2048, 8192, rng=0)
        x = rng.standard_normal((8192, 2048), dtype=np.float32)
        call = lambda: layer(x)
    """,
    "encoder": """
        encoder = pt.TransformerEncoder(2, 1024, 16, 4096, rng=0)
        x = rng.standard_normal((16, 512, 1024), dtype=np.float32)
        call = lambda: encoder(x)
    """,
    "generate": """
        config = pt.TransformerConfig(11, 7, d_model=8, num_heads=2, d_ff=16)
        model = pt.Transformer(config, rng=0)
        state = model.state_dict()
        state["output_projection.bias"][config.end_id] = -1e30
        model.load_state_dict(state)
        call = lambda: model.generate(np.ones((2, 5), int), max_length=1_000_000)
    """,
}

CALL = """
import signal, time
import numpy as np
import pyx_transformer as pt

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it
pt.set_num_threads({threads})
rng = np.random.default_rng(0)
small = rng.standard_normal((64, 256), dtype=np.float32)
expected = pt.ops.linear(small, small)
{build}
print("ready", flush=True)
try:
    call()
    print("ended", flush=True)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
same = (pt.ops.linear(small, small) == expected).all()
print("works on" if same else "is broken", flush=True)
"""


def seconds_until_interrupted(build, threads, isa):
    """How long after SIGINT a Python in the midst of a long call raises KeyboardInterrupt."""
    command = [sys.executable, "-c", CALL.format(build=textwrap.dedent(build), threads=threads)]
    environment = {**os.environ, "PYX_TRANSFORMER_ISA": isa}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.6)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            answer = child.stdout.readline().split()
            assert answer[0] == "interrupted"
            assert child.stdout.readline() == "works on\n"
        finally:
            child.kill()
    return float(answer[1]) - sent


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process here")
@pytest.mark.parametrize(
    ("name", "threads", "isa"),
    [
        *((name, 2, ISAS[0]) for name in LONG_CALLS),
        ("attention of narrow heads", 16, ISAS[0]),
        ("attention of narrow heads", 1, ISAS[-1]),
    ],
)
def test_ctrl_c_is_heard_within_half_a_second(name, threads, isa):
    """On a machine that is busy with other things, in two of three attempts."""
    took = []
    while len(took) < 3:
        took.append(seconds_until_interrupted(LONG_CALLS[name], threads, isa))
        if sum(seconds < 0.5 for seconds in took) == 2:
            return
    pytest.fail(f"KeyboardInterrupt came after {took} seconds")
