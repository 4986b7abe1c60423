"""Files that torch.save wrote: read as PyTorch reads them, and nothing in them is ever run."""

import json
import os
import pickle
import shutil
import struct
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy
from models import assert_same_bits

import pyx_transformer as pt
from pyx_transformer.checkpoints import pytorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", exc_type=ImportError)


def arrays_of(path):
    return {name: np.asarray(tensor) for name, tensor in pytorch.read_tensors(path).items()}


each_format = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])


@each_format
def test_tensors_of_every_type(is_zip, torch, tmp_path):
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    state = OrderedDict(
        f32=whole,
        part=whole[1:3, ::2],
        transposed=whole.T,
        row=whole[2],
        parameter=torch.nn.Parameter(whole * 2),
        f64=whole.double(),
        f16=whole.half(),
        bf16=whole.bfloat16(),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        **{
            str(kind): torch.arange(5).to(getattr(torch, kind))
            for kind in ("int64", "int32", "int16", "int8", "uint8", "bool")
        },
    )
    path = tmp_path / "model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    arrays = arrays_of(path)
    assert arrays.keys() == state.keys()
    for name, tensor in state.items():
        expected = tensor.detach()
        expected = (expected.float() if tensor.is_floating_point() else expected).numpy()
        np.testing.assert_array_equal(arrays[name], expected, strict=True)


@each_format
def test_a_checkpoint_with_other_things(is_zip, torch, tmp_path):
    state = torch.nn.Linear(3, 2).state_dict()  # with its _metadata
    held = {"epoch": 3, "loss": 0.5, "names": ["a", ("b", None, True)], "state_dict": state}
    held["optimizer"] = {"step": torch.ones(7)}
    torch.save(held, tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
    arrays = arrays_of(tmp_path / "model.pt")
    assert arrays.keys() == {"weight", "bias"}
    np.testing.assert_array_equal(arrays["weight"], state["weight"].numpy())


@each_format
def test_a_model(is_zip, torch, shared_data, tmp_path):
    folder = shared_data / "hf-tiny" / "marian"
    shutil.copyfile(folder / "config.json", tmp_path / "config.json")
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    expected = pt.load(folder).state_dict()
    for key, array in pt.load(tmp_path).state_dict().items():
        assert_same_bits(array, expected[key])
    # In two files with an index.
    path.unlink()
    names = list(state)
    weight_map = {}
    for i in range(2):
        part = names[i::2]
        torch.save({n: state[n] for n in part}, tmp_path / f"{i}.bin")
        weight_map |= dict.fromkeys(part, f"{i}.bin")
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    for key, array in pt.load(tmp_path).state_dict().items():
        assert_same_bits(array, expected[key])


def test_no_weights(shared_data, tmp_path):
    shutil.copyfile(shared_data / "hf-tiny/bert/config.json", tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"has no weights, expected model\.safetensors or"):
        pt.load(tmp_path)


# What is refused.


class Calls:
    """A pickle of it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(path, content, name="archive/data.pkl", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)


def refusal(path):
    """What is said of a file that is refused, in one line."""
    with pytest.raises(ValueError) as refused:
        pytorch.read_tensors(path)
    said = str(refused.value)
    assert said.startswith(f"load: {path} cannot be read as PyTorch's: ")
    assert "\n" not in said and len(said) < 1000
    return said


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_is_run(protocol, is_zip, tmp_path):
    path, mark = tmp_path / "model.bin", tmp_path / "mark"
    for held in (
        Calls(os.mkdir, str(mark)),
        {"weight": Calls(os.mkdir, str(mark))},
        {"state_dict": [Calls(exec, f"import os; os.mkdir({str(mark)!r})")]},
    ):
        content = pickle.dumps(held, protocol)
        if is_zip:
            zipped(path, content)
        else:
            start = b"".join(pickle.dumps(one, 2) for one in (pytorch.MAGIC, pytorch.PROTOCOL, {}))
            path.write_bytes(start + content)
        said = refusal(path)
        assert "only tensors and plain containers are read" in said or "no tensor needs" in said
        assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "exhausted before seeing STOP"),
        (b"\x80\x02}", "exhausted before seeing STOP"),
        (b"\x80\x02.", "takes more than it has put down"),
        (b"\x80\x02}.", "it holds no tensors by name"),
        (b"\x80\x02]q\x00h\x01.", "gets what it has not put"),
        (b"\x80\x02K\x01K\x02a.", "adds to what is no list"),
        (b"\x80\x02}]K\x02s.", "a dict whose keys are no words or numbers"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".", "expected 1152921504606846976"),
        (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b".", "long4"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls what is no function"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01R.", "calls what is no function"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "calls a function with what that"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "calls a function with what that"),
        (b"\x80\x02K\x01Q.", "a storage that is none"),
        (b"\x80\x02(K\x01ios\nsystem\n.", "INST, which no tensor needs"),
        (b"\x80\x02\x82\x01.", "EXT1, which no tensor needs"),
    ],
)
def test_pickles_that_are_none(content, says, tmp_path):
    path = tmp_path / "model.bin"
    zipped(path, content)
    assert says in refusal(path)


def view_pickle(size, offset, shape, strides):
    """A dict with one tensor of a storage."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(some):
        return b"(" + b"".join(map(number, some)) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(size) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape)
    return b"\x80\x02}U\x01a" + tensor + numbers(strides) + b"\x89}tRs."


