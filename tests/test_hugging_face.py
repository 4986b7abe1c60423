"""Opening directories in Hugging Face's layout: shards, tied copies, and what is refused."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import safetensors.numpy
from models import assert_same_bits

import pyx_transformer as pt

FAMILIES = (
    "albert, bart, bert, distilbert, gemma2, gpt2, gpt_neox, llama, m2m_100, marian, mbart, "
    "mistral, modernbert, mpnet, mt5, qwen2, qwen3, roberta, t5, umt5, xlm-roberta"
)


def write(folder, config=None, tensors=None):
    """Write what is given in place of what is there."""
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def refusal(folder):
    """What `load` says of a folder that it refuses; nothing else may be raised or warned of."""
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"^load: ") as refused:
        warnings.simplefilter("error")
        pt.load(folder)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 1500
    return said.replace(str(folder), "FOLDER")


def assert_same_models(one, other):
    assert one.config == other.config
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    for key, array in one.state_dict().items():
        assert_same_bits(array, state[key])


def test_families_load_on_first_use():
    code = """
import sys
import pyx_transformer as pt

pt.load("en-ja")
names = ("families", "hugging_face", "pytorch")
assert not {f"pyx_transformer.checkpoints.{name}" for name in names} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Containers.


def split(folder, tensors, count=3):
    """The tensors in so many files with an index in place of the one."""
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(count):
        name = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[i::count])
        safetensors.numpy.save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    return weight_map


def test_shards(copied):
    folder, _, tensors = copied("llama")
    whole = pt.load(folder)
    index = {"metadata": {"total_size": 1}, "weight_map": split(folder, tensors)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_models(pt.load(folder), whole)


@pytest.mark.parametrize("name", ["../model.safetensors", "a/b.safetensors", "..", "", 3, None])
def test_an_index_names_files_beside_it(name, copied):
    folder, _, tensors = copied("llama")
    weight_map = split(folder, tensors)
    weight_map[next(iter(weight_map))] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "expected files beside it" in refusal(folder)


def test_an_index_without_its_tensors(copied):
    folder, _, tensors = copied("llama")
    weight_map = split(folder, tensors)
    index = folder / "model.safetensors.index.json"
    for text, says in {
        json.dumps({"weight_map": {**weight_map, "more": weight_map["model.norm.weight"]}}): (
            "names what is missing: more in model-"
        ),
        "{}": "weight_map is missing",
        '{"weight_map": 3}': "weight_map is 3, expected a table",
        "[": "text is not JSON",
    }.items():
        index.write_text(text)
        assert says in refusal(folder)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / weight_map["model.norm.weight"]).unlink()
    with pytest.raises(FileNotFoundError, match=weight_map["model.norm.weight"]):
        pt.load(folder)


@pytest.mark.parametrize(
    ("dtype", "change"),
    [("F16", lambda a: a.astype(np.float16)), ("F64", lambda a: a.astype(np.float64))],
)
def test_other_dtypes(dtype, change, copied):
    folder, _, tensors = copied("bert")
    changed = {name: change(array) for name, array in tensors.items()}
    write(folder, tensors=changed)
    state = pt.load(folder).state_dict()
    expected = changed["embeddings.word_embeddings.weight"].astype(np.float32)
    assert_same_bits(state["src_embedding.weight"], expected)


# Weights that are tied, or may be.


def test_a_copy_of_a_tied_weight_changes_nothing(copied):
    folder, _, tensors = copied("gpt2")
    before = pt.load(folder)
    write(folder, tensors={**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})
    assert_same_models(pt.load(folder), before)


def test_copies_that_differ_are_used_as_they_are(copied):
    folder, _, tensors = copied("gpt2")
    other = tensors["transformer.wte.weight"][::-1].copy()
    write(folder, tensors={**tensors, "lm_head.weight": other})
    with pytest.warns(UserWarning, match="lm_head.weight differs from wte.weight"):
        model = pt.load(folder)
    assert not model.config.tie_output
    assert_same_bits(model.output_projection.weight, other)


