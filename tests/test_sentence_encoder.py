"""SentenceEncoder: texts to vectors, as the files of sentence-transformers say.

The reference reads a directory with transformers and follows the rules of that package's Pooling,
Dense and Normalize in float64.
"""

import json
import shutil
import warnings

import directories
import numpy as np
import pytest
from models import assert_same_bits, num_threads, randomised

import pyx_transformer as pt
from pyx_transformer import text

TEXTS = ["I know him well .", "Many animals", "", 'she said " no " , didn\'t she ? zebra', "a"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@pytest.fixture(scope="module")
def bert(shared_data, tmp_path_factory):
    return directories.bert(tmp_path_factory.mktemp("bert"), shared_data)


@pytest.fixture
def copied(bert, tmp_path):
    """A function that copies the model to where it is to lie in a directory."""

    def copy(inside=""):
        folder = tmp_path / "sentences"
        shutil.copytree(bert, folder / inside)
        return folder

    return copy


class Reference:
    """Vectors in float64."""

    def __init__(self, model_folder):
        tf = directories.library()
        self.tokenizer = tf.AutoTokenizer.from_pretrained(model_folder)
        self.model = tf.AutoModel.from_pretrained(model_folder).double().eval()

    def rows(self, one, longest):
        import torch

        ids = self.tokenizer(
            one, return_tensors="pt", truncation="longest_first", max_length=longest
        )
        with torch.no_grad():
            return self.model(**ids).last_hidden_state[0].numpy()

    def prompt_length(self, prompt):
        """Its tokens with what begins a text, and without what ends it."""
        return len(self.tokenizer(prompt)["input_ids"]) - 1

    def vectors(self, texts, modes, prompt="", included=True, longest=64):
        out = []
        for one in texts:
            rows = self.rows(prompt + one, longest)
            skipped = 0 if included or not prompt else self.prompt_length(prompt)
            places = np.arange(1, len(rows) + 1)[skipped:, None]
            kept = rows[skipped:]
            found = {
                "cls": rows[0],
                "max": kept.max(axis=0),
                "mean": kept.mean(axis=0),
                "mean_sqrt_len_tokens": kept.sum(axis=0) / np.sqrt(len(kept)),
                "weightedmean": (kept * places).sum(axis=0) / places.sum(),
                "lasttoken": rows[-1],
            }
            out.append(np.concatenate([found[mode] for mode in modes]))
        return np.array(out)


@pytest.fixture(scope="module")
def reference(bert):
    return Reference(bert)


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def normalized(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Pooling.


@pytest.mark.parametrize("mode", MODES)
def test_poolings(mode, copied, reference):
    """By the flags of older files, by the name in newer ones, and as an argument."""
    folder = directories.sentence_transformer(
        copied(), {"word_embedding_dimension": 36, **{f: m == mode for m, f in FLAGS.items()}}
    )
    encoder = pt.SentenceEncoder(folder)
    vectors = encoder.encode(TEXTS)
    assert_close(vectors, reference.vectors(TEXTS, [mode]))
    assert encoder.dimension == 36
    directories.write_json(folder / "1_Pooling/config.json", {"pooling_mode": mode})
    assert_same_bits(pt.SentenceEncoder(folder).encode(TEXTS), vectors)
    ours = {"mean_sqrt_len_tokens": "mean_sqrt_len", "weightedmean": "weighted_mean"}
    name = {**ours, "lasttoken": "last"}.get(mode, mode)
    directories.write_json(folder / "1_Pooling/config.json", {"pooling_mode": "max"})
    assert_same_bits(pt.SentenceEncoder(folder, pooling=name).encode(TEXTS), vectors)


@pytest.mark.parametrize(
    ("values", "modes"),
    [
        (dict.fromkeys(FLAGS.values(), True), MODES),
        ({FLAGS["lasttoken"]: True, FLAGS["cls"]: True}, ["cls", "lasttoken"]),
        ({"pooling_mode": ["mean", "cls"]}, ["mean", "cls"]),
        ({"pooling_mode": ["mean"], FLAGS["cls"]: True}, ["mean"]),
        ({"word_embedding_dimension": 36}, ["mean"]),
        (dict.fromkeys(FLAGS.values(), False), ["mean"]),
    ],
)
def test_several_poolings_stand_side_by_side(values, modes, copied, reference):
    """Those of flags in a fixed order, and the mean where there is none."""
    encoder = pt.SentenceEncoder(directories.sentence_transformer(copied(), values))
    assert_close(encoder.encode(TEXTS), reference.vectors(TEXTS, modes))
    assert encoder.dimension == 36 * len(modes)


def test_a_model_without_these_files_is_its_mean(bert, reference):
    expected = reference.vectors(TEXTS, ["mean"])
    assert_close(pt.SentenceEncoder(bert).encode(TEXTS), expected)
    assert_close(pt.SentenceEncoder(pt.load(bert)).encode(TEXTS), expected)
    found = pt.SentenceEncoder(bert).encode(TEXTS, True, 7)
    assert_close(found, normalized(expected[:, :7]))


# Prompts.

PROMPTS = {
    "prompts": {"query": "query : ", "nothing": "", "document": "animals : "},
    "default_prompt_name": "query",
}


@pytest.mark.parametrize("included", [True, False])
def test_prompts(included, copied, reference):
    values = {**dict.fromkeys(FLAGS.values(), True), "include_prompt": included}
    folder = directories.sentence_transformer(copied(), values, prompts=PROMPTS)
    encoder = pt.SentenceEncoder(folder)
    for prompt, asked in (
        ("query : ", None),
        ("query : ", "query"),
        ("animals : ", "document"),
        ("", "nothing"),
        ("", ""),
        ("she said : ", "she said : "),
    ):
        expected = reference.vectors(TEXTS, MODES, prompt, included)
        assert_close(encoder.encode(TEXTS, prompt=asked), expected)


def test_no_default_prompt(copied, reference):
    values = {"prompts": {"query": "query : "}, "default_prompt_name": None}
    folder = directories.sentence_transformer(copied(), {}, prompts=values)
    assert_close(pt.SentenceEncoder(folder).encode(TEXTS), reference.vectors(TEXTS, ["mean"]))


def test_a_prompt_that_fills_a_text(copied):
    """Something is left to be the mean of."""
    values = {"pooling_mode": "mean", "include_prompt": False}
    folder = directories.sentence_transformer(copied(), values)
    directories.write_json(folder / "sentence_bert_config.json", {"max_seq_length": 4})
    with pytest.warns(UserWarning, match="encode: 2 of 2 texts cut to 4 tokens: numbers 1, 2"):
        found = pt.SentenceEncoder(folder).encode(["a b", "c"], prompt="many animals said : ")
    assert np.isfinite(found).all() and found.any(axis=1).all()


# Dense maps and lengths.


def dense(rng, inputs, outputs, activation, bias=True):
    values = {"in_features": inputs, "out_features": outputs, "bias": bias}
    if activation is not None:
        values["activation_function"] = activation
    tensors = {"linear.weight": rng.standard_normal((outputs, inputs), np.float32) / 6}
    if bias:
        tensors["linear.bias"] = rng.standard_normal(outputs, np.float32)
    return values, tensors


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("torch.nn.modules.activation.Tanh", np.tanh),
        (None, np.tanh),
        ("torch.nn.modules.linear.Identity", lambda x: x),
        ("torch.nn.modules.activation.ReLU", lambda x: np.maximum(x, 0)),
    ],
)
def test_dense_maps(activation, function, copied, reference, rng):
    maps = [
        dense(rng, 72, 25, activation),
        dense(rng, 25, 11, "torch.nn.modules.linear.Identity", bias=False),
    ]
    folder = directories.sentence_transformer(
        copied(), {"pooling_mode": ["cls", "mean"]}, maps, normalize=True
    )
    encoder = pt.SentenceEncoder(folder)
    expected = reference.vectors(TEXTS, ["cls", "mean"])
    (_, first), (_, second) = maps
    expected = function(expected @ first["linear.weight"].T + first["linear.bias"])
    expected = expected @ second["linear.weight"].T
    assert encoder.dimension == 11
    assert_close(encoder.encode(TEXTS), normalized(expected))
    assert_close(encoder.encode(TEXTS, normalize=False), expected)
    # Cut after the length is 1, and again 1 where that is asked for.
    assert_close(encoder.encode(TEXTS, truncate_dim=4), normalized(expected)[:, :4])
    found = encoder.encode(TEXTS, normalize=True, truncate_dim=4)
    assert_close(found, normalized(expected[:, :4]))
    assert_close(encoder.encode(TEXTS, False, 4), expected[:, :4])
    with pytest.raises(ValueError, match="dense map takes vectors of 72, expected 36, as many as"):
        pt.SentenceEncoder(folder, pooling="cls")


