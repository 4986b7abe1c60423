"""Weights in a file that processes map: the same bits as in memory of their own, in memory once."""

import copy
import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings

import directories
import numpy as np
import pytest
from models import assert_same_bits, randomised, small_config, small_model

import pyx_transformer as pt
from pyx_transformer import _runtime
from pyx_transformer.checkpoints import mapped
from pyx_transformer.checkpoints.mapped import mapped_weights
from pyx_transformer.layers import Linear
from pyx_transformer.parameters import UNINITIALISED

needs_smaps = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="this system does not say who has pages"
)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder of temporary files of each test's own, for the processes that it starts too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def shared(temporary):
    """A function that lists the files of weights that there are."""
    return lambda: sorted(temporary.glob("*/*.weights"))


def loaded(path, key="key"):
    """A model whose weights are mapped, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mapped_weights(key):
            return pt.load(path)


def outputs(model, seed=0):
    """What a model of any kind makes of random ids."""
    rng = np.random.default_rng(seed)
    config = model.config
    ids = {
        side: rng.integers(3, getattr(config, f"{side}_vocab_size"), (2, 9))
        for side in ("src", "tgt")
        if hasattr(config, f"{side}_vocab_size")
    }
    if isinstance(model, pt.EncoderModel) and config.head is None:
        return model.encode(*ids.values())
    return model(*ids.values())


def assert_same_model(one, other):
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for key in expected:
        assert_same_bits(state[key], expected[key])
    assert_same_bits(outputs(one), outputs(other))


def addresses(model):
    """Where the arrays of all layers lie."""
    return [
        array.ctypes.data
        for _, layer in model.named_layers()
        for array in layer._stored()
        if array.size
    ]


def within(path, address):
    """Whether an address of this process is one of a file's."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            begin, end = (int(one, 16) for one in line.split()[0].split("-"))
            if begin <= address < end:
                return line.rstrip().endswith(str(path))
    return False


# The same bits.


def languages(**changes):
    settings = {
        "d_model": 24,
        "num_heads": 4,
        "num_decoder_layers": 2,
        "d_ff": 41,
        "max_length": 97,
    }
    return pt.TransformerLM(pt.TransformerLMConfig(29, **settings, **changes), rng=0)


MODELS = {
    "Transformer": small_model,
    "shared embeddings": lambda: small_model(
        src_vocab_size=23, tgt_vocab_size=23, share_embeddings=True, positions="learned"
    ),
    "TransformerLM": languages,
}


@pytest.mark.parametrize("dtype", ("float32", "int8"))
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits(name, dtype, tmp_path, shared):
    """Of the first process, which writes the file, and of one that finds it."""
    randomised(MODELS[name]()).save(tmp_path / "model", dtype=dtype)
    expected = pt.load(tmp_path / "model")
    first = loaded(tmp_path / "model")
    second = loaded(tmp_path / "model")
    for model in (first, second):
        assert_same_model(model, expected)
        assert len(shared()) == 1


@pytest.mark.parametrize("name", directories.TINY)
def test_the_same_bits_of_every_family(name, shared_data, shared):
    """Tied, rotary, gated and capped ones, with heads and with biases by distance."""
    path = shared_data / "hf-tiny" / name
    expected = pt.load(path)
    for model in (loaded(path), loaded(path)):
        assert_same_model(model, expected)
    assert len(shared()) == 1
    if os.path.exists("/proc/self/maps"):
        assert all(within(shared()[0], address) for address in addresses(model))
    assert all(address % 64 == 0 for address in addresses(model))


@pytest.mark.parametrize("isa", _runtime.available_isas())
def test_each_instruction_set_has_a_file_of_its_own(isa, shared_data, shared, monkeypatch):
    path = shared_data / "hf-tiny/gemma2"
    usual = loaded(path)
    monkeypatch.setattr(_runtime, "kernels", _runtime.load_kernels(isa))
    expected = pt.load(path)
    for model in (loaded(path), loaded(path)):
        assert_same_model(model, expected)
    others = {_runtime.available_isas()[0], isa}
    assert len(shared()) == len(others)
    assert usual.num_parameters == model.num_parameters


def test_a_layer_alone_and_several_with_one_key(shared, rng):
    """Each loading is a file of its own, in their order."""
    weights = [rng.standard_normal((5, 7), np.float32) for _ in range(2)]
    values = rng.standard_normal((3, 7), np.float32)
    attention = pt.MultiheadAttention(24, 4, kdim=11, vdim=13, rng=0)
    state = randomised(attention).state_dict()
    query, key, value = (rng.standard_normal((1, 6, n), np.float32) for n in (24, 11, 13))
    for _ in range(2):
        with mapped_weights("key"):
            layers = [Linear(7, 5, bias=False, rng=UNINITIALISED) for _ in weights]
            for layer, weight in zip(layers, weights, strict=True):
                layer.load_state_dict({"weight": weight})
            other = pt.MultiheadAttention(24, 4, kdim=11, vdim=13, rng=UNINITIALISED)
            other.load_state_dict(state)
        for layer, weight in zip(layers, weights, strict=True):
            assert_same_bits(layer(values), pt.ops.linear(values, weight))
        assert_same_bits(other(query, key, value), attention(query, key, value))
        assert len(shared()) == 3


