"""Every option of generation: what it takes, what it refuses, and what its callbacks see and do.

Whether the searches themselves are right is seen in test_search; here options are asked one by one.
"""

from collections import defaultdict
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import reference
from models import (
    assert_same_bits,
    assert_same_hypotheses,
    small_config,
    small_model,
    token_ids,
)
from test_generation import lively_model, with_end

import pyx_transformer as pt

RNG = np.random.default_rng(0)
V, START, END = 19, 1, 2
LENGTHS = [9, 4, 1, 7]
SRC = token_ids(RNG, V, 4, 9)
# Distances between logits that leave every token a chance.
MODEL = lively_model(norm_first=True, final_norm=True)
SETTINGS = {
    "greedy": {},
    "beams": {"beam_size": 4, "num_hypotheses": 3, "early_stopping": False},
    "samples": {"num_samples": 3, "seed": 5, "temperature": 2.0},
    "alternatives": {"num_hypotheses": 3, "return_alternatives": True, "beam_size": 2},
}
ASKED_FOR = {"return_scores": True, "return_token_scores": True, "return_attention": True}
each_setting = pytest.mark.parametrize("setting", SETTINGS)
NAMES = {field.name for field in fields(pt.GenerationOptions)}


def generate(src=SRC, src_lengths=LENGTHS, model=MODEL, **options):
    return model.generate(src, src_lengths, **{"max_length": 6, **options})


def as_lists(generation):
    return [[one.sequence.tolist() for one in own] for own in generation.hypotheses]


def test_these_tests_can_fail():
    """The model's sentences differ, some end and some do not."""
    found = generate(max_length=20, **SETTINGS["samples"])
    assert len({tuple(row) for own in as_lists(found) for row in own}) > 8
    assert 0 < sum(one.is_finished for own in found.hypotheses for one in own) < 12


# Wrong kinds and values.

OPTIONAL = {field.name for field in fields(pt.GenerationOptions) if field.default is None}
LEAST = {
    "beam_size": 1,
    "num_hypotheses": 1,
    "max_length": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "first_token": 0,
    "start_token": 0,
    "last_token": 0,
    "top_k": 1,
    "num_samples": 1,
    "seed": 0,
    "max_batch_tokens": 1,
}
NUMBERS = {
    "max_length_factor": [0, -1.5],
    "max_length_offset": [],
    "length_penalty": [],
    "patience": [0, -1.0],
    "coverage_penalty": [-1e-9],
    "repetition_penalty": [0.0, -2],
    "prefix_bias": [-0.1, 1, 1.5],
    "temperature": [-0.5, -1.0],
    "top_p": [0.0, 1.01, -1],
    "min_p": [-0.01, 1.01],
}
FLAGS = ["return_scores", "return_token_scores", "return_attention", "return_alternatives"]
FUNCTIONS = ["logits_processor", "constraint", "on_token", "stop_when"]
NOT_INTEGERS = ["4", 4.0, np.float32(4), True, 4j, [4], np.array([4])]
NOT_NUMBERS = ["1", 1j, True, [1.0], np.ones(2)]
NOT_FLAGS = [None, 1, 0, "yes", np.ones(3, bool), []]
NOT_TOKENS = ["34", [1.5], [True], {3, 4}, [None]]
NOT_SEQUENCES = ["34", 3, ["34"], [[1.5]], [[True]], [None]]
WRONG_KINDS = {
    **dict.fromkeys(LEAST, NOT_INTEGERS),
    **dict.fromkeys(NUMBERS, NOT_NUMBERS),
    **dict.fromkeys(FLAGS, NOT_FLAGS),
    **{name: [3, "print", [print]] for name in FUNCTIONS},
    "early_stopping": [1, 0.0, [], np.array([True, False])],
    "suppress_tokens": [*NOT_TOKENS, None],
    "end_tokens": NOT_TOKENS,
    "suppress_sequences": [*NOT_SEQUENCES, None],
    "prefix": NOT_SEQUENCES,
}
WRONG_VALUES = {
    **{name: [least - 1, -(2**70)] for name, least in LEAST.items()},
    **{name: [*wrong, np.nan, np.inf, -np.inf, 1e39] for name, wrong in NUMBERS.items()},
    "early_stopping": ["", "always", "Never"],
    "suppress_tokens": [3, [-1], [3, -(2**60)], [2**63], [[3, 4]], [[3], 4]],
    "end_tokens": [3, [-1], [2**62], [], [[3, 4]], [[3], 4]],
    "suppress_sequences": [[3], [[-1]], [[3], []], [[2**63]], [[[3], 4]]],
    "prefix": [[3], [[-1]] * 4, [[2**63]] * 4, [[[3], 4]]],
}
for name in ("early_stopping", *LEAST, *NUMBERS):
    if name not in OPTIONAL:
        WRONG_KINDS[name] = [*WRONG_KINDS[name], None]


def assert_refused(name, value, error):
    """One error on one line, of that type, naming the option and whoever was called."""
    for who, call in {
        "GenerationOptions": lambda: pt.GenerationOptions(**{name: value}),
        "Transformer.generate": lambda: MODEL.generate(SRC, **{name: value}),
    }.items():
        with pytest.raises(error) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"{who}: {name}"), message
        assert "expected" in message or "not a regular array" in message, message
        assert "\n" not in message