@pytest.mark.parametrize(
    "view",
    [
        (10, 0, [11], [1]),
        (10, 5, [6], [1]),
        (10, -1, [2], [1]),
        (10, 0, [-1], [1]),
        (10, 0, [2], [-1]),
        (10, 0, [2, 2], [1]),
        (10, 0, [1 << 60, 1 << 60], [0, 0]),
        (10, 0, [1] * 40, [1] * 40),
        (-1, 0, [0], [1]),
        (10, 0, [2, 5], [1 << 62, 1]),
        (10, 0, [1 << 20, 1 << 20], [0, 0]),
    ],
)
def test_views_that_do_not_fit(view, tmp_path):
    path = tmp_path / "model.bin"
    zipped(path, view_pickle(*view))
    refusal(path)


def test_a_view_that_fits(tmp_path):
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", view_pickle(10, 1, [2, 3], [4, 1]))
        archive.writestr("x/data/0", np.arange(10, dtype="<f4").tobytes())
    np.testing.assert_array_equal(arrays_of(path)["a"], [[1, 2, 3], [5, 6, 7]])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", view_pickle(10, 1, [2, 3], [4, 1]))
        archive.writestr("x/data/0", b"\0" * 39)
    with pytest.raises(ValueError, match="is shorter than its storage 0"):
        arrays_of(path)


def test_zips_that_torch_does_not_write(tmp_path):
    path = tmp_path / "model.bin"
    zipped(path, b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED)
    assert "it is compressed" in refusal(path)
    zipped(path, b"\x80\x02}.", name="data.pkl")
    assert "it has 0 files data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", view_pickle(10, 0, [2], [1]))
        archive.writestr("x/byteorder", "big")
    assert "not little-endian" in refusal(path)


@each_format
def test_mutated_files(is_zip, torch, tmp_path):
    """No crash, no other error, and no memory beyond twice the file's size and a little."""
    state = {name: torch.ones(5, 3) for name in ("a.weight", "b.weight")}
    state["c"] = state["a.weight"][1:]
    path = tmp_path / "model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    tracemalloc.start()
    for i in range(2500):
        content = bytearray(whole)
        if i % 5 == 0:
            content = content[: rng.integers(len(content))]
        for place in rng.integers(max(len(content), 1), size=rng.integers(1, 4)):
            if content:
                content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                arrays_of(path)
        except ValueError as error:
            assert str(error).startswith(f"load: {path}")
            refused += 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 300
    assert most < 2 * len(whole) + 1e6
