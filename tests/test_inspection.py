"""What `inspect` says of directories: of every family, of our own, of parts and of garbage."""

import json
import shutil

import directories
import numpy as np
import pytest
import safetensors.numpy
from directories import TINY

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.pipelines.conversion import convert
from pyx_transformer.pipelines.inspection import inspect


@pytest.mark.parametrize("name", TINY)
def test_every_family(name, shared_data, tmp_path):
    """Sizes are those of the file and of the opened model; there is no tokenizer to do things."""
    folder = shared_data / "hf-tiny" / name
    found, model = inspect(folder), pt.load(folder)
    config = json.loads((folder / "config.json").read_text())
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    assert found["layout"] == "Hugging Face" and found["family"] == config["model_type"]
    assert found["model"] == type(model).__name__ == TINY[name]
    assert found["parameters"] == model.num_parameters
    assert found["dtypes"] == [f"F32 ({sum(array.size for array in stored.values())} numbers)"]
    assert found["memory"] == f"{4 * model.num_parameters / 1e6:.1f} MB of weights"
    assert found["weights"] == "model.safetensors"
    assert found["vocabulary"] == [config["vocab_size"]]
    assert found["longest"] == (None if np.isinf(model.config.longest) else model.config.longest)
    assert found["tied"] == [f"{key} is {value}" for key, value in model.ties().items()]
    for key in ("missing", "misshapen", "unused", "tokenizers", "commands"):
        assert found[key] == []
    for side in ("encoder", "decoder"):
        assert (side in found) == hasattr(model, side)
        if side in found:
            layers = 4 if name == "modernbert" else 3
            assert found[side].startswith(f"{layers} layers of 48, 4 heads, d_ff ")
    convert(folder, tmp_path / "ours")
    ours = inspect(tmp_path / "ours")
    assert ours["layout"] == "pyx_transformer"
    assert ours["dtypes"] == [f"F32 ({model.num_parameters} numbers)"]
    for key in ours.keys() - {"layout", "dtypes"}:
        assert ours[key] == found[key]


def test_the_shipped_one():
    found = inspect("en-ja")
    assert found["layout"] == "pyx_transformer" and found["model"] == "Transformer"
    assert found["tokenizers"] == ["words", "words"]
    assert found["commands"] == ["translate", "score"]
    (whole, scales) = found["dtypes"]
    assert whole.startswith("I8 (") and scales.startswith("F32 (")


def test_what_can_be_done(shared_data, tmp_path):
    """With tokenizers, for each kind of model and head."""
    tokenizer = text.make("words", ["a b c"])
    size, small = tokenizer.vocab_size, {"d_model": 8, "num_heads": 2}
    for i, (model, commands) in enumerate(
        [
            (pt.Transformer(pt.TransformerConfig(size, size, **small)), ["translate", "score"]),
            (
                pt.TransformerLM(pt.TransformerLMConfig(size, **small)),
                ["generate", "score", "embed"],
            ),
            (pt.EncoderModel(pt.EncoderConfig(size, **small)), ["embed"]),
            *(
                (
                    pt.EncoderModel(
                        pt.EncoderConfig(
                            size, head=pt.ClassifierConfig(labels, of_tokens=of_tokens), **small
                        )
                    ),
                    commands,
                )
                for labels, of_tokens, commands in (
                    (("x",), False, ["rank", "classify"]),
                    (("x", "y"), False, ["classify"]),
                    (("x", "y"), True, ["tag"]),
                )
            ),
        ]
    ):
        for side in ("src_tokenizer", "tgt_tokenizer"):
            if hasattr(model, side):
                setattr(model, side, tokenizer)
        model.save(tmp_path / f"{i}")
        found = inspect(tmp_path / f"{i}")
        assert found["commands"] == commands
        assert found["tokenizers"] == ["words"]
        assert found["model"] == type(model).__name__