def test_every_option_is_here():
    assert set(WRONG_KINDS) == NAMES
    assert NAMES - set(WRONG_VALUES) == {*FLAGS, *FUNCTIONS}


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_wrong_kinds(name):
    for value in WRONG_KINDS[name]:
        assert_refused(name, value, TypeError)


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values(name):
    for value in WRONG_VALUES[name]:
        assert_refused(name, value, ValueError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hypotheses": 2}, "num_hypotheses is 2, expected at most beam_size = 1"),
        (
            {"num_hypotheses": 4, "beam_size": 3},
            "num_hypotheses is 4, expected at most beam_size = 3",
        ),
        ({"min_length": 4, "max_length": 3}, "min_length is 4, expected at most max_length = 3"),
        (
            {"max_length_offset": 2},
            "max_length_offset is 2.0, expected 0 because there is no max_length_factor",
        ),
        ({"prefix_bias": 0.5}, "prefix_bias is 0.5, expected 0 because there is no prefix"),
        *(
            (
                {"beam_size": 2, name: value},
                "beam_size is 2, expected 1 because a sampling option is given",
            )
            for name, value in {
                "temperature": 1.0,
                "top_k": 3,
                "top_p": 1.0,
                "min_p": 0.0,
                "num_samples": 1,
                "seed": 0,
            }.items()
        ),
        (
            {"return_alternatives": True, "seed": 1},
            "return_alternatives is True, expected False because a sampling option is given",
        ),
        ({"on_token": print, "num_samples": 2}, "on_token is "),
        ({"on_token": print, "return_alternatives": True, "num_hypotheses": 2}, "on_token is "),
    ],
    ids=str,
)
def test_contradictions(settings, message):
    for who, call in {
        "GenerationOptions": lambda: pt.GenerationOptions(**settings),
        "Transformer.generate": lambda: generate(**settings),
    }.items():
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(f"{who}: {message}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 20}, "beam_size is 20, expected at most the 19 tokens of the vocabulary"),
        (
            {"return_alternatives": True, "num_hypotheses": 20},
            "num_hypotheses is 20, expected at most the 19 tokens of the vocabulary",
        ),
        ({"suppress_tokens": range(V)}, "suppress_tokens holds all 19 tokens, expected at least"),
        ({"suppress_tokens": [3, 19]}, "suppress_tokens holds 19, expected token ids below 19"),
        ({"end_tokens": [19]}, "end_tokens holds 19, expected token ids below 19"),
        ({"last_token": 19}, "last_token is 19, expected a token id below 19"),
        (
            {"suppress_sequences": [[3], [4, 50, 3]]},
            "suppress_sequences[1] holds 50, expected token ids below 19",
        ),
        ({"prefix": [[], [3], [19], []]}, "prefix[2] holds 19, expected token ids below 19"),
        ({"prefix": [[], [3], [3, END], []]}, "prefix[2] holds 2, expected no end token"),
        (
            {"prefix": [[], [3], [3, END], [5]], "end_tokens": [4, 5]},
            "prefix[3] holds 5, expected no end token",
        ),
        ({"prefix": [[3]]}, "prefix has 1 sequences, expected 4 because src is (4, 9)"),
        ({"prefix": []}, "prefix has 0 sequences, expected 4 because src is (4, 9)"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(settings, message):
    with pytest.raises(ValueError) as error:
        generate(**settings)
    assert str(error.value).startswith(f"Transformer.generate: {message}")


def test_learned_positions_have_an_end():
    model = small_model(positions="learned", max_length=9)
    for settings, message in (
        ({"max_length": 10}, "max_length is 10"),
        ({"prefix": [[3]] * 4, "max_length": 9}, "prefix and max_length together are 10"),
        (
            {"prefix": [[], [3] * 10, [], []], "max_length": None},
            "the longest prefix has length 10",
        ),
    ):
        with pytest.raises(ValueError) as error:
            generate(model=model, **settings)
        assert str(error.value) == (
            f"Transformer.generate: {message}, expected at most the config's max_length = 9 "
            "because positions are learned"
        )
    found = generate(model=model, prefix=[[3] * 5] * 4, max_length=None, suppress_tokens=[END])
    assert [len(row) for row in found] == [9] * 4
    # A prefix that is not forced takes no places of its own.
    generate(model=model, prefix=[[3] * 10] * 4, prefix_bias=0.5, max_length=9)
    with pytest.raises(ValueError, match=r"^Transformer\.generate: min_length is 10, expected"):
        generate(model=model, min_length=10, max_length=None)


# Extreme values that are no mistakes.


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", (1e4, -1e4, 3e38, -3e38))
def test_extreme_length_penalties(penalty):
    """There is only one hypothesis to choose."""
    expected = as_lists(generate(length_penalty=0.0))
    assert as_lists(generate(length_penalty=penalty)) == expected
    generate(length_penalty=penalty, beam_size=3, early_stopping=False, return_scores=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", (1e-9, 1e-30, 1e-40, 1e-300))
def test_the_lowest_temperatures_are_greedy(temperature):
    assert as_lists(generate(temperature=temperature)) == as_lists(generate())


@pytest.mark.filterwarnings("error")
def test_extreme_penalties_of_repetition():
    """What is there already comes never again, or always, if its logit is positive."""
    for own in as_lists(generate(repetition_penalty=3e38, prefix=[[3]] * 4)):
        assert len(set(own[0])) == 7 or END in own[0]
    for penalty in (1e-30, 1e-40, 1e-300):
        generate(repetition_penalty=penalty)


@pytest.mark.parametrize("max_length", (10**9, 2**70))
@each_setting
def test_a_length_that_is_not_reached(max_length, setting):
    found = generate(
        max_length=max_length, **SETTINGS[setting], stop_when=lambda _, ids: len(ids) == 5
    )
    assert all(len(row) <= 5 for own in as_lists(found) for row in own)


@pytest.mark.parametrize("beam_size", (V, V - 1))
def test_as_many_beams_as_tokens(beam_size):
    found = generate(beam_size=beam_size, num_hypotheses=beam_size, max_length=3)
    for own in as_lists(found):
        assert len(own) == beam_size
        assert len({tuple(row) for row in own}) == beam_size


# Options as an object.


def test_options_cannot_change():
    with pytest.raises(FrozenInstanceError):
        pt.GenerationOptions().beam_size = 2


def test_defaults():
    """Greedy, and nothing else asked for."""
    found = MODEL.generate(SRC, LENGTHS)
    alike = MODEL.generate(SRC, LENGTHS, options=pt.GenerationOptions(), max_length=256)
    assert as_lists(alike) == as_lists(found)
    for name in ("scores", "token_scores", "attention"):
        assert getattr(found, name) is None
    for own in found.hypotheses:
        assert len(own) == 1
        assert (own[0].score, own[0].token_scores, own[0].attention) == (None, None, None)


def test_single_settings_change_given_options():
    options = pt.GenerationOptions(beam_size=3, max_length=4, num_hypotheses=2)
    expected = as_lists(generate(beam_size=3, max_length=5, num_hypotheses=3))
    found = MODEL.generate(SRC, LENGTHS, options=options, max_length=5, num_hypotheses=3)
    assert as_lists(found) == expected
    assert options == pt.GenerationOptions(beam_size=3, max_length=4, num_hypotheses=2)
    with pytest.raises(ValueError, match=r"^Transformer\.generate: num_hypotheses is 2, expected"):
        MODEL.generate(SRC, options=options, beam_size=1)


def test_a_model_s_own_options():
    """Single settings change them; given options take their place."""
    model = lively_model(norm_first=True, final_norm=True)
    model.generation_options = pt.GenerationOptions(beam_size=3, num_hypotheses=2, max_length=4)
    found = model.generate(SRC, LENGTHS, max_length=5)
    assert as_lists(found) == as_lists(generate(beam_size=3, num_hypotheses=2, max_length=5))
    found = model.generate(SRC, LENGTHS, options=pt.GenerationOptions(max_length=5))
    assert as_lists(found) == as_lists(generate(max_length=5))


@pytest.mark.parametrize("options", [{}, {"beam_size": 2}, "greedy", 3], ids=repr)
def test_what_is_no_options(options):
    with pytest.raises(TypeError) as error:
        MODEL.generate(SRC, options=options)
    assert str(error.value) == (
        f"Transformer.generate: options is {options!r}, expected GenerationOptions"
    )


def test_unknown_options():
    with pytest.raises(TypeError) as error:
        MODEL.generate(SRC, LENGTHS, beams=3, beam_size=2, Temperature=1.0)
    assert str(error.value).startswith(
        "Transformer.generate: unknown options ['Temperature', 'beams'] (did you mean temperature, "
        "beam_size?); known are ['beam_size', "
    )
    with pytest.raises(TypeError):
        MODEL.generate(SRC, LENGTHS, 3)


def test_numbers_of_numpy():
    options = pt.GenerationOptions(
        beam_size=np.int8(3), patience=np.float32(2), suppress_tokens=np.array([3, 4], "u1")
    )
    assert options == pt.GenerationOptions(beam_size=3, patience=2.0, suppress_tokens=(3, 4))
    assert type(options.beam_size) is int
    assert type(options.patience) is float
    assert pt.GenerationOptions(early_stopping=np.False_).early_stopping is False
    assert hash(options) == hash(pt.GenerationOptions(**vars(options)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beam_size": 4, "num_hypotheses": 2, "early_stopping": "never", "patience": 1.5},
        {"early_stopping": False, "beam_size": 2, "length_penalty": 0.1 + 0.2},
        {"suppress_sequences": [[3, 4], [5]], "suppress_tokens": [4], "end_tokens": [2, 9]},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.0, "seed": 2**100},
        {"max_length": 0, "max_batch_tokens": 1, "return_scores": True},
        {"first_token": 3, "last_token": 0},
    ],
    ids=str,
)
def test_json_goes_round(settings):
    options = pt.GenerationOptions(**settings)
    text = options.to_json()
    assert text.endswith("\n")
    assert all(f'"{name}"' in text for name in settings)
    assert pt.GenerationOptions.from_json(text) == options


def test_options_of_one_call_have_no_json():
    for settings in ({"prefix": [[3]]}, *({name: print} for name in FUNCTIONS)):
        with pytest.raises(ValueError) as error:
            pt.GenerationOptions(**settings).to_json()
        assert str(error.value).startswith(
            f"GenerationOptions.to_json: {next(iter(settings))} set, expected none of them"
        )


# Callbacks.


class Stop(Exception):
    pass


@each_setting
@pytest.mark.parametrize("error", [Stop("here"), KeyboardInterrupt(), StopIteration()], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_callbacks_raise_reaches_the_caller(name, error, setting):
    settings = SETTINGS[setting]
    if name == "on_token":
        settings = {k: v for k, v in settings.items() if k not in ("num_samples", "num_hypotheses")}
    expected = generate(**settings, **ASKED_FOR).hypotheses
    calls = []

    def callback(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error

    with pytest.raises(type(error)) as caught:
        generate(**settings, **{name: callback})
    assert caught.value is error
    assert len(calls) == 3
    again = generate(**settings, **ASKED_FOR).hypotheses
    for own, wanted in zip(again, expected, strict=True):
        assert_same_hypotheses(own, wanted)


@each_setting
@pytest.mark.parametrize("most", (None, 1, 11))
def test_sentences_have_the_caller_s_numbers(setting, most):
    """Also where they are sorted by length, and empty ones left out."""
    settings = {**SETTINGS[setting], "max_batch_tokens": most, "suppress_tokens": [END]}
    lengths = [4, 0, 1, 9]
    asked = set()

    def constraint(sentence, tokens):
        assert type(sentence) is int
        assert tokens.dtype == np.int64
        return [3 + sentence, 10 + len(tokens)]

    def stop_when(sentence, tokens):
        asked.add(sentence)
        assert set(tokens.tolist()) <= {3 + sentence, *range(10, 10 + len(tokens))}
        tokens[:] = 0  # its own
        return len(tokens) == 2 + sentence

    found = generate(SRC, lengths, constraint=constraint, stop_when=stop_when, **settings)
    assert asked == {0, 2, 3}
    for b, own in enumerate(as_lists(found)):
        for row in own:
            assert set(row) <= {3 + b, *range(10, 10 + len(row))}
            assert len(row) == (2 + b if lengths[b] else 0)


def test_parts_are_the_same_to_the_bit():
    lengths = [9, 0, 4, 7]
    for settings in SETTINGS.values():
        expected = generate(SRC, lengths, **settings, **ASKED_FOR).hypotheses
        for most in (1, 9, 11, 16, 10**9):
            found = generate(SRC, lengths, **settings, **ASKED_FOR, max_batch_tokens=most)
            for own, wanted in zip(found.hypotheses, expected, strict=True):
                assert_same_hypotheses(own, wanted)


def ban(token):
    def changed(logits):
        logits = logits.copy()
        logits[:, token] = -np.inf
        return logits

    return changed


@each_setting
@pytest.mark.parametrize("kind", ("in place", "new", "float64", "read-only", "strided", "list"))
def test_what_a_logits_processor_returns(kind, setting):
    token = generate(max_length=1, suppress_tokens=[END])[0][0]
    expected = generate(suppress_tokens=[token], **SETTINGS[setting])
    seen = []

    def processor(logits):
        seen.append(logits.shape)
        assert logits.dtype == np.float32
        changed = ban(token)(logits)
        if kind == "in place":
            logits[:] = changed
            return None
        if kind == "float64":
            return changed.astype(">f8")
        if kind == "strided":
            return np.repeat(changed, 2, axis=1)[:, ::2]
        if kind == "list":
            return changed.tolist()
        changed.flags.writeable = kind != "read-only"
        return changed

    assert as_lists(generate(logits_processor=processor, **SETTINGS[setting])) == as_lists(expected)
    assert all(shape[1] == V for shape in seen)
    assert seen[0][0] in (4, 12)  # one row per sentence, or per sample


@pytest.mark.parametrize(
    "settings",
    [
        {"suppress_tokens": [3]},
        {"min_length": 2},
        {"temperature": 0.5},
        {"repetition_penalty": 2.0, "prefix": [[3]]},
        {"constraint": lambda sentence, tokens: [4]},
        {"prefix": [[3]], "prefix_bias": 0.5},
    ],
    ids=str,
)
def test_what_a_logits_processor_keeps_is_not_written_to(settings):
    table = RNG.standard_normal((1, V)).astype(np.float32)
    before = table.copy()
    generate(SRC[:1], LENGTHS[:1], logits_processor=lambda logits: table, **settings)
    assert_same_bits(table, before)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (np.zeros((3, V)), ValueError, "has shape (3, 19), expected (4, 19)"),
        (np.zeros((4, V + 1)), ValueError, "has shape (4, 20), expected (4, 19)"),
        (np.zeros(V), ValueError, "has shape (19,), expected (4, 19)"),
        (0.0, ValueError, "has shape (), expected (4, 19)"),
        (np.zeros((4, V), complex), TypeError, "has dtype complex128, expected real numbers"),
        ("logits", TypeError, "has dtype <U6, expected real numbers"),
        ([[1.0], [2.0, 3.0]], ValueError, "is not a regular array"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_a_logits_processor_cannot_return(result, error, message):
    with pytest.raises(error) as caught:
        generate(logits_processor=lambda logits: result)
    assert f"generate: logits_processor's result {message}" in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [list, tuple, set, iter, np.array, lambda ids: np.array(ids, ">i2"), dict.fromkeys],
    ids=lambda kind: getattr(kind, "__name__", "dict"),
)
def test_what_a_constraint_returns(kind):
    found = generate(constraint=lambda sentence, tokens: kind([3 + sentence, 7]))
    for b, own in enumerate(as_lists(found)):
        assert set(own[0]) <= {3 + b, 7}
        assert len(own[0]) == 6
    assert as_lists(generate(constraint=lambda *_: None)) == as_lists(generate())


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ([V], ValueError),
        ([3, -1], ValueError),
        ([2**70], (TypeError, ValueError)),
        ([3.7], TypeError),
        (np.ones(V, bool), TypeError),
        ([[3], [4]], ValueError),
        ([[3], [4, 5]], ValueError),
        ("34", TypeError),
        (["a"], TypeError),
        ([None], TypeError),
        (3, TypeError),
        (True, TypeError),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_a_constraint_cannot_return(result, error):
    with pytest.raises(error) as caught:
        generate(constraint=lambda sentence, tokens: result)
    message = str(caught.value)
    assert "generate: constraint's result" in message
    assert "expected" in message or "not a regular array" in message
    assert "\n" not in message


@each_setting
def test_stop_when(setting):
    """The tokens so far, the prefix first; what it stops is finished, without an end."""
    settings = {**SETTINGS[setting], "suppress_tokens": [END]}
    seen = defaultdict(list)

    def stop_when(sentence, tokens):
        seen[sentence].append(tokens.tolist())
        return len(tokens) == 5

    prefix = [[3], [3, 4], [5], []]
    found = generate(prefix=prefix, stop_when=stop_when, max_length=9, **settings, **ASKED_FOR)
    for b, own in enumerate(found.hypotheses):
        assert own[0].sequence.tolist() in seen[b]
        for one in own:
            tokens = one.sequence.tolist()
            assert len(tokens) == 5
            assert tokens[: len(prefix[b])] == prefix[b]
            assert one.is_finished
            assert len(one.token_scores) == one.attention.shape[2] == 5
            mean = one.token_scores.sum(dtype=np.float64) / (5 - len(prefix[b]))
            assert one.score == pytest.approx(mean, rel=1e-12)
        assert all(tokens[: len(prefix[b])] == prefix[b] for tokens in seen[b])


# Streaming.


def streamed(src=SRC, src_lengths=LENGTHS, model=MODEL, **options):
    """What on_token got, by sentence, and the best sequences without their prefixes."""
    got = defaultdict(list)

    def on_token(sentence, token):
        assert type(sentence) is type(token) is int
        got[sentence].append(token)

    found = generate(src, src_lengths, model, on_token=on_token, **options)
    forced = [0] * len(found)
    if "prefix" in options and not options.get("prefix_bias"):
        forced = [len(ids) * (n > 0) for ids, n in zip(options["prefix"], src_lengths, strict=True)]
    return (
        [got[b] for b in range(len(found))],
        [row[skipped:].tolist() for row, skipped in zip(found, forced, strict=True)],
    )


STREAMED = {
    "greedy": {},
    "greedy, not the first end": {"early_stopping": False, "length_penalty": 2.0},
    "greedy, patient": {"patience": 3.0},
    "a sample": {"seed": 2, "temperature": 1.5},
    "one sample": {"num_samples": 1, "seed": 2},
    "beams": {"beam_size": 4},
    "patient beams": {"beam_size": 3, "patience": 2.0, "early_stopping": False},
    "long beams": {"beam_size": 2, "early_stopping": "never", "length_penalty": 2.0},
    "short beams": {"beam_size": 3, "length_penalty": -1.0, "early_stopping": False},
    "one alternative": {"return_alternatives": True},
}


def ends_often(seed=0):
    """The model, with an end that often is among the best tokens."""
    model = lively_model(seed=seed, norm_first=True, final_norm=True)
    counts = np.bincount(np.concatenate(list(model.generate(SRC, max_length=12))), minlength=V)
    counts[START] = 0
    return with_end(model, int(counts.argmax()))


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("most", (None, 8))
def test_what_is_streamed_is_the_best_sequence(name, most):
    """All of it, in order, and nothing else."""
    ended = 0
    for seed in range(6):
        model = ends_often(seed)
        ids = [v for v in range(V) if v != model.config.end_id]
        for more in (
            {},
            {"prefix": [ids[3:5], ids[:1], [], ids[4:9]]},
            {"prefix": [ids[3:5], ids[:1], [], ids[4:9]], "prefix_bias": 0.8},
            {"stop_when": lambda sentence, tokens: len(tokens) > 3 and tokens[-1] % 3 == 0},
            {"max_length": 1},
        ):
            got, expected = streamed(model=model, max_batch_tokens=most, **STREAMED[name], **more)
            assert got == expected, (seed, more)
            ended += sum(len(row) < 6 for row in expected)
    assert ended > 10


def test_nothing_is_streamed_of_nothing():
    for settings in ({}, {"beam_size": 3}):
        got, expected = streamed(SRC, [9, 0, 0, 4], prefix=[[3], [4], [], [5]], **settings)
        assert got == expected
        assert got[1] == got[2] == []
        got, _ = streamed(max_length=0, prefix=[[3]] * 4, **settings)
        assert got == [[]] * 4


@pytest.mark.parametrize("beam_size", (1, 2, 4))
def test_tokens_come_as_soon_as_all_beams_agree(beam_size):
    """After each step, what was streamed is what the beams that go on begin with."""
    early = 0
    for b, length in enumerate(LENGTHS):
        rows, got = [], []

        def stop_when(sentence, tokens):
            rows.append(tokens.tolist())  # noqa: B023
            own = [row for row in rows if len(row) == len(tokens) - 1]  # noqa: B023
            if beam_size > 1:
                assert got == agreed(own)  # noqa: B023

        found = generate(
            SRC[b : b + 1, :length],
            None,
            beam_size=beam_size,
            max_length=12,
            suppress_tokens=[END],
            stop_when=stop_when,
            on_token=lambda sentence, token: got.append(token),  # noqa: B023
        )
        assert got == found[0].tolist()
        early += len(agreed([row for row in rows if len(row) == 11])) if rows else 0
    assert early > 0


def agreed(rows):
    """The longest beginning that all of them share."""
    length = 0
    while rows and all(row[length : length + 1] == rows[0][: length + 1][-1:] for row in rows):
        length += 1
        if length >= len(rows[0]):
            break
    return rows[0][:length] if rows else []


# Dead ends.


@each_setting
@pytest.mark.parametrize("after", (0, 1, 3))
def test_a_dead_end(setting, after):
    """The error says where, and which options left nothing."""
    settings = {**SETTINGS[setting], "no_repeat_ngram_size": 5}

    def constraint(sentence, tokens):
        return [] if sentence == 2 and len(tokens) == after else range(3, V)

    with pytest.raises(ValueError) as error:
        generate(constraint=constraint, **settings)
    assert str(error.value) == (
        f"generate: no token is left for sentence 2 after {after} tokens, expected at least one "
        "that no_repeat_ngram_size, constraint allows"
    )


def test_every_token_was_there_already():
    prefix = [[v for v in range(V) if v != END]] * 4
    with pytest.raises(ValueError) as error:
        generate(prefix=prefix, no_repeat_ngram_size=1, min_length=1)
    assert str(error.value) == (
        "generate: no token is left for sentence 0 after 0 tokens, expected at least one that "
        "no_repeat_ngram_size, min_length allows"
    )
    # The end has not been there.
    found = generate(prefix=prefix, no_repeat_ngram_size=1)
    assert [row.tolist() for row in found] == prefix
    assert found.is_finished.all()


def test_the_other_alternatives_go_on():
    """Where one leads into a dead end, and so do samples."""

    def constraint(sentence, tokens):
        return [] if tokens[:1].tolist() == [4] else [3, 4, 5]

    found = generate(
        constraint=constraint, return_alternatives=True, num_hypotheses=3, suppress_tokens=[END]
    )
    assert [sorted(row[0] for row in own) for own in as_lists(found)] == [[3, 5]] * 4


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("place", (0, 7, slice(None)), ids=str)
@pytest.mark.parametrize("key", ("output_projection.bias", "encoder.norm.weight"))
def test_nan_in_the_weights(key, place, setting):
    model = lively_model(norm_first=True, final_norm=True)
    state = model.state_dict()
    state[key][place] = np.nan
    model.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"generate: the model's logits are NaN or infinite, expected numbers"
    ):
        generate(model=model, **SETTINGS[setting])


# Nothing to do.


@each_setting
@pytest.mark.parametrize("most", (None, 5))
def test_empty_sources_among_others(setting, most):
    """One empty translation each, whatever is asked for; the others are as without them."""
    settings = {**SETTINGS[setting], **ASKED_FOR, "max_batch_tokens": most}
    prefix = [[3], [4, 5], [6], [7]]
    found = generate(SRC, [9, 0, 4, 0], prefix=prefix, **settings).hypotheses
    others = generate(SRC[[0, 2]], [9, 4], prefix=prefix[::2], **settings).hypotheses
    assert_same_hypotheses(found[0], others[0])
    assert_same_hypotheses(found[2], others[1])
    for own in (found[1], found[3]):
        (one,) = own
        assert one.sequence.tolist() == []
        assert one.sequence.dtype == np.int64
        assert one.is_finished is True
        assert one.score == 0.0
        assert one.token_scores.tolist() == [0.0]
        assert one.attention.shape == (3, 3, 1, 0)


@each_setting
@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0)], ids=str)
def test_nothing_to_translate(setting, shape):
    found = generate(np.zeros(shape, int), None, **SETTINGS[setting], **ASKED_FOR)
    assert as_lists(found) == [[[]]] * shape[0]
    assert found.scores.tolist() == [0.0] * shape[0]
    assert found.is_finished.dtype == bool
    assert found.is_finished.tolist() == [True] * shape[0]


