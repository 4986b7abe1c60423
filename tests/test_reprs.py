"""What objects show of themselves: one line, and no array whole."""

import numpy as np
import pytest

import pyx_transformer as pt
from pyx_transformer._reprs import counted, shown
from pyx_transformer.training import Examples, Labelled, Texts, TrainingOptions
from pyx_transformer.training.checkpoint import Progress
from pyx_transformer.training.recipe import Recipe, TextOptions

SIZES = {"d_model": 32, "num_heads": 4, "d_ff": 56}
RMS = pt.NormConfig("rms_norm")
ATTENTION = pt.AttentionConfig(4, num_kv_heads=2, is_causal=True, bias=False)
GATED = pt.LayerConfig(
    (
        pt.SubLayerConfig(ATTENTION, norm_before=RMS),
        pt.SubLayerConfig(pt.FeedForwardConfig(56, "silu", gated=True), norm_before=RMS),
    )
)
GATED_STACK = pt.StackConfig(32, 5, (GATED,), final_norm=RMS, share_weights=True)
PLAIN_STACK = pt.TransformerDecoder(3, 32, 4, 56, rng=0).config


def model():
    config = pt.TransformerConfig(
        50, 70, num_encoder_layers=3, num_decoder_layers=2, tie_output=True, **SIZES
    )
    return pt.Transformer(config, rng=0)


def encoder_model(**values):
    return pt.EncoderModel(pt.EncoderConfig(50, num_encoder_layers=3, **SIZES, **values), rng=0)


LAYERS = {
    "Linear(24, 40)": pt.Linear(24, 40, rng=0),
    "Linear(24, 40, bias=False, softcap=30.0)": pt.Linear(24, 40, bias=False, softcap=30, rng=0),
    "Embedding(50, 32)": pt.Embedding(50, 32, rng=0),
    "LayerNorm(32, eps=1e-05)": pt.LayerNorm(32),
    "LayerNorm(32, eps=1e-12, bias=False)": pt.LayerNorm(32, eps=1e-12, bias=False),
    "RMSNorm(32, eps=1e-06)": pt.RMSNorm(32),
    "FeedForward(32, 56)": pt.FeedForward(32, 56, rng=0),
    "FeedForward(32, 56, activation='silu', gated=True, bias=False)": pt.FeedForward(
        32, 56, activation="silu", gated=True, bias=False, rng=0
    ),
    "MultiheadAttention(d_model=32, 4 heads, 4,224 parameters)": pt.MultiheadAttention(
        32, 4, rng=0
    ),
    "TransformerEncoder(1 layer, d_model=32, 4 heads, 8,024 parameters)": pt.TransformerEncoder(
        1, 32, 4, 56, rng=0
    ),
    "TransformerEncoder(6 layers, d_model=512, 8 heads, 18.9 M parameters)": pt.TransformerEncoder(
        6, 512, 8, 2048, rng=0
    ),
    "TransformerDecoder(2 layers, d_model=32, 4 heads, 24,624 parameters)": pt.TransformerDecoder(
        2, 32, 4, 56, rng=0
    ),
}


@pytest.mark.parametrize("text", LAYERS)
def test_layers(text):
    assert repr(LAYERS[text]) == text


def test_models():
    """The number of parameters is that of the state, where tied ones are once."""
    for one, words in [
        (model(), "3 + 2 layers, d_model=32, 4 heads"),
        (
            pt.TransformerLM(pt.TransformerLMConfig(50, num_decoder_layers=1, **SIZES), rng=0),
            "1 layer, d_model=32, 4 heads",
        ),
        (encoder_model(), "3 layers, d_model=32, 4 heads"),
        (
            encoder_model(head=pt.ClassifierConfig(("no", "yes"))),
            "3 layers, d_model=32, 4 heads, 2 labels",
        ),
        (
            encoder_model(head=pt.MaskedLMConfig()),
            "3 layers, d_model=32, 4 heads, tells masked tokens",
        ),
    ]:
        parameters = sum(array.size for array in one.state_dict().values())
        assert repr(one) == f"{type(one).__name__}({words}, {parameters:,} parameters)"


def test_a_stack_of_nothing():
    assert repr(pt.TransformerEncoder(0, 32, 4, 56).config) == (
        "StackConfig(0 layers, d_model=32, 4 heads)"
    )
    assert repr(pt.StackConfig(32, 0, ())) == "StackConfig(0 layers, d_model=32)"


