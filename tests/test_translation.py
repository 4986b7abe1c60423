"""Texts in, texts out: what `translate` and `continue_texts` are given, and give back."""

import pytest
from models import assert_same_bits, continue_texts, small_config, translate

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.cli import main
from pyx_transformer.config import EncoderConfig
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.training import Examples
from pyx_transformer.training.validation import validate

SENTENCES = ["a b c", "b c d e", "e d"]


def tokenizer(kind="words"):
    if kind == "sentencepiece":
        pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    return text.make(kind, SENTENCES, size=11 if kind == "sentencepiece" else None)


def translator(kind="words", **changes):
    own = tokenizer(kind)
    sizes = {"src_vocab_size": own.vocab_size, "tgt_vocab_size": own.vocab_size}
    model = pt.Transformer(small_config(**sizes, **changes), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = own
    return model


def language_model(kind="words", **changes):
    own = tokenizer(kind)
    model = pt.TransformerLM(small_config(tgt_vocab_size=own.vocab_size, **changes), rng=0)
    model.tgt_tokenizer = own
    return model


CALLS = {"translate": (translate, translator), "continue_texts": (continue_texts, language_model)}


@pytest.mark.parametrize("kind", text.KINDS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["a", "b\udcff"], ValueError, r"texts\[1\] is 'b\\udcff', which is no Unicode text"),
        ("a b", TypeError, "texts is 'a b', expected a list of texts"),
        (["a", 3], TypeError, r"texts\[1\] is 3, expected a string"),
        ([None], TypeError, r"texts\[0\] is None, expected a string"),
        (3, TypeError, "texts is 3, expected a list of texts"),
    ],
)
def test_texts_are_checked(name, kind, texts, error, says):
    function, build = CALLS[name]
    if name == "continue_texts":
        name, says = "generate", says.replace("texts", "prompts", 1)
    with pytest.raises(error, match=f"{name}: {says}"):
        function(build(kind), texts)


def bits(found):
    return [[(one.text, one.ids.tobytes()) for one in best] for best in found]


@pytest.mark.parametrize("name", CALLS)
def test_the_models_own_options_count(name):
    function, build = CALLS[name]
    model = build()
    usual = function(model, SENTENCES, max_length=8, beam_size=1)
    banned = int(usual[0][0].ids[0])
    asked = function(model, SENTENCES, max_length=8, suppress_tokens=[banned], beam_size=2)
    assert bits(asked) != bits(usual)
    own = GenerationOptions(max_length=8, suppress_tokens=[banned], beam_size=2)
    model.generation_options = own
    assert bits(function(model, SENTENCES)) == bits(asked)
    # What is asked for goes before them, and options that are given replace them.
    assert bits(function(model, SENTENCES, suppress_tokens=[], beam_size=1)) == bits(usual)
    given = GenerationOptions(max_length=8)
    assert bits(function(model, SENTENCES, options=given)) == bits(usual)
    assert model.generation_options is own


@pytest.mark.parametrize("name", CALLS)
def test_unknown_tokens_are_not_generated(name):
    function, build = CALLS[name]
    model = build()
    model.output_projection.bias[0] += 100.0
    for best in function(
        model, SENTENCES, max_length=8, num_samples=20, seed=1, return_scores=True
    ):
        assert all(0 not in one.ids for one in best)


@pytest.mark.parametrize("name", CALLS)
def test_settings_are_checked(name):
    function, build = CALLS[name]
    name = "translate" if name == "translate" else "generate"
    with pytest.raises(TypeError, match=f"{name}: unknown options .'colour'."):
        function(build(), SENTENCES, colour=1)
    with pytest.raises(TypeError, match=f"{name}: suppress_tokens"):
        function(build(), SENTENCES, suppress_tokens=["a"])


def test_validation_counts_the_models_own_options():
    model = translator()
    encode = model.src_tokenizer.encode
    found = [one[0].ids for one in translate(model, SENTENCES, max_length=8, beam_size=1)]
    examples = Examples(
        [encode(one) for one in SENTENCES],
        [ids[ids != 2] for ids in found],
        start_id=1,
        end_id=2,
    )
    assert validate(model, examples, with_bleu=False, max_length=8)["exact_match"] == 1
    banned = [int(examples.targets[i][0]) for i in range(3)]
    model.generation_options = GenerationOptions(max_length=8, suppress_tokens=banned)
    assert validate(model, examples, with_bleu=False)["exact_match"] == 0


# The command with models that have their own limits and options.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("".join(f"{one}\n" for one in SENTENCES))
    return tmp_path