@each_setting
@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({"max_length_factor": 0.5, "max_length_offset": 1}, [5, 3, 1, 4]),
        ({"max_length_factor": 3, "max_length_offset": -2}, [12, 10, 1, 12]),
        ({"max_length_factor": 1, "min_length": 5}, [9, 5, 5, 7]),
        ({"max_length_factor": 0.01}, [1, 1, 1, 1]),
        ({"max_length_factor": 0.5, "last_token": END, "suppress_tokens": [END]}, [4, 2, 1, 3]),
        ({"max_length_factor": 1e38, "max_length_offset": -1e38}, [12, 12, 1, 12]),
        ({"max_length_factor": 1, "prefix": [[3], [4, 5], [], [3]]}, [9, 4, 1, 7]),
        ({"max_length_factor": 1, "early_stopping": "never", "max_batch_tokens": 1}, [9, 4, 1, 7]),
    ],
    ids=str,
)
def test_limits_in_proportion_to_the_source(setting, changes, limits):
    """Each sentence is what it is alone with its own limit."""
    settings = {**SETTINGS[setting], **changes, **ASKED_FOR}
    found = generate(max_length=12, **settings).hypotheses
    if "max_batch_tokens" not in settings:
        completed = MODEL.generate_as_completed(SRC, LENGTHS, max_length=12, **settings)
        assert {n: [one.score for one in own] for n, own in completed} == {
            n: [one.score for one in own] for n, own in enumerate(found)
        }
    for name in ("max_length_factor", "max_length_offset"):
        settings.pop(name, None)
    for b, limit in enumerate(limits):
        own = {**settings, "max_length": limit}
        if "prefix" in own:
            own["prefix"] = own["prefix"][b : b + 1]
        (alone,) = generate(SRC[b : b + 1], LENGTHS[b : b + 1], **own).hypotheses
        assert len(found[b]) == len(alone)
        for one, expected in zip(found[b], alone, strict=True):
            assert one.is_finished == expected.is_finished
            assert one.score == expected.score
            np.testing.assert_array_equal(one.sequence, expected.sequence)
            np.testing.assert_array_equal(one.token_scores, expected.token_scores)
            np.testing.assert_array_equal(one.attention, expected.attention)