def test_a_dense_map_of_pytorch(copied, rng, reference):
    import torch

    values, tensors = dense(rng, 36, 5, None)
    folder = directories.sentence_transformer(copied(), {}, [(values, tensors)])
    (folder / "2_Dense/model.safetensors").unlink()
    found = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(found, folder / "2_Dense/pytorch_model.bin")
    expected = reference.vectors(TEXTS, ["mean"]) @ tensors["linear.weight"].T
    found = pt.SentenceEncoder(folder).encode(TEXTS)
    assert_close(found, np.tanh(expected + tensors["linear.bias"]))


# Where the model lies, and how long texts are.


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_a_model_in_a_folder_of_its_own(name, copied, reference):
    folder = directories.sentence_transformer(copied("0_Transformer"), {}, inside="0_Transformer")
    directories.write_json(
        folder / "0_Transformer" / name, {"max_seq_length": 6, "do_lower_case": True}
    )
    encoder = pt.SentenceEncoder(folder)
    with pytest.warns(UserWarning, match="encode: 3 of 5 texts cut to 6 tokens: numbers 1, 2, 4"):
        found = encoder.encode(TEXTS)
    expected = reference.vectors([one.lower() for one in TEXTS], ["mean"], longest=6)
    assert_close(found, expected)


def test_texts_are_cut_at_the_tokenizers_length(copied, reference):
    """As sentence-transformers does where nothing else is said; a model of others refuses."""
    folder = copied()
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "model_max_length": 9}))
    long = "many animals " * 40
    with pytest.raises(ValueError, match=r"encode: texts\[1\] has \d+ tokens, expected at most 64"):
        pt.SentenceEncoder(folder).encode(["a", long])
    directories.sentence_transformer(folder, {})
    with pytest.warns(UserWarning, match="encode: 1 of 2 texts cut to 9 tokens: number 2"):
        found = pt.SentenceEncoder(folder).encode(["a", long])
    assert_close(found, reference.vectors(["a", long], ["mean"], longest=9))
    path.write_text(json.dumps({**values, "model_max_length": 10**30}))
    with pytest.warns(UserWarning, match="cut to 64 tokens"):
        found = pt.SentenceEncoder(folder).encode([long])
    assert_close(found, reference.vectors([long], ["mean"], longest=64))