CONFIGS = {
    "NormConfig()": pt.NormConfig(),
    "NormConfig(kind='rms_norm', eps=1e-06)": pt.NormConfig("rms_norm", 1e-6),
    "NormConfig(bias=False)": pt.NormConfig(bias=False),
    "RotaryConfig(size=8, pairing='interleaved')": pt.RotaryConfig(size=8, pairing="interleaved"),
    "DistanceBiasConfig(shared=False)": pt.DistanceBiasConfig(shared=False),
    "AttentionConfig(num_heads=4)": pt.AttentionConfig(4),
    "AttentionConfig(num_heads=4, num_kv_heads=2, window=(3, None))": pt.AttentionConfig(
        4, 2, window=(3, None)
    ),
    "FeedForwardConfig(d_ff=56)": pt.FeedForwardConfig(56),
    "MaskedLMConfig()": pt.MaskedLMConfig(),
    "ClassifierConfig(labels=('a', 'b'), of_tokens=True)": pt.ClassifierConfig(("a", "b"), True),
    "TransformerConfig(src_vocab_size=50, tgt_vocab_size=70)": pt.TransformerConfig(50, 70),
    "TransformerConfig(src_vocab_size=50, tgt_vocab_size=70, d_model=64, num_decoder_layers=3, "
    "positions='learned', tie_output=True)": pt.TransformerConfig(
        50, 70, d_model=64, num_decoder_layers=3, tie_output=True, positions="learned"
    ),
    "TransformerLMConfig(tgt_vocab_size=50, start_id=None)": pt.TransformerLMConfig(
        50, start_id=None
    ),
    "GenerationOptions()": pt.GenerationOptions(),
    "GenerationOptions(beam_size=4, early_stopping='never', suppress_tokens=(3, 4))": (
        pt.GenerationOptions(beam_size=4, early_stopping="never", suppress_tokens=[3, 4])
    ),
    "TrainingOptions(steps=30, dropout=0.0)": TrainingOptions(steps=30, dropout=0),
    "TextOptions(kind='words')": TextOptions("words"),
    "Recipe(data={'train_target': 'a.txt'}, model={'d_model': 64}, "
    "training=TrainingOptions(seed=3))": Recipe(
        {"train_target": "a.txt"}, model={"d_model": 64}, training=TrainingOptions(seed=3)
    ),
    "Progress()": Progress(),
    "Progress(step=20, epoch=2, best=1.5)": Progress(step=20, epoch=2, best=1.5),
}


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_show_what_differs_from_the_defaults(text):
    """As it would be written, so that it can be used again."""
    assert repr(CONFIGS[text]) == text
    names = {**vars(pt), "TrainingOptions": TrainingOptions, "TextOptions": TextOptions}
    names |= {name: getattr(pt, name) for name in ("GenerationOptions",)}
    names |= {"Recipe": Recipe, "Progress": Progress}
    assert eval(text, names) == CONFIGS[text]


def test_stacks_are_told_in_words():
    assert repr(PLAIN_STACK) == "StackConfig(3 layers, d_model=32, 4 heads)"
    assert repr(GATED_STACK) == (
        "StackConfig(5 layers, d_model=32, 4 heads, final_norm=NormConfig(kind='rms_norm'), "
        "share_weights=True)"
    )
    assert repr(pt.TransformerLMConfig(50, GATED_STACK, tie_output=True)) == (
        f"TransformerLMConfig(tgt_vocab_size=50, decoder={GATED_STACK}, tie_output=True)"
    )
    assert eval(repr(GATED), vars(pt)) == GATED


def test_what_generation_gives():
    found = model().generate(
        [[3, 4, 5], [6]], max_length=9, min_length=9, return_scores=True, return_attention=True
    )
    first, second = (", ".join(map(str, ids[:6])) for ids in found.sequences)
    assert repr(found) == (
        f"Generation(2 sentences, sequences=[[{first}, ... 9 in all], [{second}, ... 9 in all]])"
    )
    one = found.hypotheses[0][0]
    assert repr(one) == (
        f"Hypothesis(sequence=[{first}, ... 9 in all], is_finished={one.is_finished}, "
        f"score={one.score:.6g}, attention=float32 (2, 4, {one.attention.shape[2]}, 3))"
    )
    alone = pt.Hypothesis(np.array([5]), True)
    assert repr(alone) == "Hypothesis(sequence=[5], is_finished=True)"


def test_what_a_model_gives_on_request():
    _, weights, hidden = model()(
        [[3, 4, 5]], [[6, 7]], return_attention=True, return_hidden_states=True
    )
    assert repr(weights) == (
        "AttentionWeights(encoder=3 of float32 (1, 4, 3, 3), decoder=2 of float32 (1, 4, 2, 2), "
        "cross=2 of float32 (1, 4, 2, 3))"
    )
    assert repr(hidden) == (
        "HiddenStates(encoder=4 of float32 (1, 3, 32), decoder=3 of float32 (1, 2, 32))"
    )


def test_tokenizers():
    tokens = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(2000))]
    assert repr(pt.text.Words(tokens)) == "Words(2,003 tokens)"
    assert repr(pt.text.Words(tokens, "ja")) == "Words(2,003 tokens, language='ja')"
    assert repr(pt.text.make("characters", ["ab"])) == "Characters(5 tokens)"


def test_a_tokenizer_that_cannot_be_opened_says_why():
    pytest.importorskip("tokenizers", reason="needs the extra `hf`")
    from pyx_transformer.tokenizers.fast import FastTokenizer

    text = repr(FastTokenizer(b"{"))
    assert text.startswith("FastTokenizer(FastTokenizer: no tokenizer: ")


def words():
    return pt.text.make("words", ["a b c d"])