def test_other_shapes_with_that_key_are_another_file(shared):
    """As where one pipeline of a folder loads a dense map first and another does not."""
    small, large = ({"weight": np.full(shape, 2, np.float32)} for shape in ((4, 16), (16, 4)))
    found = []
    for state in (small, large, small):
        with mapped_weights("key"):
            layer = Linear(*state["weight"].shape[::-1], bias=False, rng=UNINITIALISED)
            layer.load_state_dict(state)
        found.append(layer)
        np.testing.assert_array_equal(layer.weight, state["weight"])
    assert len(shared()) == 2


# What can be done with such a model.


def test_copies_pickles_and_files_of_it(tmp_path):
    model = small_model()
    model.save(tmp_path / "model")
    one = loaded(tmp_path / "model")
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert_same_model(other, model)
    one.save(tmp_path / "again")
    assert_same_model(pt.load(tmp_path / "again"), model)


def test_other_weights_do_not_go_to_the_file(tmp_path, shared):
    small_model().save(tmp_path / "model")
    one, other = loaded(tmp_path / "model"), loaded(tmp_path / "model")
    (path,) = shared()
    before = path.read_bytes()
    for array in one.state_dict().values():
        array[...] = 0
    one.load_state_dict(small_model(seed=1).state_dict())
    assert path.read_bytes() == before
    assert_same_model(one, small_model(seed=1))
    assert_same_model(other, small_model())
    assert not other.src_embedding.weight.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        other.src_embedding.weight[0] = 0


def test_a_file_that_does_not_load_leaves_nothing(tmp_path, temporary):
    path = tmp_path / "model"
    small_model().save(path)
    content = bytearray((path / "model.safetensors").read_bytes())
    (path / "model.safetensors").write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        loaded(path)
    assert [one.name for one in temporary.glob("*/*") if one.name != "lock"] == []


# Processes. Each says what it has done, and goes on when it is told.

PROCESS = """
import hashlib, os, sys, time
import numpy as np
import pyx_transformer as pt
from pyx_transformer.checkpoints import mapped

def pss():
    "Its own pages and its part of those of others, in kB."
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

def opened():
    with mapped.mapped_weights("key"):
        return pt.load(sys.argv[1])

def digest(model):
    src = np.arange(3, 17).reshape(2, 7)
    return hashlib.sha256(model(src, src).tobytes()).hexdigest()

def told():
    assert sys.stdin.readline()

def tell(*values):
    print(*values, flush=True)
"""