def test_sides_of_their_own(copied):
    """Marian's newer models have embeddings of their own on each side."""
    folder, config, tensors = copied("marian")
    table = tensors.pop("model.shared.weight")
    config |= {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}
    for i, name in enumerate(("model.encoder.embed_tokens", "model.decoder.embed_tokens")):
        tensors[f"{name}.weight"] = table + np.float32(i)
    tensors["lm_head.weight"] = table - np.float32(1)
    write(folder, config, tensors)
    model = pt.load(folder)
    assert not model.config.share_embeddings and not model.config.tie_output
    state = model.state_dict()
    assert_same_bits(state["src_embedding.weight"], table)
    assert_same_bits(state["tgt_embedding.weight"], table + np.float32(1))
    assert_same_bits(state["output_projection.weight"], table - np.float32(1))


# Configs.


def test_the_family_is_known(copied):
    folder, config, _ = copied("bert")
    for kind in ("whisper", "", 3, None, ["bert"]):
        write(folder, {**config, "model_type": kind})
        said = refusal(folder)
        assert said.startswith("load: FOLDER/config.json: model_type is ")
        assert said.endswith(f", expected one of {FAMILIES}")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bert", "hidden_size"),
        ("bert", "vocab_size"),
        ("bert", "layer_norm_eps"),
        ("bert", "hidden_act"),
        ("distilbert", "n_heads"),
        ("albert", "embedding_size"),
        ("gpt2", "n_layer"),
        ("gpt_neox", "intermediate_size"),
        ("llama", "num_attention_heads"),
        ("gemma2", "query_pre_attn_scalar"),
        ("marian", "encoder_layers"),
        ("t5", "d_kv"),
        ("modernbert", "local_attention"),
    ],
)
def test_values_are_checked(name, key, copied):
    folder, config, _ = copied(name)
    del config[key]
    write(folder, config)
    assert refusal(folder) == f"load: FOLDER/config.json: {key} is missing"
    for value in (-1, "many", [], {}):
        write(folder, {**config, key: value})
        assert refusal(folder).startswith(f"load: FOLDER/config.json: {key} is ")


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is"),
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish', expected one of"),
        ("bert", {"num_attention_heads": 5}, "num_heads"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ("llama", {"rope_parameters": 3}, "rope_parameters is 3, expected a table"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 3"),
        ("qwen2", {"layer_types": ["x"] * 3}, "layer_types is 'x', expected one of"),
        ("marian", {"normalize_before": True}, "normalize_before is True, expected False"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups is 2, expected 1"),
        ("bert", {"hidden_size": 1 << 20}, "numbers, expected"),
    ],
)
def test_what_cannot_be_read_is_refused(name, changes, says, copied):
    folder, config, _ = copied(name)
    write(folder, {**config, **changes})
    assert says in refusal(folder)


# Tensors.


def test_all_that_is_missing_or_misshapen_is_told(copied):
    folder, _, tensors = copied("bert")
    for name in ("encoder.layer.1.output.dense.weight", "encoder.layer.2.attention.self.key.bias"):
        del tensors[name]
    name = "encoder.layer.0.intermediate.dense.weight"
    tensors[name] = tensors[name][:-1].copy()
    write(folder, tensors=tensors)
    said = refusal(folder)
    assert said.startswith("load: FOLDER/model.safetensors: missing: encoder.layer.1.output.dense.")
    assert "encoder.layer.2.attention.self.key.bias" in said
    assert f"misshapen: {name} is (95, 48), expected (96, 48)" in said


def test_tensors_without_a_place_are_told(copied):
    folder, _, tensors = copied("bert")
    more = {"extra.weight": np.ones(3, np.float32), "embeddings.position_ids": np.arange(66)}
    write(folder, tensors={**tensors, **more})
    with pytest.warns(UserWarning, match=r"these tensors are not used: extra\.weight$"):
        pt.load(folder)


def test_weights_that_are_not_finite_are_told(copied):
    folder, _, tensors = copied("bert")
    tensors["pooler.dense.bias"][3] = np.nan
    write(folder, tensors=tensors)
    with pytest.warns(UserWarning, match=r"pooler\.dense\.bias holds values that are not finite"):
        pt.load(folder)


# Heads.


def test_labels(shared_data):
    head = pt.load(shared_data / "hf-tiny/bert_classifier").config.head
    assert head.labels == ("no", "maybe", "yes") and not head.of_tokens
    head = pt.load(shared_data / "hf-tiny/bert_tagger").config.head
    assert head.labels == tuple(f"LABEL_{i}" for i in range(5)) and head.of_tokens
    head = pt.load(shared_data / "hf-tiny/distilbert_classifier").config.head
    assert head.labels == ("LABEL_0", "LABEL_1")


def test_labels_that_do_not_fit(copied):
    folder, config, _ = copied("bert_classifier")
    for labels in ({"0": "a"}, {"a": "0", "b": "1", "c": "2"}, 3, []):
        write(folder, {**config, "id2label": labels})
        assert "id2label" in refusal(folder)


# Generation.


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("marian", {}, None),
        ("marian", {"num_beams": 1, "max_length": 40, "min_length": 5}, (39, 4)),
        (
            "marian",
            {"num_beams": 6, "length_penalty": 0.6, "bad_words_ids": [[179], [3, 4]]},
            {
                "beam_size": 6,
                "early_stopping": False,
                "length_penalty": 0.6,
                "suppress_tokens": (179,),
                "suppress_sequences": ((3, 4),),
            },
        ),
        (
            "bart",
            {
                "num_beams": 4,
                "early_stopping": True,
                "no_repeat_ngram_size": 3,
                "forced_bos_token_id": 0,
                "forced_eos_token_id": 2,
                "max_length": 142,
                "max_new_tokens": 20,
                "suppress_tokens": [5],
            },
            {
                "beam_size": 4,
                "no_repeat_ngram_size": 3,
                "first_token": 0,
                "last_token": 2,
                "max_length": 19,
                "suppress_tokens": (5,),
            },
        ),
        (
            "llama",
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 7]},
            {"temperature": 0.6, "top_p": 0.9, "end_tokens": (2, 7)},
        ),
        ("llama", {"do_sample": True, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
        ("llama", {"temperature": 0.6, "max_length": 4096}, None),
        ("llama", {"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ("llama", {"forced_eos_token_id": [7]}, {"last_token": 7}),
    ],
)
def test_options(name, theirs, ours, copied):
    folder, _, _ = copied(name)
    (folder / "generation_config.json").write_text(json.dumps(theirs))
    if isinstance(ours, tuple):
        ours = dict(zip(("max_length", "min_length"), ours, strict=True))
    expected = None if ours is None else pt.GenerationOptions(**ours)
    assert pt.load(folder).generation_options == expected


def test_options_of_files_without_their_own(copied):
    folder, config, _ = copied("marian")
    write(folder, {**config, "num_beams": 4, "max_length": 30})
    options = pt.load(folder).generation_options
    assert (options.beam_size, options.max_length) == (4, 29)


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": "4"}, "num_beams is '4'"),
        ({"repetition_penalty": -1}, "repetition_penalty is -1"),
        ({"no_repeat_ngram_size": []}, "no_repeat_ngram_size is"),
        ({"suppress_tokens": ["a"]}, "suppress_tokens[0] is 'a'"),
        ({"suppress_tokens": 3}, "suppress_tokens is 3, expected a list"),
        ({"bad_words_ids": 3}, "bad_words_ids is 3, expected a list"),
        ({"bad_words_ids": [[3], 4]}, "bad_words_ids[1] is 4"),
        ({"forced_bos_token_id": -3}, "forced_bos_token_id is -3"),
        ({"forced_eos_token_id": -3}, "forced_eos_token_id is -3"),
        ({"forced_eos_token_id": [True]}, "forced_eos_token_id is True"),
        ({"forced_eos_token_id": []}, "forced_eos_token_id is [], expected one token id"),
        ({"forced_eos_token_id": [2, 7]}, "forced_eos_token_id is [2, 7], expected one token id"),
        ([], "is a list, expected an object"),
    ],
)
def test_options_are_checked(theirs, says, copied):
    folder, _, _ = copied("marian")
    (folder / "generation_config.json").write_text(json.dumps(theirs))
    said = refusal(folder)
    assert said.startswith("load: FOLDER/generation_config.json: ") and says in said