@each_setting
def test_max_length_0(setting):
    prefix = [[3], [4, 5], [6], []]
    found = generate(
        SRC, [9, 4, 0, 7], prefix=prefix, max_length=0, **SETTINGS[setting], **ASKED_FOR
    )
    for b, own in enumerate(found.hypotheses):
        for one in own:
            assert one.sequence.tolist() == (prefix[b] if b != 2 else [])
            assert one.score == 0.0
            assert one.is_finished == (b == 2)
        if setting in ("greedy", "beams"):
            assert len(own) == 1


# A last token.


def found_with(last_token, **changes):
    settings = {"max_length": 6, "suppress_tokens": [END], "length_penalty": 0.0, **ASKED_FOR}
    return generate(**{**settings, "last_token": last_token, **changes}).hypotheses


@each_setting
@pytest.mark.parametrize("last_token", [END, 5])
def test_a_last_token_is_put_behind_a_search_of_one_step_less(last_token, setting):
    """Where nothing else ends; it adds 0 to the sum, and nothing has to be in reach of it."""
    settings = SETTINGS[setting]
    found = found_with(last_token, **settings)
    shorter = found_with(None, **{**settings, "max_length": 5})
    for own, cut in zip(found, shorter, strict=True):
        assert len(own) == len(cut) > 0
        for one, other in zip(own, cut, strict=True):
            behind = [] if last_token == END else [last_token]
            assert one.sequence.tolist() == [*other.sequence.tolist(), *behind]
            assert len(other.sequence) == 5
            assert one.is_finished is (last_token == END)
            assert one.score == other.score
            assert one.token_scores.tolist() == [*other.token_scores.tolist(), 0.0]
            assert_same_bits(one.attention[:, :, :5], other.attention)