def test_tensors_that_are_missing_misshapen_and_unused(copied):
    """Told, where `load` refuses and warns."""
    folder, _, tensors = copied("bert")
    name = "encoder.layer.1.intermediate.dense.bias"
    wide = "encoder.layer.0.output.dense.weight"
    found = next(key for key in tensors if key.endswith(name))
    broad = next(key for key in tensors if key.endswith(wide))
    del tensors[found]
    tensors[broad] = np.ascontiguousarray(tensors[broad].T)
    tensors["surplus.weight"] = np.zeros((2, 3), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    said = inspect(folder)
    assert said["missing"] == [found]
    assert said["misshapen"] == [f"{broad} is (96, 48), expected (48, 96)"]
    assert said["unused"] == ["surplus.weight"]
    with pytest.raises(ValueError, match=r"missing: .*misshapen: "):
        pt.load(folder)


def test_dtypes_and_shards(copied):
    folder, _, tensors = copied("llama")
    halves = {
        name: array.astype(np.float16) if array.ndim == 2 else array
        for name, array in tensors.items()
    }
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(3):
        file = f"model-{i + 1:05}-of-00003.safetensors"
        part = dict(list(halves.items())[i::3])
        safetensors.numpy.save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    found = inspect(folder)
    assert found["weights"] == index.name
    counts = [sum(a.size for a in halves.values() if a.ndim == ndim) for ndim in (2, 1)]
    assert found["dtypes"] == [f"F16 ({counts[0]} numbers)", f"F32 ({counts[1]} numbers)"]
    assert found["missing"] == []
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors is missing"):
        inspect(folder)


def test_sentences(shared_data, tmp_path, rng):
    """Where the model lies in a folder of its own, and what becomes of its rows."""
    inside = tmp_path / "0_Transformer"
    inside.mkdir()
    directories.bert(inside, shared_data)
    dense = {"in_features": 72, "out_features": 5}
    tensors = {
        "linear.weight": rng.standard_normal((5, 72), np.float32),
        "linear.bias": rng.standard_normal(5, np.float32),
    }
    directories.sentence_transformer(
        tmp_path, {"pooling_mode": ["cls", "max"]}, [(dense, tensors)], True, "0_Transformer"
    )
    found = inspect(tmp_path)
    assert found["vectors"] == ["cls", "max", "dense 72 to 5", "normalized"]
    assert found["family"] == "bert" and found["tokenizers"] == ["tokenizers"]
    assert found["commands"] == ["embed"]
    assert "vectors" not in inspect(inside)


def test_another_engines(shared_data, tmp_path):
    """CTranslate2's, with and without a config.json of its own."""
    for name in ("model.bin", "source_vocabulary.txt", "target_vocabulary.txt"):
        shutil.copyfile(shared_data / "aren" / name, tmp_path / name)
    found = inspect(tmp_path)
    assert found["layout"] == "another engine's" and found["model"] == "Transformer"
    assert found["parameters"] == 182_731
    own = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert inspect(tmp_path) == found


def test_unusual_stacks(tmp_path):
    """Without a layer, and without a feed-forward block."""
    model = pt.Transformer(pt.TransformerConfig(9, 9, d_model=8, num_heads=2, num_decoder_layers=0))
    model.save(tmp_path / "none")
    assert inspect(tmp_path / "none")["decoder"].startswith("0 layers of 8")
    attention = pt.SubLayerConfig(pt.AttentionConfig(num_heads=2))
    stack = pt.StackConfig(d_model=8, num_layers=3, layers=(pt.LayerConfig((attention,)),))
    pt.EncoderModel(pt.EncoderConfig(9, encoder=stack)).save(tmp_path / "attention")
    assert inspect(tmp_path / "attention")["encoder"] == "3 layers of 8, 2 heads"


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({}, FileNotFoundError, "config.json is missing"),
        ({"config.json": b"{"}, ValueError, "config.json: table"),
        ({"config.json": b"\xff"}, ValueError, "config.json, line 1 is not UTF-8"),
        ({"config.json": b"[]"}, ValueError, "is a list, expected an object"),
        (
            {"config.json": b'{"model_type": "mamba"}'},
            ValueError,
            "model_type is 'mamba', expected",
        ),
        ({"config.json": b'{"model_type": "bert"}'}, FileNotFoundError, "has no weights"),
        (
            {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"garbage"},
            ValueError,
            "model.safetensors",
        ),
        ({"config.json": b'{"architecture": "RNN"}'}, ValueError, "architecture is 'RNN'"),
        ({"modules.json": b"{"}, ValueError, "modules.json"),
        ({"modules.json": b'[{"type": "a.BoW"}]'}, ValueError, "type is 'BoW', expected one of"),
    ],
)
def test_garbage(files, error, says, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says) as refused:
        inspect(tmp_path)
    assert str(refused.value).startswith(("load: ", "inspect: ")) and "\n" not in str(refused.value)


def test_what_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="load: nowhere is missing, expected a folder or"):
        inspect("nowhere")
    with pytest.raises(ValueError, match="file is no folder"):
        inspect(tmp_path / "file")
    with pytest.raises(TypeError, match="inspect: directory is 3, expected a path"):
        inspect(3)