# What is refused.


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("modules.json", {}, "modules is {}, expected a list"),
        ("modules.json", [3], r"modules\[0\] is 3"),
        ("modules.json", [{"type": "a.LSTM"}], r"\[0\]: type is 'LSTM', expected one of Transf"),
        (
            "modules.json",
            [{"type": "models.Pooling", "path": "../../etc"}],
            "path is '../../etc', expected one inside",
        ),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "a.Normalize"}, {"type": "a.Dense"}],
            r"\[2\]: Dense follows Normalize, expected it in front",
        ),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "a.Transformer"}],
            r"\[1\]: Transformer follows Transformer",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling_mode is 'median', expected"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", 3]}, "pooling_mode is 3, expected"),
        ("1_Pooling/config.json", {FLAGS["cls"]: "yes"}, "pooling_mode_cls_token is 'yes'"),
        ("1_Pooling/config.json", {"include_prompt": 3}, "include_prompt is 3"),
        ("1_Pooling/config.json", [], "is a list, expected an object"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0"),
        ("sentence_bert_config.json", {"do_lower_case": 1.5}, "do_lower_case is 1.5"),
        ("config_sentence_transformers.json", {"prompts": []}, "prompts is "),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}, "a is 3, expected a text"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"a": "b"}, "default_prompt_name": "c"},
            "default_prompt_name is 'c', expected one of prompts",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": ["c"]},
            r"default_prompt_name is \['c'\], expected one of prompts",
        ),
        ("2_Dense/config.json", {"in_features": 36}, "out_features is missing"),
        (
            "2_Dense/config.json",
            {"in_features": 36, "out_features": 9},
            r"holds .*\(5, 36\).*, expected .*\(9, 36\)",
        ),
        (
            "2_Dense/config.json",
            {"in_features": 36, "out_features": 5, "activation_function": "torch.nn.Softplus"},
            "activation_function is 'Softplus', expected one of 'Identity', 'T",
        ),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual is True, expected False"),
        (
            "2_Dense/config.json",
            {"module_input_name": "token_embeddings"},
            "module_input_name is 'token_embeddings', expected 'sentence_embedding'",
        ),
    ],
)
def test_malformed_files_are_named(file, values, says, copied, rng):
    folder = directories.sentence_transformer(copied(), {}, [dense(rng, 36, 5, None)])
    directories.write_json(folder / file, values)
    with warnings.catch_warnings(), pytest.raises((TypeError, ValueError), match=says) as refused:
        warnings.simplefilter("error")
        pt.SentenceEncoder(folder)
    assert str(refused.value).startswith(f"load: {folder}") and "\n" not in str(refused.value)