@each_setting
def test_it_counts_in_lengths(setting):
    found = found_with(END, **SETTINGS[setting], length_penalty=2.0)
    for one in (one for own in found for one in own):
        assert one.is_finished and len(one.sequence) == 5
        total = one.token_scores.astype(float).sum()
        np.testing.assert_allclose(one.score, total / 6**2, rtol=1e-6)


@each_setting
@pytest.mark.parametrize(
    "bans",
    [
        {"min_length": 6},
        {"suppress_sequences": [[END]], "no_repeat_ngram_size": 1},
        {"constraint": lambda sentence, ids: [3, 4, 5]},
        {"constraint": lambda sentence, ids: [3] if len(ids) < 5 else []},
        {"logits_processor": lambda z: np.where(np.arange(V) == END, np.float32(-np.inf), z)},
        {"prefix": [[3, 4, 5, 6, 7, 8]] * 4, "prefix_bias": 0.9},
        {"repetition_penalty": 3e38, "suppress_tokens": [v for v in range(V) if v != 3]},
    ],
    ids=str,
)
def test_nothing_bans_a_last_token(bans, setting):
    for own in found_with(END, **{**SETTINGS[setting], **bans}):
        assert own
        for one in own:
            assert len(one.sequence) == 5
            assert one.is_finished
            assert one.token_scores[-1] == 0.0
            assert END not in one.sequence


