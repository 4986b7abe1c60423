"""What it takes to open a directory of 300 MB: time beside reading and packing, and memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from bench import footprint

LAYERS, WIDTH, VOCABULARY = 10, 768, 6000
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


@contextlib.contextmanager
def directory():
    """A directory shaped as BERT's are."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings.weight": (512, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **of_norm("embeddings.LayerNorm"),
    }
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= of_linear(f"{layer}.attention.{part}", WIDTH, WIDTH)
        shapes |= of_norm(f"{layer}.attention.output.LayerNorm")
        shapes |= of_linear(f"{layer}.intermediate.dense", 4 * WIDTH, WIDTH)
        shapes |= of_linear(f"{layer}.output.dense", WIDTH, 4 * WIDTH)
        shapes |= of_norm(f"{layer}.output.LayerNorm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
        save_file(tensors, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps(CONFIG))
        yield path


def of_linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def of_norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


# In a process of their own: seconds, and bytes of memory at the peak beyond those before.
PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024"
OPEN = f"""
import sys, time, pyx_transformer as pt
pt.load  # what opens directories loads on first use
from pyx_transformer.checkpoints import hugging_face
before = {PEAK}
begin = time.perf_counter()
model = pt.load(sys.argv[1])
print(time.perf_counter() - begin, {PEAK} - before, 4 * model.num_parameters)
"""
READ = """
import json, sys, time, numpy as np
from pyx_transformer import _runtime
path = sys.argv[1] + "/model.safetensors"
threads = _runtime.get_num_threads()
begin = time.perf_counter()
with open(path, "rb") as file:
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    kept = []
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape = about["shape"]
        array = np.fromfile(file, np.float32, int(np.prod(shape))).reshape(shape)
        is_matrix = array.ndim == 2 and "embeddings" not in name
        packed = _runtime.kernels.PackedLinear
        kept.append(packed(array, None, n_threads=threads) if is_matrix else array)
print(time.perf_counter() - begin)
"""


def run(code, path):
    """The numbers that a new Python prints."""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=footprint.PACKAGE.parent
    )
    return list(map(float, done.stdout.split()))


def time_ratio(quick: bool) -> float:
    """Seconds of `pt.load` by those of reading the same bytes and packing the same matrices."""
    with directory() as path:
        run(READ, path)  # the file is in memory now
        pairs = [(run(OPEN, path)[0], run(READ, path)[0]) for _ in range(5 if quick else 25)]
    return median(opened / read for opened, read in pairs)


def memory_ratio(quick: bool) -> float:
    """Peak memory of `pt.load` by the bytes of the weights."""
    with directory() as path:
        _, peak, weights = run(OPEN, path)
    return peak / weights