class Process:
    """A Python that runs PROCESS, then code."""

    def __init__(self, code, path, **environment):
        self.child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS + textwrap.dedent(code), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        )

    def answer(self):
        found = self.child.stdout.readline()
        assert found, f"it ended with {self.child.wait()}"
        return found.split()

    def go_on(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def end(self, how=None):
        if how is None:
            self.child.communicate("\n\n")
            assert self.child.returncode == 0
        else:
            self.child.send_signal(how)
            self.child.communicate()


OPENED = "model = opened(); tell(digest(model)); told()"


@pytest.fixture
def start(request, tmp_path):
    """A function that starts a process, which ends with the test."""
    started = []

    def begin(code=OPENED, path=tmp_path / "model", **environment):
        started.append(Process(code, path, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.child.kill()
        process.child.communicate()


@pytest.fixture
def digest(tmp_path):
    """What a process is to say of the model that it finds."""
    import hashlib

    model = small_model()
    model.save(tmp_path / "model")
    src = np.arange(3, 17).reshape(2, 7)
    return hashlib.sha256(model(src, src).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """About 55 MB of weights, as float32 and as int8."""
    sizes = {"d_model": 384, "num_heads": 6, "d_ff": 1536}
    layers = {"num_encoder_layers": 3, "num_decoder_layers": 3}
    model = pt.Transformer(pt.TransformerConfig(4000, 4000, **sizes, **layers), rng=0)
    assert 4 * model.num_parameters > 50e6
    folder = tmp_path_factory.mktemp("large")
    for dtype in ("float32", "int8"):
        model.save(folder / dtype, dtype=dtype)
    return folder


@needs_smaps
@pytest.mark.parametrize("dtype", ("float32", "int8"))
def test_two_processes_have_1_3_times_the_memory_of_one(dtype, large, start):
    """Of it all, that of Python and NumPy included; the one has weights of its own, unmapped."""
    code = """
    model = opened(); model(np.ones((2, 9), int), np.ones((2, 9), int))
    tell("ready"); told(); tell(pss()); told()
    """
    alone = start(code.replace("opened()", "pt.load(sys.argv[1])"), large / dtype)
    alone.answer()
    alone.go_on()
    one = int(alone.answer()[0])
    alone.end()
    both = [start(code, large / dtype) for _ in range(2)]
    for process in both:
        process.answer()
    for process in both:
        process.go_on()
    two = sum(int(process.answer()[0]) for process in both)
    assert one > 50_000 and two < 1.3 * one, (one, two)
    for process in both:
        process.end()


def test_the_second_process_reads_no_tensor(digest, start):
    """It maps the file of the first."""
    first = start()
    assert first.answer() == [digest]
    second = start(
        """
        from pyx_transformer.checkpoints import safetensors, tensors
        from pyx_transformer.parameters import Deferred
        def refuse(*_): raise AssertionError("a tensor is read")
        Deferred.__array__ = refuse
        for module in (tensors, safetensors):
            for value in vars(module).values():
                if isinstance(value, type) and hasattr(value, "__array__"):
                    value.__array__ = refuse
        try:
            pt.load(sys.argv[1])
        except AssertionError:
            tell("refused")
        tell(digest(opened()))
        """
    )
    assert second.answer() == ["refused"]
    assert second.answer() == [digest]
    second.end()
    first.end()


def test_the_file_goes_with_the_last_process(digest, start, shared):
    first, second = start(), start()
    assert first.answer() == second.answer() == [digest]
    assert len(shared()) == 1
    first.end()
    assert len(shared()) == 1
    second.end()
    assert shared() == []


def test_processes_that_end_at_once_leave_nothing(digest, start, shared):
    for _ in range(3):
        processes = [start() for _ in range(4)]
        for process in processes:
            assert process.answer() == [digest]
        for process in processes:
            process.go_on()
        for process in processes:
            assert process.child.wait() == 0
        assert shared() == []


def test_a_model_that_nobody_has_any_more(tmp_path, shared):
    """Its file goes while the process lives on."""
    small_model().save(tmp_path / "model")
    one, other = loaded(tmp_path / "model"), loaded(tmp_path / "model")
    del one
    assert len(shared()) == 1
    del other
    assert shared() == []
    with mapped_weights("key"):
        model = pt.load(tmp_path / "model")
    model.load_state_dict(small_model(seed=1).state_dict())
    assert shared() == []


def test_what_killed_processes_leave_goes_with_the_next(digest, start, shared, tmp_path):
    processes = [start() for _ in range(2)]
    for process in processes:
        assert process.answer() == [digest]
    for process in processes:
        process.end(signal.SIGKILL)
    (left,) = shared()
    again = start()  # the same model: what is there is used
    assert again.answer() == [digest]
    assert shared() == [left]
    again.end(signal.SIGKILL)
    model = loaded(tmp_path / "model", "another")
    assert left not in shared() and len(shared()) == 1
    del model
    assert shared() == []


def test_what_a_pool_leaves_goes_with_the_process_that_made_the_job(digest, start, shared):
    """Its processes are ended by a signal, as pools and engines end theirs."""
    maker = start("from pyx_transformer.batch import Translate; Translate('en-ja'); tell(); told()")
    assert maker.answer() == []
    workers = [start() for _ in range(2)]
    for worker in workers:
        assert worker.answer() == [digest]
        worker.end(signal.SIGTERM)
    assert len(shared()) == 1
    maker.end()
    assert shared() == []


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole(digest, start, temporary, shared):
    """It dies with half of the layers written."""
    writer = start(
        """
        from pyx_transformer.layers import Linear
        load, calls = Linear._load_own, []
        def slow(*arguments):
            calls.append(1)
            if len(calls) == 9:
                tell("half")
                time.sleep(60)
            load(*arguments)
        Linear._load_own = slow
        opened()
        """
    )
    assert writer.answer() == ["half"]
    assert len(list(temporary.glob("*/*.part"))) == 1 and shared() == []
    writer.end(signal.SIGKILL)
    process = start()
    assert process.answer() == [digest]
    assert list(temporary.glob("*/*.part")) == [] and len(shared()) == 1
    process.end()


def test_a_process_waits_for_one_that_writes(digest, start, shared):
    """Two that begin at once write one file."""
    code = """
    from pyx_transformer.layers import Linear
    load, calls = Linear._load_own, []
    def slow(*arguments):
        calls.append(1)
        time.sleep(0.02)
        load(*arguments)
    Linear._load_own = slow
    model = opened()
    tell(digest(model), len(calls)); told()
    """
    processes = [start(code) for _ in range(2)]
    found = [process.answer() for process in processes]
    assert [one for one, _ in found] == [digest] * 2
    assert sorted(int(count) > 0 for _, count in found) == [False, True]
    assert len(shared()) == 1
    for process in processes:
        process.end()
    assert shared() == []


def test_many_that_come_and_go(digest, start, shared):
    """Three processes that open and let go of two models, time and again, without a warning."""
    code = """
    for i in range(25):
        with mapped.mapped_weights(f"key {i % 2}"):
            model = pt.load(sys.argv[1])
        assert digest(model) == os.environ["DIGEST"]
        del model
    tell("done")
    """
    processes = [start(code, DIGEST=digest) for _ in range(3)]
    for process in processes:
        assert process.answer() == ["done"]
        process.end()
    assert shared() == []


@pytest.mark.parametrize("size", (0, 64, -64))
def test_a_file_of_another_size_is_written_anew(size, tmp_path, shared):
    small_model().save(tmp_path / "model")
    first = loaded(tmp_path / "model")
    (path,) = shared()
    content = path.read_bytes()
    path.unlink()  # the first process has it still
    path.write_bytes(content[:size] if size <= 0 else content + bytes(size))
    second = loaded(tmp_path / "model")
    assert shared() == [path] and path.read_bytes() == content
    for model in (first, second):
        assert_same_model(model, small_model())
    del first, model
    assert shared() == [path]  # it was another's
    del second
    assert shared() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks(digest, start, shared):
    """A child has the model too; that it ends, or lets go of it, takes nothing away."""
    process = start(
        """
        import gc
        model = opened()
        expected = digest(model)
        for how in ("exits", "ends at once", "lets go"):
            child = os.fork()
            if child == 0:
                assert digest(model) == expected
                if how == "exits":
                    sys.exit(0)
                if how == "lets go":
                    del model
                    gc.collect()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            tell(digest(model)); told()
        """
    )
    for _ in range(3):
        assert process.answer() == [digest]
        assert len(shared()) == 1
        process.go_on()
    process.child.communicate()
    assert shared() == []


# Where it cannot be.


def refused(path, message):
    """A model with weights of its own, because of one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with mapped_weights("key"):
            model = pt.load(path)
    (warning,) = caught
    assert warning.category is UserWarning
    assert str(warning.message).startswith("the weights are not shared with other processes: ")
    assert message in str(warning.message)
    assert_same_model(model, small_model())


def test_no_room(tmp_path, monkeypatch, temporary):
    small_model().save(tmp_path / "model")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(tmp_path / "model", "No space left on device")
    assert [one.name for one in temporary.glob("*/*")] == ["lock"]


@pytest.mark.parametrize("is_there", (False, True))
def test_no_memory_to_map(is_there, tmp_path, monkeypatch):
    """Neither a new file nor one that is there."""
    small_model().save(tmp_path / "model")
    _other = loaded(tmp_path / "model") if is_there else None

    def fails(*_, **settings):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mapped.mmap, "mmap", fails)
    refused(tmp_path / "model", "Cannot allocate memory")


def test_no_folder_for_temporary_files(tmp_path, monkeypatch):
    small_model().save(tmp_path / "model")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    refused(tmp_path / "model", "nowhere")


@pytest.mark.parametrize("mode", (0o770, 0o707, 0o777))
def test_a_folder_that_others_may_write_to(mode, tmp_path, temporary):
    """Who writes to it could change the weights of this user's processes."""
    small_model().save(tmp_path / "model")
    folder = temporary / f"pyx_transformer-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    refused(tmp_path / "model", "is not a folder that only this user writes to")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ("a file", "a link", "another user's"))
def test_what_is_no_folder_of_this_user(what, tmp_path, temporary, monkeypatch):
    small_model().save(tmp_path / "model")
    folder = temporary / f"pyx_transformer-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if what == "a file":
        folder.write_text("")
    elif what == "a link":
        folder.symlink_to(elsewhere)
    else:
        uid = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: uid)
        (temporary / f"pyx_transformer-{uid}").mkdir(mode=0o700)
    refused(tmp_path / "model", "is not a folder that only this user writes to")
    assert list(elsewhere.iterdir()) == []


def test_the_folder_is_this_users_alone(tmp_path, temporary):
    small_model().save(tmp_path / "model")
    model = loaded(tmp_path / "model")
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert model.config == small_config()


def test_loading_alone_shares_nothing(tmp_path, temporary):
    """Nor does what is loaded after it."""
    small_model().save(tmp_path / "model")
    pt.load(tmp_path / "model")
    assert list(temporary.iterdir()) == []
    with mapped_weights("key"):
        pass
    pt.load(tmp_path / "model")
    assert list(temporary.iterdir()) == []