@each_setting
def test_a_last_token_where_it_is_the_first(setting):
    """After a prefix too; samples are as many as there should be."""
    count = SETTINGS[setting].get("num_samples", 1)
    found = found_with(5, **SETTINGS[setting], max_length=1, prefix=[[], [7], [7, 7], [5]])
    for own, prefix in zip(found, ([], [7], [7, 7], [5]), strict=True):
        assert [one.sequence.tolist() for one in own] == [[*prefix, 5]] * count
        assert [one.score for one in own] == [0.0] * count
    found = found_with(END, **SETTINGS[setting], max_length=0)
    assert [[(len(one.sequence), one.is_finished) for one in own] for own in found] == (
        [[(0, False)]] * 4
    )


@pytest.mark.parametrize("setting", ["greedy", "samples"])
def test_what_ends_before_needs_no_last_token(setting):
    """Only what would be cut off is another."""
    ends = {"suppress_tokens": [], "end_tokens": [END, 3, 4, 6, 9, 11]}
    found, plain = (found_with(last, **SETTINGS[setting], **ends) for last in (END, None))
    pairs = [pair for both in zip(found, plain, strict=True) for pair in zip(*both, strict=True)]
    kept = [other.is_finished for _, other in pairs]
    assert 0 < sum(kept) < len(kept)
    for (one, other), is_kept in zip(pairs, kept, strict=True):
        assert one.is_finished
        if is_kept and len(other.sequence) < 5:
            assert_same_hypotheses([one], [other])
        else:
            assert one.sequence.tolist() == other.sequence[:5].tolist()