COMMANDS = {
    "translate": ["translate", "--model", "model", *SENTENCES],
    "generate": ["generate", "--model", "model", *SENTENCES],
    "evaluate": ["evaluate", "--model", "model", "text", "text"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("has", ["short positions", "sampling"])
def test_commands_take_models_as_they_are(name, has, folder, capsys):
    build = language_model if name == "generate" else translator
    changes = {"positions": "learned", "max_length": 6} if has == "short positions" else {}
    model = build(**changes)
    if has == "sampling":
        model.generation_options = GenerationOptions(temperature=0.5, seed=3, max_length=5)
    model.save("model")
    assert main(COMMANDS[name]) == 0
    out, err = capsys.readouterr()
    is_told = "pyx-transformer: cut off at the maximum length (--max-length): texts 1, 2"
    assert err == "" if name == "evaluate" else err.startswith(is_told)
    if name != "evaluate":
        function = CALLS["translate" if name == "translate" else "continue_texts"][0]
        beam = {"beam_size": 4} if (name, has) == ("translate", "short positions") else {}
        found = function(model, SENTENCES, **beam)
        assert out == "".join(best[0].text + "\n" for best in found)


def test_flags_go_before_the_models_own_options(folder, capsys):
    model = translator()
    model.generation_options = GenerationOptions(beam_size=3, num_hypotheses=2, max_length=7)
    model.save("model")
    assert main(COMMANDS["translate"]) == 0
    assert capsys.readouterr().out.count("\n") == 2 * len(SENTENCES)
    assert main([*COMMANDS["translate"], "--n-best", "1", "--max-length", "2"]) == 0
    found = translate(model, SENTENCES, num_hypotheses=1, max_length=2)
    assert capsys.readouterr().out == "".join(best[0].text + "\n" for best in found)
    assert all(len(best[0].ids) <= 2 for best in found)


def test_a_command_is_named_once(folder, capsys):
    translator().save("model")
    assert main([*COMMANDS["translate"], "--n-best", "9", "--beam-size", "4"]) == 2
    assert capsys.readouterr().err == (
        "pyx-transformer translate: --n-best is 9, expected at most --beam-size = 4\n"
    )


def test_an_empty_line_has_as_many_rows_as_others(folder, capsys):
    model = translator()
    model.save("model")
    command = ["translate", "--model", "model", "--n-best", "3", "--max-length", "5"]
    assert main([*command, "a b", "", "c"]) == 0
    rows = capsys.readouterr().out.split("\n")
    found = translate(model, ["a b", "c"], beam_size=4, num_hypotheses=3, max_length=5)
    texts = [[one.text for one in best] for best in found]
    assert rows == [*texts[0], "", "", "", *texts[1], ""]
    assert main([*command, "--scores", ""]) == 0
    assert capsys.readouterr().out == "0.0000\t\n-inf\t\n-inf\t\n"


def test_an_encoder_alone_gives_no_texts():
    encoder = EncoderModel(EncoderConfig(7, num_encoder_layers=1, d_model=6, num_heads=3, d_ff=5))
    for function, kind in {
        translate: "Transformer",
        continue_texts: "TransformerLM",
    }.items():
        name = {translate: "Translator", continue_texts: "TextGenerator"}[function]
        expected = f"{name}: model is an EncoderModel, expected a {kind}; SentenceEncoder is"
        with pytest.raises(TypeError, match=expected):
            function(encoder, SENTENCES)
    with pytest.raises(ValueError, match="it has no head, expected one to train"):
        encoder.forward(None, None, None)


def test_what_goes_with_what_is_asked_for():
    translator, generator = pt.Translator("en-ja"), pt.TextGenerator("shakespeare")
    (five,) = translator.hypotheses(["i love music ."], num_hypotheses=5)
    assert five == translator.hypotheses(["i love music ."], num_hypotheses=5, beam_size=5)[0]
    drawn = translator.translate(["i love music ."], temperature=2.0, seed=1)
    assert drawn == translator.translate(["i love music ."], temperature=2.0, seed=1, beam_size=1)
    settings = {"beam_size": 2, "max_length": 20}
    none = dict.fromkeys(("temperature", "top_k", "top_p", "min_p"))
    assert generator.generate(["ROMEO:"], **settings) == generator.generate(
        ["ROMEO:"], **settings, **none
    )
    long = translator.translate(["music"], max_length=12)
    assert long == translator.translate(
        ["music"], max_length=12, max_length_factor=None, max_length_offset=0
    )
    near = {"max_length": 12, "max_length_offset": -2}  # of the model's own factor
    assert len(translator.translate(["music"], **near)[0].tokens) == 2
    assert len(long[0].tokens) > len(translator.translate(["music"])[0].tokens) == 1
    with pytest.raises(ValueError, match="num_hypotheses is 5, expected at most beam_size = 4"):
        translator.hypotheses(["a"], options=pt.GenerationOptions(beam_size=4), num_hypotheses=5)
    with pytest.raises(ValueError, match="beam_size is 2, expected 1 because a sampling option"):
        generator.generate(["ROMEO:"], beam_size=2, temperature=0.5)


@pytest.mark.parametrize(
    "name, meant",
    [("num_beams", "beam_size"), ("max_new_tokens", "max_length"), ("beam_sise", "beam_size")],
)
def test_the_option_that_is_meant_is_named(name, meant):
    for call in (pt.Translator("en-ja").translate, pt.TextGenerator("shakespeare").generate):
        with pytest.raises(TypeError, match=rf"\['{name}'\] \(did you mean {meant}\?\); known"):
            call(["a"], **{name: 3})
    with pytest.raises(TypeError, match=r"unknown options \['nonsense'\]; known are"):
        pt.Translator("en-ja").translate(["a"], nonsense=3)


def test_scores_of_translations_are_those_of_their_own_tokens():
    """Japanese is written without the spaces that part its tokens."""
    translator = pt.Translator("en-ja")
    texts = ["i love music .", "where is the station ?"]
    found = translator.translate(texts)
    assert all(one.finished for one in found)
    scores = translator.score(texts, found)
    source = [translator.source.encode(text) for text in texts]
    expected = translator.model.score(source, [one.ids[:-1] for one in found])
    for score, right, one in zip(scores, expected, found, strict=True):
        assert_same_bits(score, right)
        assert len(score) == len(one.tokens)
    stopped = translator.translate(texts, stop_when=lambda _, tokens: len(tokens) == 2)
    for score, one in zip(translator.score(texts, stopped), stopped, strict=True):
        assert one.finished and len(one.tokens) == 2 and len(score) == 3
    (parted,) = translator.score(texts[:1], [" ".join(found[0].tokens[:-1])])
    assert_same_bits(parted, scores[0])
