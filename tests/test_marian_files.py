"""Models as Marian saves them, against a plain float64 twin of its forward pass that reads the
arrays by Marian's own names; and files that are none."""

import io
import json
import re
import shutil
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from cases import normal
from models import assert_close, assert_same_bits

import pyx_transformer as pt
from pyx_transformer.checkpoints import flat_yaml, npz

OPTIONS = {
    "dim-emb": 16,
    "dim-vocabs": [23, 23],
    "dec-depth": 2,
    "enc-depth": 3,
    "right-left": False,
    "tied-embeddings": False,
    "tied-embeddings-all": True,
    "tied-embeddings-src": False,
    "transformer-decoder-autoreg": "self-attention",
    "transformer-dim-ffn": 40,
    "transformer-ffn-activation": "swish",
    "transformer-ffn-depth": 2,
    "transformer-heads": 2,
    "transformer-no-projection": False,
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-preprocess": "",
    "transformer-tied-layers": [],
    "type": "transformer",
    "ulr": False,
    "version": "v1.9.0 12345678 2020-01-01 10:00:00 +0000",
}
PRE_NORM = {
    "transformer-preprocess": "n",
    "transformer-postprocess": "da",
    "transformer-postprocess-top": "n",
}
APART = {"tied-embeddings-all": False, "dim-vocabs": [29, 23]}
VARIANTS = {
    "all tied": {},
    "relu, output of its own": {
        "tied-embeddings-all": False,
        "tied-embeddings-src": True,
        "transformer-ffn-activation": "relu",
    },
    "pre-norm, two tables": {**PRE_NORM, **APART, "tied-embeddings": True},
    "nothing tied": {**APART, "transformer-ffn-activation": "gelu", "legacy": True},
    "norm of embeddings, no bias, another width": {
        "transformer-postprocess-emb": "nd",
        "output-omit-bias": True,
        "transformer-decoder-dim-ffn": 24,
        "transformer-postprocess-top": "",
    },
}


def as_yaml(options):
    """The options as Marian writes them, with a zero behind them."""
    lines = []
    for name, value in options.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"  - {one}" for one in value)] if value else [f"{name}:\n  []"]
        else:
            shown = value if value and isinstance(value, str) else json.dumps(value)
            lines.append(f"{name}: {shown}")
    return np.frombuffer("\n".join(lines).encode() + b"\0", np.int8)


def arrays_of(options, seed=0):
    """Random arrays of a model with these options, by Marian's names."""
    rng, width = np.random.default_rng(seed), options["dim-emb"]
    is_first = options["transformer-preprocess"] == "n"
    arrays = {}

    def norm(name, ending=""):
        arrays[f"{name}_ln_scale{ending}"] = 1 + normal(rng, 1, width) / 4
        arrays[f"{name}_ln_bias{ending}"] = normal(rng, 1, width) / 2

    def matrix(name, rows, columns):
        arrays[name] = normal(rng, rows, columns) / np.float32(np.sqrt(rows))

    all_tied = options["tied-embeddings-all"]
    if all_tied or options["tied-embeddings-src"]:
        matrix("Wemb", options["dim-vocabs"][0], width)
    else:
        for name, size in zip(("encoder", "decoder"), options["dim-vocabs"], strict=True):
            matrix(f"{name}_Wemb", size, width)
    size = options["dim-vocabs"][1]
    if not all_tied and not options["tied-embeddings"]:
        shape = (width, size) if options.get("legacy") else (size, width)
        matrix("decoder_ff_logit_out_W" + "t" * (not options.get("legacy")), *shape)
    if not options.get("output-omit-bias"):
        arrays["decoder_ff_logit_out_b"] = normal(rng, 1, size)
    for stack in ("encoder", "decoder"):
        if "n" in options["transformer-postprocess-emb"]:
            norm(f"{stack}_emb", "_pre")
        if options.get("transformer-postprocess-top"):
            norm(f"{stack}_top")
        wide = options["transformer-dim-ffn"]
        if stack == "decoder":
            wide = options.get("transformer-decoder-dim-ffn") or wide
        for i in range(1, options[f"{stack[:3]}-depth"] + 1):
            for block in ("self", "context")[: 1 + (stack == "decoder")]:
                name = f"{stack}_l{i}_{block}"
                for part in "qkvo":
                    matrix(f"{name}_W{part}", width, width)
                    arrays[f"{name}_b{part}"] = normal(rng, 1, width) / 2
                norm(f"{name}_Wo", "_pre" * is_first)
            name = f"{stack}_l{i}_ffn"
            for part, rows, columns in (("1", width, wide), ("2", wide, width)):
                matrix(f"{name}_W{part}", rows, columns)
                arrays[f"{name}_b{part}"] = normal(rng, 1, columns) / 2
            norm(f"{name}_ffn", "_pre" * is_first)
    return arrays