def test_a_last_token_is_told_unless_it_ends():
    for last, count in ((5, 6), (END, 5)):
        told = []
        found_with(last, on_token=lambda sentence, token, told=told: told.append(token))
        assert len(told) == 4 * count
        asked = []
        found_with(last, stop_when=lambda _, ids, asked=asked: asked.append(len(ids)))
        assert max(asked) == count


# What is given back.


@each_setting
@pytest.mark.parametrize("prefix", (None, [[3, 4], [5], [], [3]]), ids=("free", "prefix"))
def test_attention_is_the_model_s(setting, prefix):
    """That of the steps which chose each token and the end, to the bit."""
    model = ends_often()
    prefix = prefix and [[v for v in ids if v != model.config.end_id] for ids in prefix]
    found = generate(model=model, prefix=prefix, **SETTINGS[setting], **ASKED_FOR)
    shapes = set()
    for b, own in enumerate(found.hypotheses):
        source = SRC[b : b + 1, : LENGTHS[b]]
        for one in own:
            steps = len(one.sequence) + one.is_finished
            inputs = np.append(START, one.sequence)[None, :steps]
            _, weights = model(source, inputs, return_attention=True)
            assert_same_bits(one.attention, np.array([layer[0] for layer in weights.cross]))
            assert one.token_scores.shape == (steps,)
            shapes.add(one.attention.shape)
    assert len(shapes) > 3


@each_setting
def test_asking_for_more_changes_nothing(setting):
    plain = generate(**SETTINGS[setting])
    for name in ASKED_FOR:
        found = generate(**SETTINGS[setting], **{name: True})
        assert as_lists(found) == as_lists(plain)
        for other in ("scores", "token_scores", "attention"):
            is_asked_for = name == f"return_{other}"
            assert (getattr(found, other) is not None) == is_asked_for
    assert generate(return_scores=True).scores.dtype == np.float64
    assert generate(return_token_scores=True).token_scores[0].dtype == np.float32


@pytest.mark.parametrize("setting", ["greedy", "beams", "alternatives"])
def test_scores_are_those_of_score(setting):
    """To the bit, token by token, with the end; a score is their mean."""
    model = ends_often()
    found = generate(model=model, **SETTINGS[setting], **ASKED_FOR)
    finished = 0
    for b, own in enumerate(found.hypotheses):
        for one in own:
            source = SRC[b : b + 1, : LENGTHS[b]]
            (row,) = model.score(source, one.sequence[None])
            assert_same_bits(one.token_scores, row[: len(one.token_scores)])
            assert len(one.token_scores) == len(one.sequence) + one.is_finished
            mean = one.token_scores.sum(dtype=np.float64) / len(one.token_scores)
            assert one.score == pytest.approx(mean, rel=1e-12)
            finished += one.is_finished
        if setting == "beams":
            scores = [one.score for one in own]
            assert scores == sorted(scores, reverse=True)
    assert finished > 0


