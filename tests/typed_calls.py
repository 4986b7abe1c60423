"""Calls as type checkers see them, which nothing runs: check_types.py says how they are checked.

A line that ends with `# error: code` has to be marked with that code, and no other line with any.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import pyx_transformer as pt

if TYPE_CHECKING:
    from typing_extensions import assert_type

Floats = NDArray[np.float32]


def stacks(x: Floats, wanted: bool) -> None:
    encoder = pt.TransformerEncoder(6, 512, 8, 2048)
    assert_type(encoder(x), Floats)
    assert_type(encoder(x, [3], return_attention=False), Floats)
    assert_type(encoder(x, return_attention=True), tuple[Floats, list[Floats]])
    assert_type(encoder(x, return_hidden_states=True), tuple[Floats, list[Floats]])
    both = encoder(x, return_attention=True, return_hidden_states=True)
    assert_type(both, tuple[Floats, list[Floats], list[Floats]])
    either = encoder(x, return_attention=wanted)
    assert_type(either, Floats | tuple[Floats | list[Floats], ...])
    assert_type(encoder.config, pt.StackConfig)
    assert_type(pt.TransformerEncoder.of(encoder.config), pt.TransformerEncoder)
    decoder = pt.TransformerDecoder(6, 512, 8, 2048)
    assert_type(decoder(x, x), Floats)
    of_memory = decoder(x, x, return_attention=True)
    assert_type(of_memory, tuple[Floats, list[Floats], list[Floats]])
    assert_type(decoder(x, return_attention=True), tuple[Floats, list[Floats]])
    print(encoder(x, return_attention=True).shape)  # error: attr-defined
    encoder(x, return_attention=1)  # error: call-overload
    encoder(x, lenghts=[3])  # error: call-overload
    encoder("a text", None, None, None)  # error: call-overload
    pt.TransformerEncoder(6, 512, 8)  # error: call-arg
    pt.TransformerEncoder(6, 512, 8, 2048, activaton="gelu")  # error: call-arg
    pt.TransformerEncoder(6, 512, 8, "2048")  # error: arg-type


def layers(x: Floats) -> None:
    attention = pt.MultiheadAttention(512, 8)
    assert_type(attention(x), Floats)
    assert_type(attention(x, return_weights=True), tuple[Floats, Floats])
    assert_type(pt.Linear(512, 8)(x), Floats)
    assert_type(pt.LayerNorm(512)(x), Floats)
    assert_type(pt.Embedding(50, 8)([[1, 2]]), Floats)
    assert_type(pt.ops.scaled_dot_product_attention(x, x, x), Floats)
    of_ops = pt.ops.scaled_dot_product_attention(x, x, x, return_weights=True)
    assert_type(of_ops, tuple[Floats, Floats])
    attention(x, return_weight=True)  # error: call-overload
    pt.Linear(512)  # error: call-arg
    pt.ops.softmax(x, axis=1)  # error: call-arg


def models(ids: NDArray[np.int64]) -> None:
    model = pt.Transformer.load("en-ja")
    assert_type(model, pt.Transformer)
    assert_type(model(ids, ids), Floats)
    assert_type(model(ids, ids, return_attention=True), tuple[Floats, pt.AttentionWeights])
    assert_type(model(ids, ids, return_attention=True)[1].cross, list[Floats])
    assert_type(model(ids, ids, return_hidden_states=True), tuple[Floats, pt.HiddenStates])
    assert_type(model.encode(ids), Floats)
    assert_type(model.encode(ids, return_hidden_states=True), tuple[Floats, list[Floats]])
    assert_type(model.score(ids, ids), list[Floats])
    assert_type(model.num_parameters, int)
    assert_type(model.state_dict(), dict[str, Floats])
    model.save("here", dtype="int8")
    model.save("here", dtpe="int8")  # error: call-arg
    model.pooled(ids)  # error: attr-defined
    language_model = pt.TransformerLM.load("there")
    assert_type(language_model(ids, return_attention=True), tuple[Floats, list[Floats]])
    encoder = pt.EncoderModel.load("there")
    assert_type(encoder.encode(ids, return_hidden_states=True), tuple[Floats, list[Floats]])
    assert_type(encoder.pooled(ids), Floats)
    encoder.generate(ids)  # error: attr-defined


def loaded(path: str, stack: pt.StackConfig) -> None:
    model = pt.load(path)
    assert isinstance(model, pt.Transformer | pt.TransformerLM)
    assert_type(model.generate([[3]]), pt.Generation)
    assert_type(pt.TransformerEncoder.load(path), pt.TransformerEncoder)
    pt.TransformerDecoder.load(path).save(path)
    assert_type(pt.load(path, pt.TransformerConfig(5, 5)), pt.Transformer)
    assert_type(pt.load(path, pt.TransformerLMConfig(5)), pt.TransformerLM)
    assert_type(pt.load(path, pt.EncoderConfig(5)), pt.EncoderModel)
    assert_type(pt.load(path, stack, {"a": "b"}), pt.TransformerEncoder | pt.TransformerDecoder)
    pt.load(path).generate([[3]])  # error: union-attr
    pt.load(path, pt.NormConfig())  # error: call-overload


def configs() -> None:
    config = pt.TransformerConfig(5, 5, d_model=64, num_encoder_layers=2, tie_output=True)
    assert_type(config.d_model, int)
    assert_type(config.num_parameters, int)
    assert_type(pt.TransformerConfig.from_json("{}"), pt.TransformerConfig)
    pt.TransformerConfig(5, 5, d_mode=64)  # error: call-arg
    pt.TransformerConfig(5, 5, d_model="64")  # error: arg-type
    pt.TransformerLMConfig(5, num_encoder_layers=2)  # error: call-arg
    pt.EncoderConfig(5, pooler="yes")  # error: arg-type
    print(config.nonsense)  # error: attr-defined
    pt.AttentionConfig(8, windw=(1, 1))  # error: call-arg


def generated(model: pt.Transformer, lm: pt.TransformerLM, ids: list[list[int]]) -> None:
    found = model.generate(ids, beam_size=4, return_scores=True, suppress_tokens=np.array([3]))
    assert_type(found, pt.Generation)
    assert_type(found.scores, NDArray[np.float64] | None)
    assert_type(found.hypotheses[0][0].sequence, NDArray[np.int64])
    assert_type(found[0], NDArray[np.int64])
    model.generate(ids, prefix=found.sequences)
    settings: pt.generation.GenerationSettings = {"beam_size": 4}
    lm.generate(ids, **settings)
    completed = lm.generate_as_completed(ids, on_token=lambda sentence, token: print(token))
    assert_type(completed, Iterator[tuple[int, list[pt.Hypothesis]]])
    model.generate(ids, beam_size="x")  # error: arg-type
    model.generate(ids, nonsense=3)  # error: call-arg
    model.generate(ids, early_stopping="always")  # error: arg-type
    model.generate(ids, on_token=lambda token: None)  # error: arg-type, misc
    lm.generate(ids, beam_siz=4)  # error: call-arg
    model.generation_options = {"beam_size": 4}  # error: assignment


def texts() -> None:
    translator = pt.Translator("en-ja")
    (text,) = translator.translate(["i love music ."], beam_size=2, return_attention=True)
    assert_type(text, pt.GeneratedText)
    assert_type(text.score, float)
    assert_type(translator.hypotheses([text], num_hypotheses=2), list[pt.NBest])
    translator.translate([text], options=pt.GenerationOptions(beam_size=2))
    translator.translate(["a"], beam_size="2")  # error: arg-type
    translator.translate(["a"], beam_siz=2)  # error: call-arg
    translator.translate([1])  # error: list-item
    generator = pt.TextGenerator("there")
    assert_type(generator.generate(["a"], temperature=0.8, seed=1), list[pt.GeneratedText])
    assert_type(generator.stream("a", max_length=5), Iterator[str])
    generator.stream("a", max_lenght=5)  # error: call-arg
    assert_type(pt.SentenceEncoder("there").encode(["a"]), Floats)
    assert_type(pt.CrossEncoder("there").predict([("a", "b")]), Floats)
    assert_type(pt.CrossEncoder("there").rank("a", ["b"])[0].score, float)
    assert_type(pt.TextClassifier("there").classify(["a"])[0].label, str)
    assert_type(pt.TokenClassifier("there").tag(["a"])[0][0].start, int)
    pt.batch.Translate("en-ja", "text", beam_size=2)
    pt.batch.Translate("en-ja", "text", beam_siz=2)  # error: call-arg


def trained(model: pt.Transformer, ids: list[NDArray[np.int64]]) -> None:
    examples = pt.training.Examples(ids, ids, start_id=1, end_id=2)
    options = pt.training.TrainingOptions(steps=3)
    run = pt.training.train(model, examples, None, options, "runs/here")
    assert_type(run, pt.training.Trained)
    assert_type(run.entries, list[dict[str, Any]])
    pt.Translator(run.model)
    figures = pt.training.evaluate(model, ["a"], ["b"], beam_size=4)
    assert_type(figures["loss"], Any)
    pt.training.evaluate(model, ["a"], ["b"], beam_siz=4)  # error: call-arg
    pt.training.train(model, examples, None, {"steps": 3}, "runs/here")  # error: arg-type
    pt.training.Examples(ids, ids, start_id=1)  # error: call-arg
    pt.training.TrainingOptions(step=3)  # error: call-arg


def the_rest() -> None:
    assert_type(pt.show_config("dict"), dict[str, object])
    assert_type(pt.get_num_threads(), int)
    assert_type(pt.sinusoidal_positions(5, 8), Floats)
    assert_type(pt.metrics.bleu(["a"], ["a"]), float)
    assert_type(pt.training.TrainingOptions(steps=3).steps, int)
    pt.show_config("json")  # error: call-overload
    print(pt.nonsense)  # error: attr-defined
    print(pt.training.nonsense)  # error: attr-defined