def test_a_first_token_is_a_prefix(copied, shared_data):
    folder, _, _ = copied("mbart")
    expected = np.load(shared_data / "hf-tiny/mbart/expected.npz")
    src, lengths = expected["input_ids"], expected["attention_mask"].sum(axis=1)
    plain = pt.load(folder)
    theirs = {"forced_bos_token_id": 11, "forced_eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(theirs))
    model = pt.load(folder)
    forced = model.generate(src, lengths, max_length=6)
    prefixed = plain.generate(src, lengths, max_length=6, prefix=[[11]] * len(src))
    own = model.generate(src, lengths, max_length=6, prefix=[[12]] * len(src))
    for one, other, last in zip(forced.sequences, prefixed.sequences, own.sequences, strict=True):
        assert one.tolist() == other.tolist()
        assert (one[0], last[0]) == (11, 12)
    for first in (0, 3):
        with pytest.raises(ValueError, match=f"first_token is {first}, expected none because a la"):
            pt.load(shared_data / "hf-tiny/llama").generate([[3]], first_token=first)


# A last token, beside transformers itself.


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="needs PyTorch to run transformers", exc_type=ImportError)
    return pytest.importorskip("transformers", reason="needs transformers to compare with")


def their_hypotheses(transformers, folder, ids, lengths, has_encoder):
    """What transformers makes of the folder: ids behind the start or prompt, and scores or None."""
    kind = "AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, kind).from_pretrained(folder)
    tensor = model.dummy_inputs["input_ids"].new_tensor
    found = model.generate(
        input_ids=tensor(ids),
        attention_mask=tensor(np.arange(ids.shape[1]) < np.array(lengths)[:, None]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = getattr(found, "sequences_scores", None)
    begin = 1 if has_encoder else ids.shape[1]
    return found.sequences.numpy()[:, begin:], None if scores is None else scores.numpy()


# Beside the end of its config: one that some of a model's hypotheses come to before the limit.
SECOND_ENDS = {"bart": 38, "marian": 56, "mbart": 75, "m2m_100": 33, "gpt2": 44, "llama": 60}


@pytest.mark.parametrize("last", ["end", "other"])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", SECOND_ENDS)
def test_a_last_token_as_in_transformers(name, beams, last, transformers, copied, shared_data):
    """At a limit that cuts: ids and scores of all beams. mBART's targets have a first token too."""
    folder, config, _ = copied(name)
    expected = np.load(shared_data / "hf-tiny" / name / "expected.npz")
    ids, has_encoder = expected["input_ids"], "decoder_input_ids" in expected
    lengths = expected.get("attention_mask", np.ones_like(ids)).sum(axis=1)
    ends = [config["eos_token_id"], SECOND_ENDS[name]]
    first = 7 if name == "mbart" else None
    theirs = {
        "forced_bos_token_id": first,
        "forced_eos_token_id": ends[0] if last == "end" else 9,
        "eos_token_id": ends,
        "pad_token_id": ends[0],
        "decoder_start_token_id": config.get("decoder_start_token_id") or 2,
        "num_beams": beams,
        "num_return_sequences": beams,
        "length_penalty": 0.6,
        "max_new_tokens": 7,
    }
    (folder / "generation_config.json").write_text(json.dumps(theirs))
    wanted, scores = their_hypotheses(transformers, folder, ids, lengths, has_encoder)
    inputs = (ids, lengths) if has_encoder else (ids,)
    found = pt.load(folder).generate(*inputs, num_hypotheses=beams, return_scores=True)
    begin = 0 if has_encoder else ids.shape[1]
    ours = [one for own in found.hypotheses for one in own]
    counts = [next((i for i, v in enumerate(row) if v in ends), 7) for row in wanted]
    for one, row, count in zip(ours, wanted, counts, strict=True):
        assert one.sequence[begin:].tolist() == row[:count].tolist()
        assert one.is_finished == (count < 7)
        assert count < 6 or row[6] == theirs["forced_eos_token_id"]
    assert max(counts) == (6 if last == "end" else 7)
    if beams > 1:
        assert min(counts) < 6
        np.testing.assert_allclose([one.score for one in ours], scores, rtol=0, atol=1e-4)