def test_alternatives():
    """The best first tokens, in order, and behind each what a search with that prefix finds."""
    prefix = [[3, 4], [], [5], []]
    settings = {"beam_size": 2, "prefix": prefix, "suppress_tokens": [END], **ASKED_FOR}
    found = generate(num_hypotheses=4, return_alternatives=True, **settings).hypotheses
    for b, own in enumerate(found):
        length = len(prefix[b])
        source = SRC[b : b + 1, : LENGTHS[b]]
        logits = MODEL(source, [[START, *prefix[b]]])[0, -1]
        logits[END] = -np.inf
        firsts = np.argsort(-logits, kind="stable")[:4]
        assert [one.sequence[length] for one in own] == firsts.tolist()
        logp = reference.log_softmax(logits)
        for one in own:
            forced = one.sequence[: length + 1].tolist()
            (alone,) = generate(
                source, None, **{**settings, "prefix": [forced], "max_length": 5}
            ).hypotheses[0]
            assert one.sequence.tolist() == alone.sequence.tolist()
            assert one.token_scores[length] == pytest.approx(logp[forced[-1]], abs=1e-5)
            assert_same_bits(one.token_scores[length + 1 :], alone.token_scores[length + 1 :])
            mean = one.token_scores.sum(dtype=np.float64) / 6
            assert one.score == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("settings", [{}, {"beam_size": 4}, {"seed": 3}], ids=str)
def test_a_strong_bias_follows_the_prefix(settings):
    """But the prefix counts, in lengths and scores; behind it the model goes on by itself."""
    prefix = [[3, 4, 5], [7], [], [8, 8, 8, 8, 8, 8, 8, 8]]
    found = generate(prefix=prefix, prefix_bias=0.99999, **settings, **ASKED_FOR)
    for row, wanted in zip(found, prefix, strict=True):
        assert row[: len(wanted)].tolist() == wanted[:6]
    assert [len(row) for row in found.sequences[3:]] == [6]
    assert found.token_scores[3] == pytest.approx([np.log(0.99999)] * 6, abs=2e-5)
    assert found.token_scores[3].all()
    free = generate(prefix=[[]] * 4, prefix_bias=0.99999, **settings)
    assert as_lists(free) == as_lists(generate(**settings))


# Samples.


def test_samples_come_in_the_order_drawn():
    """The first are those of a call that asks for fewer."""
    many = generate(num_samples=5, seed=7, temperature=2.0, **ASKED_FOR).hypotheses
    for n in (1, 2, 4):
        few = generate(num_samples=n, seed=7, temperature=2.0, **ASKED_FOR).hypotheses
        for own, wanted in zip(few, many, strict=True):
            assert_same_hypotheses(own, wanted[:n])
    assert len({tuple(one.sequence) for one in many[0]}) > 1


def test_seeds():
    def drawn(**settings):
        return as_lists(generate(temperature=3.0, max_length=20, num_samples=2, **settings))

    assert drawn(seed=3) == drawn(seed=3)
    assert drawn(seed=3) != drawn(seed=4)
    assert drawn(seed=2**100) == drawn(seed=2**100)
    assert drawn() != drawn()
    assert drawn(seed=0) != drawn()


def test_samples_do_not_depend_on_the_batch():
    settings = {**SETTINGS["samples"], **ASKED_FOR}
    together = generate(**settings).hypotheses
    for b, length in enumerate(LENGTHS):
        (alone,) = generate(SRC[b : b + 1, :length], None, **settings).hypotheses
        assert_same_hypotheses(alone, together[b])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 30.0},
        {"top_p": 0.97, "temperature": 30.0},
        {"min_p": 0.9, "temperature": 30.0},
        {"top_k": 150, "temperature": 30.0},
        {"top_k": 150, "top_p": 0.8, "min_p": 0.2, "temperature": 30.0},
    ],
    ids=str,
)
def test_drawing_from_many_likely_tokens(settings):
    """More of them than are looked at first."""
    model = pt.Transformer(small_config(tgt_vocab_size=311), rng=0)
    n, source = 400, SRC[:1]
    found = model.generate(
        source, max_length=1, num_samples=n, seed=9, return_token_scores=True, **settings
    ).hypotheses[0]
    logits = model(source, [[START]])[0, 0] / np.float32(settings["temperature"])
    logp = reference.log_softmax(logits)
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logp[order])
    if "top_k" in settings:
        p = p[:150] / p[:150].sum()
    kept = len(p)
    if "top_p" in settings:
        kept = 1 + int((p.cumsum()[:-1] < settings["top_p"]).sum())
    if "min_p" in settings:
        kept = min(kept, int((p >= settings["min_p"] * p[0]).sum()))
    assert kept > 64
    places, ranks = p[:kept].cumsum(), []
    for i, one in enumerate(found):
        seeds = np.random.SeedSequence([9, *source[0].tolist()], spawn_key=(i,))
        u = (np.random.Philox(seeds).random_raw(1)[0] >> np.uint64(11)) * 2.0**-53
        rank = int(np.searchsorted(places, u * places[-1], side="right"))
        token = one.sequence[0] if len(one.sequence) else END
        if np.abs(places - u * places[-1]).min() > 1e-6:
            assert token == order[rank]
            assert one.token_scores[0] == pytest.approx(logp[token], abs=1e-5)
            ranks.append(rank)
    assert len(ranks) > n - 20
    assert max(ranks) > 64


def test_a_temperature_of_0_takes_the_most_probable_token():
    options = pt.GenerationOptions(temperature=0, top_p=0.9)
    assert options == pt.GenerationOptions(top_k=1, top_p=0.9)
    generator = pt.TextGenerator("shakespeare")
    (greedy,) = generator.generate(["ROMEO:"], temperature=0, max_length=30)
    own = dict.fromkeys(("temperature", "top_p"))
    assert [greedy] == generator.generate(["ROMEO:"], beam_size=1, max_length=30, **own)