def test_pipelines():
    translator = model()
    translator.src_tokenizer, translator.tgt_tokenizer = words(), pt.text.make("characters", ["a"])
    assert repr(pt.Translator(translator)) == (
        f"Translator({translator!r}, source=Words(7 tokens), target=Characters(4 tokens))"
    )
    writer = pt.TransformerLM(pt.TransformerLMConfig(50, **SIZES), rng=0)
    writer.tgt_tokenizer = words()
    assert repr(pt.TextGenerator(writer)) == f"TextGenerator({writer!r}, Words(7 tokens))"
    encoder = encoder_model()
    encoder.src_tokenizer = words()
    assert repr(pt.SentenceEncoder(encoder)) == (
        f"SentenceEncoder({encoder!r}, Words(7 tokens), dimension=32)"
    )
    for kind, head in [
        (pt.TextClassifier, pt.ClassifierConfig(("no", "yes"))),
        (pt.TokenClassifier, pt.ClassifierConfig(("no", "yes"), of_tokens=True)),
        (pt.CrossEncoder, pt.ClassifierConfig(("fits",))),
    ]:
        classifier = encoder_model(head=head)
        classifier.src_tokenizer = words()
        labels = "" if kind is pt.CrossEncoder else f", labels={head.labels}"
        expected = f"{kind.__name__}({classifier!r}, Words(7 tokens){labels})"
        assert repr(kind(classifier)) == expected


def test_results_of_pipelines():
    label = pt.pipelines.Label("yes", 0.12345678901)
    assert repr(label) == "Label(label='yes', score=0.123457)"
    span = pt.pipelines.Span("PER", 0.5, 3, 5, "Bo")
    assert repr(span) == "Span(label='PER', score=0.5, start=3, end=5, text='Bo')"
    ranked = pt.pipelines.Ranked(3, -2.0, "long " * 1000)
    assert repr(ranked) == f"Ranked(corpus_id=3, score=-2.0, text='{('long ' * 12)[:57]}...')"


def test_attention_to_look_at():
    cross = pt.pages.AttentionMap("cross", np.ones((1, 2, 1, 3)), ["a"], ["b", "c", "d"])
    assert repr(cross) == "AttentionMap('cross', 1 layer, 2 heads, 1 x 3 words)"
    assert repr(pt.pages.AttentionView([cross], "a")) == "AttentionView(cross: 'a')"
    long = pt.pages.AttentionView([cross], "long " * 1000)
    assert repr(long) == f"AttentionView(cross: '{('long ' * 12)[:57]}...')"


def test_jobs():
    job = pt.batch.Translate("en-ja", "text", beam_size=2, on_error="keep")
    assert repr(job) == (
        "Translate('en-ja', column='text', output='translation', beam_size=2, on_error='keep')"
    )
    assert repr(pt.batch.Score("en-ja")) == (
        "Score('en-ja', column=('text', 'translation'), output='score')"
    )


def test_corpora():
    ids = [np.array([3, 4]), np.array([5, 6, 7])]
    pairs = Examples(ids, ids[::-1], start_id=1, end_id=2)
    assert repr(pairs) == "Examples(2 pairs, 5 tokens to 5 tokens)"
    assert repr(Examples(None, ids, start_id=1, end_id=2)) == "Examples(2 texts, 5 tokens)"
    assert repr(Texts(ids)) == "Texts(2 texts, 5 tokens)"
    assert repr(Labelled(ids, [1, 0])) == "Labelled(2 texts, 5 tokens, labels=[1, 0])"
    assert repr(Labelled(ids, [0.5, 1.0])) == "Labelled(2 texts, 5 tokens, labels=float32 (2,))"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.arange(1000), "[0, 1, 2, 3, 4, 5, ... 1000 in all]"),
        (np.arange(3), "[0, 1, 2]"),
        (np.zeros((30, 40)), "float64 (30, 40)"),
        ([np.zeros((2, 3))] * 4, "4 of float64 (2, 3)"),
        ([np.zeros((2, 3)), np.zeros(3)], "[float64 (2, 3), float64 (3,)]"),
        ([*range(10)], "[0, 1, 2, 3, 4, 5, ... 10 in all]"),
        ((1,), "(1,)"),
        ([], "[]"),
        ({"a": 1.0}, "{'a': 1.0}"),
        (dict.fromkeys(range(8)), "{0: None, 1: None, 2: None, 3: None, 4: None, 5: None, ... 8 "
         "in all}"),
        (np.float32(0.1), "0.1"),
        (1e-12, "1e-12"),
        (float("-inf"), "-inf"),
        (print, "print"),
        ("x" * 100, f"'{'x' * 57}...'"),
        (None, "None"),
    ],
)  # fmt: skip
def test_values_are_short(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 parameters"),
        (1, "1 parameter"),
        (999_999, "999,999 parameters"),
        (1_000_000, "1.0 M parameters"),
        (18_914_304, "18.9 M parameters"),
        (1_100_048_384, "1.1 B parameters"),
    ],
)
def test_counts(count, text):
    assert counted(count, "parameter") == text