def save(path, arrays, options, write=np.savez):
    write(path, **arrays, **{"special:model.yml": as_yaml(options)})
    return path


class Twin:
    """Marian's forward pass in float64."""

    def __init__(self, arrays, options, *, eps=1e-6, steps=None, start=0.0):
        self.arrays = {name: array.astype(float) for name, array in arrays.items()}
        self.options, self.eps = options, eps
        self.steps = options["dim-emb"] // 2 - 1 if steps is None else steps
        self.start = np.full((1, options["dim-emb"]), start)

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps)
        scale, bias = (name.replace("_ln", f"_ln_{kind}") for kind in ("scale", "bias"))
        return x * self.arrays[scale] + self.arrays[bias]

    def processed(self, x, steps, name, before=None):
        """The steps on x, `before` being what is added."""
        for step in steps.replace("d", ""):
            x = x + before if step == "a" else self.norm(x, name)
        return x

    def embedded(self, stack, rows):
        count, width = rows.shape
        rates = 1e4 ** (-np.arange(width // 2) / self.steps)
        angles = np.outer(np.arange(count), rates)
        rows = rows * np.sqrt(width) + np.hstack([np.sin(angles), np.cos(angles)])
        steps = self.options["transformer-postprocess-emb"]
        return self.processed(rows, steps, f"{stack}_emb_ln_pre")

    def affine(self, x, name, part):
        return x @ self.arrays[f"{name}_W{part}"] + self.arrays[f"{name}_b{part}"]

    def attended(self, name, x, memory=None):
        before = x
        x = self.processed(x, self.options["transformer-preprocess"], f"{name}_Wo_ln_pre")
        keys = x if memory is None else memory
        q, k, v = (self.affine(y, name, part) for y, part in ((x, "q"), (keys, "k"), (keys, "v")))
        parts = []
        heads = [np.split(y, self.heads, axis=1) for y in (q, k, v)]
        for queries, keys, values in zip(*heads, strict=True):
            scores = queries @ keys.T / np.sqrt(queries.shape[1])
            if name.startswith("decoder") and memory is None:
                scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            parts.append(weights / weights.sum(-1, keepdims=True) @ values)
        x = self.affine(np.hstack(parts), name, "o")
        return self.processed(x, self.options["transformer-postprocess"], f"{name}_Wo_ln", before)

    def fed_forward(self, name, x):
        before = x
        x = self.processed(x, self.options["transformer-preprocess"], f"{name}_ffn_ln_pre")
        x = self.affine(x, name, "1")
        rate = {"swish": 1.0, "gelu": 1.702}.get(self.options["transformer-ffn-activation"])
        x = np.maximum(x, 0) if rate is None else x / (1 + np.exp(-rate * x))
        x = self.affine(x, name, "2")
        return self.processed(x, self.options["transformer-postprocess"], f"{name}_ffn_ln", before)

    def stack(self, name, rows, memory=None):
        x = self.embedded(name, rows)
        for i in range(1, self.options[f"{name[:3]}-depth"] + 1):
            x = self.attended(f"{name}_l{i}_self", x)
            if memory is not None:
                x = self.attended(f"{name}_l{i}_context", x, memory)
            x = self.fed_forward(f"{name}_l{i}_ffn", x)
        return self.processed(
            x, self.options.get("transformer-postprocess-top", ""), f"{name}_top_ln"
        )

    def logits(self, source, target):
        """Of each token of the target and of the one after it (T + 1, V)."""
        arrays, self.heads = self.arrays, self.options["transformer-heads"]
        tables = [arrays.get("Wemb", arrays.get(f"{name}_Wemb")) for name in ("encoder", "decoder")]
        memory = self.stack("encoder", tables[0][source])
        x = self.stack("decoder", np.vstack([self.start, tables[1][target]]), memory)
        output = arrays.get("decoder_ff_logit_out_W")
        if output is None:
            output = arrays.get("decoder_ff_logit_out_Wt", tables[1]).T
        return x @ output + arrays.get("decoder_ff_logit_out_b", 0.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_logits_are_those_of_marian(variant, write, rng, tmp_path):
    options = OPTIONS | VARIANTS[variant]
    arrays = arrays_of(options)
    path = save(tmp_path / "model.npz", arrays, options, write)
    model = pt.load(path)
    source, target = (rng.integers(0, size, n) for size, n in ((23, 9), (23, 7)))
    expected = Twin(arrays, options).logits(source, target)
    logits = model([source], [[model.config.start_id, *target]])[0]
    assert_close(logits[:, :-1], expected)
    log_probabilities = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    ends = [*target, 0]
    wanted = log_probabilities[np.arange(len(ends)), ends]
    np.testing.assert_allclose(model.score([source], [target])[0], wanted, rtol=0, atol=1e-5)


def test_generation_never_gives_the_start(rng, tmp_path):
    options = OPTIONS | VARIANTS["all tied"]
    arrays = arrays_of(options)
    arrays["decoder_ff_logit_out_b"][:] = -30  # of which a 0 would be the best
    arrays["Wemb"] /= 4
    model = pt.load(save(tmp_path / "model.npz", arrays, options))
    source, target = rng.integers(1, 23, 6), []
    twin = Twin(arrays, options)
    while len(target) < 12 and 0 not in target:
        target.append(int(twin.logits(source, target)[-1].argmax()))
    found = model.generate([source], max_length=12)
    assert found.sequences[0].tolist() == [token for token in target if token]
    sampled = model.generate([source], max_length=12, num_samples=5, seed=1, temperature=3.0)
    assert all(23 not in one.sequence for one in sampled.hypotheses[0])


def test_the_twin_and_transformers_agree(shared_data, tmp_path):
    """The weights of a model of theirs by Marian's names: its answers but for the positions, the
    epsilon and, as these weights are random, the start, which transformers has otherwise."""
    folder = shared_data / "hf-tiny" / "marian"
    config = json.loads((folder / "config.json").read_text())
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    table = state["model.shared.weight"]
    arrays = {"Wemb": table[:-1]}
    arrays["decoder_ff_logit_out_b"] = state["final_logits_bias"][:, :-1]
    names = {
        "self_attn.{}_proj": "self_{}{}",
        "encoder_attn.{}_proj": "context_{}{}",
        "fc{}": "ffn_{}{}",
        "self_attn_layer_norm": "self_Wo_ln",
        "encoder_attn_layer_norm": "context_Wo_ln",
        "final_layer_norm": "ffn_ffn_ln",
    }
    for name, array in state.items():
        found = re.fullmatch(r"model\.(\w+)\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if not found:
            continue
        stack, number, part, kind = found.groups()
        part = part.replace("out_proj", "o_proj")
        letter = re.search(r"(.)(?:_proj|$)", part)[1]
        pattern = re.sub(r"(?<=fc)\d|[qkvo](?=_proj)", "{}", part)
        new = names[pattern].format({"weight": "W", "bias": "b"}[kind], letter)
        if part.endswith("norm"):
            new += {"weight": "_scale", "bias": "_bias"}[kind]
        array = array.T if array.ndim == 2 else array[None]
        arrays[f"{stack}_l{int(number) + 1}_{new}"] = array
    size = len(table) - 1
    options = OPTIONS | {
        "dim-emb": config["d_model"],
        "dim-vocabs": [size, size],
        "enc-depth": config["encoder_layers"],
        "dec-depth": config["decoder_layers"],
        "transformer-dim-ffn": config["encoder_ffn_dim"],
        "transformer-heads": config["encoder_attention_heads"],
    }
    model = pt.load(save(tmp_path / "model.npz", arrays, options))
    theirs = Twin(arrays, options, eps=1e-5, steps=config["d_model"] / 2, start=table[-1])
    ours = Twin(arrays, options)
    expected = np.load(folder / "expected.npz")
    for b, mask in enumerate(expected["attention_mask"]):
        source = expected["input_ids"][b, : mask.sum()]
        start, *target = expected["decoder_input_ids"][b]
        assert start == size
        assert_close(expected["logits"][b, :, :-1], theirs.logits(source, target), 2e-6)
        assert_close(model([source], [[start, *target]])[0, :, :-1], ours.logits(source, target))


def test_it_can_be_saved(rng, tmp_path):
    model = pt.load(save(tmp_path / "model.npz", arrays_of(OPTIONS), OPTIONS))
    model.save(tmp_path / "ours")
    again = pt.load(tmp_path / "ours")
    assert again.config == model.config
    for key, array in again.state_dict().items():
        assert_same_bits(array, model.state_dict()[key])


# Where it lies.


def test_folders(tmp_path):
    path = save(tmp_path / "model.npz", arrays_of(OPTIONS), OPTIONS)
    expected = pt.load(path).state_dict()
    for key, array in pt.load(tmp_path).state_dict().items():
        assert_same_bits(array, expected[key])
    shutil.copyfile(path, tmp_path / "best.npz")
    with pytest.raises(ValueError, match=r"has several models \(best\.npz, model\.npz\)"):
        pt.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz is missing"):
        pt.load(tmp_path / "nowhere.npz")


TOKENS = ["</s>", "<unk>", ",", "'", '"', "\u2581a", ":", "a: 1", "#", "\\", "~", "\xa0", "{", " "]
WRITTEN = """</s>: 0
<unk>: 1
",": 2
"'": 3
'"': 4
\u2581a: 5
":": 6
'a: 1': 7
"#": 8
"\\\\": 9
~: 10
"\\xa0": 11
'{': 12
" ": 13
"""


def vocabulary_of(size):
    tokens = TOKENS + [f"t{i}" for i in range(len(TOKENS), size)]
    return tokens, WRITTEN + "".join(f"t{i}: {i}\n" for i in range(len(TOKENS), size))


def test_one_vocabulary(tmp_path):
    save(tmp_path / "model.npz", arrays_of(OPTIONS), OPTIONS)
    tokens, written = vocabulary_of(23)
    (tmp_path / "opus.vocab.yml").write_text(written, encoding="utf-8")
    model = pt.load(tmp_path)
    assert model.src_vocabulary == model.tgt_vocabulary == [*tokens, "<s>"]
    assert (model.config.start_id, model.config.end_id) == (23, 0)
    # One that does not fit may belong to something else.
    (tmp_path / "opus.vocab.yml").write_text(vocabulary_of(24)[1], encoding="utf-8")
    assert pt.load(tmp_path).src_vocabulary is None
    (tmp_path / "opus.vocab.yml").write_text("a: 0\nb: 2\n")
    with pytest.raises(ValueError, match=r"opus\.vocab\.yml: it has 2 tokens, expected the ids"):
        pt.load(tmp_path)


def test_two_vocabularies(tmp_path):
    options = OPTIONS | APART
    save(tmp_path / "model.npz", arrays_of(options), options)
    names = ["/training/source.yml", "target.yml"]
    (tmp_path / "decoder.yml").write_text(
        "models:\n  - model.npz\nvocabs:\n"
        + "".join(f"  - {n}\n" for n in names)
        + "beam-size: 6\n"
    )
    source, written = vocabulary_of(29)
    (tmp_path / "source.yml").write_text(written, encoding="utf-8")
    target = [f"w{i}" for i in range(22)]
    lines = [*(f"{token}: {i}\n" for i, token in enumerate(target)), '"</s>": 22\n']
    (tmp_path / "target.yml").write_text("".join(lines))
    model = pt.load(tmp_path / "model.npz")
    assert model.src_vocabulary == source
    assert model.tgt_vocabulary == [*target, "</s>", "<s>"]
    assert (model.config.start_id, model.config.end_id) == (23, 22)
    (tmp_path / "target.yml").unlink()
    assert pt.load(tmp_path).tgt_vocabulary is None
    (tmp_path / "decoder.yml").write_text("vocabs: {a: b}\n")
    with pytest.raises(ValueError, match=r"load: .*decoder\.yml: line 1 is .* more than a scalar"):
        pt.load(tmp_path)


def test_tables_of_yaml():
    text = "\n# a\na: 3\nb: \"x\\u00e4\\n\"\nc: 'it''s'\nd:\n  []\ne:\n  - 1\n  - two\nf: [1, a]\n"
    text += "g: true\nh:\ni: -4\nj: a b: c\nk:\n- \"\"\n'l': ~\nm: 0.1\n"
    assert flat_yaml.read_table(text) == {
        "a": 3,
        "b": "xä\n",
        "c": "it's",
        "d": [],
        "e": [1, "two"],
        "f": [1, "a"],
        "g": True,
        "h": None,
        "i": -4,
        "j": "a b: c",
        "k": [""],
        "l": None,
        "m": "0.1",
    }
    for bad in (
        "a",
        "a:b",
        "  a: b",
        "a: 1\n  - 2",
        "a: {b: c}",
        "a: &x 1",
        'a: "b',
        'a: "\\q"',
        'a: "\\ud800"',
        'a: "\\"',
        "a: [1",
        "a: 1\na: 2",
        "a:\n  b: 1",
    ):
        with pytest.raises(ValueError, match=r"line \d is "):
            flat_yaml.read_table(bad)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": "s2s"}, "type is 's2s', expected one of 'transformer'"),
        ({"transformer-decoder-autoreg": "rnn"}, "transformer-decoder-autoreg is 'rnn', expected"),
        ({"transformer-no-projection": True}, "transformer-no-projection is True, expected False"),
        (
            {"transformer-tied-layers": [1, 1]},
            r"transformer-tied-layers is \[1, 1\], expected \[\]",
        ),
        ({"transformer-ffn-depth": 3}, "transformer-ffn-depth is 3, expected 2"),
        ({"transformer-decoder-ffn-depth": 1}, "transformer-decoder-ffn-depth is 1, expected 2"),
        ({"transformer-ffn-activation": "tanh"}, "transformer-ffn-activation is 'tanh', expected"),
        ({"transformer-postprocess": "dhn"}, "transformer-postprocess 'hn' without dropout"),
        ({"transformer-preprocess": "n"}, "transformer-preprocess is 'n' and"),
        ({"transformer-postprocess-emb": "r"}, "transformer-postprocess-emb is 'r', expected"),
        ({"transformer-postprocess-top": "a"}, "transformer-postprocess-top is 'a', expected"),
        (
            {"transformer-preprocess": "n", "transformer-postprocess": "da"},
            "transformer-postprocess-top is missing",
        ),
        ({"transformer-train-position-embeddings": True}, "position-embeddings is True, expected"),
        ({"right-left": True}, "right-left is True, expected False"),
        ({"ulr": True}, "ulr is True, expected False"),
        ({"lemma-dim-emb": 8}, "lemma-dim-emb is 8, expected 0"),
        ({"factors-combine": "concat"}, "factors-combine is 'concat', expected 'sum'"),
        ({"dim-vocabs": [23]}, r"dim-vocabs is \[23\], expected two sizes"),
        ({"dim-vocabs": [23, 29]}, "tgt_vocab_size is 30, expected src_vocab_size = 24"),
        ({"dim-vocabs": ["a", "b"]}, r"dim-vocabs\[0\] is 'a', expected"),
        ({"dim-emb": None}, "dim-emb is missing"),
        ({"transformer-heads": 3}, "num_heads is 3, expected a divisor"),
        ({"enc-depth": 4}, "enc-depth is 4, but encoder_l4_ffn_W1 is missing"),
        (
            {"dec-depth": 10**9},
            "dec-depth is 1000000000, but decoder_l1000000000_ffn_W1 is missing",
        ),
        ({"tied-embeddings-all": "maybe"}, "tied-embeddings-all is 'maybe', expected"),
    ],
)
def test_options_that_cannot_be_read(changes, says, tmp_path):
    path = save(tmp_path / "model.npz", arrays_of(OPTIONS), OPTIONS | changes)
    with pytest.raises(ValueError, match=f"load: .*special:model.yml: .*{says}"):
        pt.load(path)


def test_arrays_that_do_not_fit(tmp_path):
    arrays = arrays_of(OPTIONS)
    del arrays["encoder_l1_self_Wq"], arrays["decoder_l2_ffn_b1"]
    arrays["encoder_l2_ffn_W1"] = arrays["encoder_l2_ffn_W1"].T
    arrays["encoder_top_ln_scale"] = np.ones((1, 16), np.float32)
    with pytest.raises(ValueError) as refused:
        pt.load(save(tmp_path / "model.npz", arrays, OPTIONS))
    said = str(refused.value)
    assert "missing: decoder_l2_ffn_b1, encoder_l1_self_Wq, encoder_l1_self_Wk, " in said
    assert "unexpected because of special:model.yml: encoder_top_ln_scale" in said
    assert "misshapen: encoder_l2_ffn_W1 is (16, 40), expected (40, 16)" in said
    arrays = arrays_of(OPTIONS) | {"other": np.ones(3)}
    with pytest.warns(UserWarning, match="these tensors are not used: other"):
        pt.load(save(tmp_path / "model.npz", arrays, OPTIONS))
    arrays["Wpos"] = np.ones((9, 16))
    with pytest.raises(ValueError, match="Wpos is there, expected no trained positions"):
        pt.load(save(tmp_path / "model.npz", arrays, OPTIONS))
    np.savez(tmp_path / "model.npz", **arrays_of(OPTIONS))
    with pytest.raises(ValueError, match=r"has no special:model\.yml, expected a model of Marian"):
        pt.load(tmp_path / "model.npz")


# The zip of arrays.


def test_arrays_of_every_kind(tmp_path):
    arrays = {
        str(np.dtype(kind)): np.arange(24).reshape(2, 3, 4).astype(kind)
        for kind in ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    }
    arrays |= {"fortran": np.asfortranarray(arrays["float32"][0]), "scalar": np.float32(3.5)}
    arrays |= {"empty": np.zeros((0, 3), np.float32), "row": np.arange(5.0, dtype=np.float32)}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **arrays)
        tensors = npz.read_tensors(tmp_path / "a.npz")
        assert tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            floats = array.astype(np.float32) if array.dtype.kind == "f" else array
            np.testing.assert_array_equal(np.asarray(tensors[name]), floats, strict=True)


def array_file(descr="<f4", shape="(2, 3)", content=bytes(24), start=b"\x93NUMPY\x01\0"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return start + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (array_file(descr="|O"), "its header is"),
        (array_file(descr=">f4"), "its header is"),
        (array_file(descr="<c8"), "it has dtype c8, expected one of"),
        (array_file(shape="(2, 4)"), r"it has 24 bytes, expected shape \(2, 4\) of float32"),
        (array_file(shape="(2, -3)"), "its header is"),
        (array_file(shape=f"({'9' * 5000},)"), "Exceeds the limit"),
        (array_file(shape=f"({2**62}, {2**62})"), "it has 24 bytes, expected shape"),
        (array_file(shape=f"(0, {2**70})", content=b""), "a: "),
        (array_file(shape=f"({', '.join(['1'] * 70)})", content=bytes(4)), "dim"),
        (array_file(shape="(2, 3), 'a': exec('1')"), "its header is"),
        (array_file(start=b"\x93NUMPY\x04\0"), "it does not begin as an array does"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\x7f", "its header has 2147483647 bytes, expected at most"),
        (b"\x80\x04N.", "it does not begin as an array does"),
        (b"", "it does not begin as an array does"),
    ],
)
def test_arrays_that_are_none(content, says, tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(
        ValueError,
        match=f"load: {path} cannot be read as NumPy's: a: .*{says}|"
        f"load: {path} cannot be read as NumPy's: {says}",
    ):
        npz.read_tensors(path)


def test_zips_that_are_none(tmp_path):
    path = tmp_path / "model.npz"
    for names in (["a.txt"], ["a.npy", "a.npy"]):
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name in names:
                archive.writestr(name, array_file())
        with pytest.raises(ValueError, match=rf"it holds {names[0]}, expected arrays"):
            npz.read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", array_file())
    with pytest.raises(ValueError, match="it is compressed in way 12"):
        npz.read_tensors(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="File is not a zip file"):
        npz.read_tensors(path)


def test_a_zip_that_unpacks_to_more_than_its_header_says(tmp_path):
    """Sizes are those of the header, whatever the zip holds."""
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", array_file(content=bytes(100_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"it has 100000000 bytes, expected shape \(2, 3\)"):
        npz.read_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def mutated(whole, rng):
    """The bytes with some bits flipped, and perhaps an end that is missing."""
    content = bytearray(whole)
    if not rng.integers(5):
        content = content[: rng.integers(len(content))]
    # Half of them near the end, where a zip has its directory.
    for _ in range(rng.integers(1, 4)):
        if content:
            back = int(rng.integers(1, min(len(content), 6000 if rng.integers(2) else 10**9) + 1))
            content[-back] ^= 1 << rng.integers(8)
    return bytes(content)


def mutated_inside(whole, rng):
    """The same archive with one file in it, half of the time the options, that is mutated, and the
    checksums right."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "special:model.yml.npy" if rng.integers(2) else rng.choice(list(members))
    members[name] = mutated(members[name], rng)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


@pytest.mark.parametrize(
    ("write", "mutate"),
    [(np.savez, mutated), (np.savez_compressed, mutated), (np.savez, mutated_inside)],
    ids=["stored", "deflated", "inside"],
)
def test_mutated_files(write, mutate, rng, tmp_path):
    """No crash, no other error, and no memory beyond twice what the arrays take and a little."""
    options = OPTIONS | {"enc-depth": 1, "dec-depth": 1}
    path = save(tmp_path / "model.npz", arrays_of(options), options, write)
    whole, size = path.read_bytes(), sum(array.nbytes for array in arrays_of(options).values())
    refused = most = 0
    pt.load(path)  # what is imported for it is no part of it
    tracemalloc.start()
    for _ in range(100):
        path.write_bytes(mutate(whole, rng))
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pt.load(path)
        except ValueError as error:
            assert str(error).startswith(f"load: {path}")
            refused += 1
        most = max(most, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert refused > 50
    assert most < 2 * size + 5e5