# What needs no other library.


def own_encoder(kind="encoder", **settings):
    tokenizer = text.make("words", ["a b c d e f g h"])
    if kind == "encoder":
        config = pt.EncoderConfig(tokenizer.vocab_size, d_model=12, num_heads=2, **settings)
        model = randomised(pt.EncoderModel(config, rng=0))
        model.src_tokenizer = tokenizer
        return model
    config = pt.TransformerLMConfig(tokenizer.vocab_size, d_model=12, num_heads=2, **settings)
    model = randomised(pt.TransformerLM(config, rng=0))
    model.tgt_tokenizer = tokenizer
    return model


MANY = [" ".join("abcdefgh"[i % 4 : 1 + i % 9]) for i in range(25)]


@pytest.mark.parametrize("kind", ["encoder", "language model"])
@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]
)
def test_every_text_gives_the_same_bits_in_any_company(pooling, kind):
    encoder = pt.SentenceEncoder(own_encoder(kind), pooling=pooling)
    for normalize in (None, True):
        alone = np.concatenate([encoder.encode([one], normalize) for one in MANY])
        assert len(np.unique(alone, axis=0)) > 3
        for tokens in (None, 1, 9, 10**9):
            for threads in (1, 2, 3) if tokens is None else (1,):
                with num_threads(threads):
                    found = encoder.encode(MANY, normalize, max_batch_tokens=tokens)
                assert_same_bits(found, alone)
        assert_same_bits(encoder.encode(MANY[::-1], normalize), alone[::-1])


def test_texts_without_a_token_are_zeros():
    """Where the tokenizer adds none; also of length 1, which there is none of."""
    encoder = pt.SentenceEncoder(own_encoder())
    found = encoder.encode(["", "a b", " "], normalize=True)
    assert not found[[0, 2]].any() and np.linalg.norm(found[1]) == pytest.approx(1)
    assert encoder.encode(["", ""]).tolist() == np.zeros((2, 12)).tolist()
    assert encoder.encode([]).shape == (0, 12)
    assert encoder.encode([], truncate_dim=3).shape == (0, 3)


def test_a_directory_of_our_own(tmp_path):
    model = own_encoder()
    model.save(tmp_path / "model")
    expected = pt.SentenceEncoder(model).encode(MANY)
    assert_same_bits(pt.SentenceEncoder(tmp_path / "model").encode(tuple(MANY)), expected)
    assert_same_bits(pt.SentenceEncoder(str(tmp_path / "model")).encode(iter(MANY)), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("a b",), TypeError, "texts is 'a b', expected a list of texts"),
        ((["a", 3],), TypeError, r"texts\[1\] is 3, expected a string"),
        ((["a", "\udcff"],), ValueError, r"texts\[1\] is '\\udcff', which is no Unicode text"),
        ((["a"], 3), TypeError, "normalize is 3"),
        ((["a"], None, 0), ValueError, "truncate_dim is 0, expected at least 1"),
        ((["a"], None, 13), ValueError, "truncate_dim is 13, expected at most 12"),
        ((["a"], None, None, 3), TypeError, "prompt is 3, expected a string"),
        ((["a"], None, None, "\udcff"), ValueError, "prompt is .* which is no Unicode text"),
    ],
)
def test_arguments_are_checked(arguments, error, says):
    with pytest.raises(error, match=f"encode: {says}"):
        pt.SentenceEncoder(own_encoder()).encode(*arguments)


def test_other_refusals():
    encoder = pt.SentenceEncoder(own_encoder())
    with pytest.raises(ValueError, match="encode: max_batch_tokens is 0, expected at least 1"):
        encoder.encode(["a"], max_batch_tokens=0)
    with pytest.raises(ValueError, match="SentenceEncoder: pooling is 'sum', expected one of"):
        pt.SentenceEncoder(own_encoder(), pooling="sum")
    short = pt.SentenceEncoder(own_encoder(positions="learned", max_length=3))
    with pytest.raises(ValueError, match=r"encode: texts\[1\] has 4 tokens, expected at most 3"):
        short.encode(["a", "a b c d"])
    for name in ("en-ja",):
        says = "SentenceEncoder: model is a Transformer, expected an EncoderModel or a "
        with pytest.raises(TypeError, match=f"{says}TransformerLM; Translator is for those"):
            pt.SentenceEncoder(name)
    bare = own_encoder()
    bare.src_tokenizer = None
    with pytest.raises(ValueError, match="SentenceEncoder: model has no src_tokenizer"):
        pt.SentenceEncoder(bare)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pt.SentenceEncoder("nowhere")
