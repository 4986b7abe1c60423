"""Translator: texts in, texts out, beside transformers with the same directories."""

import copy
import html.parser
import json
import pickle
import warnings

import directories
import numpy as np
import pytest
from models import assert_same_bits, lively, num_threads, small_model

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.batch import Translate

TEXTS = [
    "i know him well .",
    "many animals have been destroyed by men .",
    'she said " no " , didn\'t she ?',
    "zebra ☃ über 漢字",
    "  two  spaces ",
    "",
]
# A language and a target's language of each, and how many tokens go before the text that is shown.
FAMILIES = {
    "marian": (None, None),
    "m2m_100": ("en", "fr"),
    "nllb": ("eng_Latn", "fra_Latn"),
    "mbart_50": ("en_XX", "ja_XX"),
    "t5": (None, None),
}


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """A function that gives the directory of a family, made once."""
    made = {}

    def of(name):
        directories.library()
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            settings = {"codes": ("deu", "fra")} if name == "marian" else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a package that MarianTokenizer never uses
                getattr(directories, name)(made[name], shared_data, **settings)
        return made[name]

    return of


class Theirs:
    """A directory in transformers."""

    def __init__(self, folder):
        tf = directories.library()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        self.model = tf.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()

    def first(self, code):
        """The id of a target's language."""
        if code is None:
            return None
        token = f"__{code}__" if len(code) == 2 else code
        return self.tokenizer.convert_tokens_to_ids(token)

    def ids(self, texts, language=None):
        """Padded ids with their mask."""
        if language is not None:
            self.tokenizer.src_lang = language
        return self.tokenizer(texts, return_tensors="pt", padding=True)

    def translated(self, texts, source, target, beams):
        """The ids and the texts of translations, of which theirs shows M2M-100's unknown token and
        languages too."""
        first = self.first(target)
        found = self.model.generate(
            **self.ids(texts, source),
            num_beams=beams,
            early_stopping=False,
            forced_bos_token_id=first,
            max_new_tokens=11 + (first is not None),
        ).tolist()
        hidden = {3, *getattr(self.tokenizer, "lang_token_to_id", {}).values()}
        kept = [[i for i in row if i not in hidden] for row in found]
        shown = self.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [row[1:] for row in found], [one.strip() for one in shown]


@pytest.fixture(scope="module")
def theirs(folder):
    made = {}

    def of(name):
        if name not in made:
            made[name] = Theirs(folder(name))
        return made[name]

    return of


def options(beams, **changes):
    return {"beam_size": beams, "early_stopping": beams == 1, "max_length": 11, **changes}


@pytest.mark.parametrize("name", FAMILIES)
def test_sources_are_read_as_in_transformers(name, folder, theirs):
    source, _ = FAMILIES[name]
    wanted = theirs(name).ids(TEXTS, source)
    tokenizer = pt.Translator(folder(name)).source
    token = None if source is None else tokenizer.languages.tokens[source]
    found = tokenizer.read(TEXTS, language=token).ids
    for ids, row, mask in zip(found, wanted["input_ids"], wanted["attention_mask"], strict=True):
        assert ids.tolist() == row[mask.bool()].tolist()


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_translations_are_those_of_transformers(name, beams, folder, theirs):
    source, target = FAMILIES[name]
    ids, texts = theirs(name).translated(TEXTS, source, target, beams)
    found = pt.Translator(folder(name)).hypotheses(TEXTS, source, target, **options(beams))
    assert len({tuple(row) for row in ids}) > 3
    for (best, *_), row, wanted in zip(found, ids, texts, strict=True):
        own = best.ids.tolist()
        assert own == row[: len(own)]
        assert not best.finished or own[-1] in (0, 1, 2)
        assert best.text == wanted


@pytest.mark.parametrize("beams", [1, 4])
def test_marians_codes(beams, folder, theirs):
    """>>deu<< at the beginning of a text, or as tgt_lang; no code elsewhere."""
    translator = pt.Translator(folder("marian"))
    coded = [f">>deu<< {one}" for one in TEXTS[:3]] + [f">>fra<< {TEXTS[0]}", "a >>deu<< b"]
    ids, texts = theirs("marian").translated(coded, None, None, beams)
    found = translator.hypotheses(coded, **options(beams))
    assert [one[0].text for one in found] == texts
    assert [one[0].ids.tolist() for one in found] == [
        row[: len(one[0].ids)] for one, row in zip(found, ids, strict=True)
    ]
    assert translator.translate(TEXTS[:3], tgt_lang="deu", **options(beams)) == texts[:3]
    first = [ids[0] for ids in translator.source.read(coded).ids]
    assert translator.source.tokens(first)[:4] == [">>deu<<"] * 3 + [">>fra<<"]
    with pytest.raises(ValueError, match="tgt_lang is 'xx', expected one of deu, fra"):
        translator.translate(TEXTS, tgt_lang="xx")
    with pytest.raises(ValueError, match="src_lang is 'deu', expected None because the model is"):
        translator.translate(TEXTS, src_lang="deu")


def test_t5_puts_its_task_before_a_text(folder, theirs):
    translator = pt.Translator(folder("t5"))
    prefixed = [f"translate English to German: {one}" for one in TEXTS]
    _, texts = theirs("t5").translated(prefixed, None, None, 1)
    assert translator.translate(TEXTS, "en", "de", **options(1)) == texts
    assert translator.translate(prefixed, **options(1)) == texts
    assert translator.translate(TEXTS, **options(1)) != texts
    for languages in (("en", None), (None, "de"), ("de", "en")):
        says = "expected those of translation_en_to_de, translation_en_to_fr because the model's"
        with pytest.raises(ValueError, match=says):
            translator.translate(TEXTS, *languages)


def test_languages_of_the_files_are_the_usual_ones(folder):
    translator = pt.Translator(folder("mbart_50"))
    usual = translator.translate(TEXTS, **options(1))
    assert usual == translator.translate(TEXTS, "en_XX", "de_DE", **options(1))
    assert usual != translator.translate(TEXTS, "en_XX", "ja_XX", **options(1))
    with pytest.raises(ValueError, match="tgt_lang is 3, expected one of ar_AR"):
        translator.translate(TEXTS, "en_XX", 3)
    with pytest.raises(ValueError, match="src_lang is 'eng', expected one of ar_AR"):
        translator.translate([], "eng", "de_DE")
    many = pt.Translator(folder("m2m_100"))
    many.source.languages = pt.Translator(folder("m2m_100")).source.languages
    with pytest.raises(ValueError, match="and 88 more"):
        many.translate(TEXTS, "xx")


def test_scores_are_those_of_transformers(folder, theirs):
    """With the target's language in front."""
    source, target = FAMILIES["nllb"]
    wanted, tokenizer = theirs("nllb"), pt.Translator(folder("nllb")).target
    translations = ["the men .", "", "i know her ."]
    scores = pt.Translator(folder("nllb")).score(TEXTS[:3], translations, source, target)
    import torch

    for source_text, translation, own in zip(TEXTS, translations, scores, strict=False):
        ids = [wanted.first(target), *tokenizer.encode(translation).tolist(), 2]
        with torch.no_grad():
            logits = wanted.model(
                **wanted.ids([source_text], source),
                decoder_input_ids=torch.tensor([[2, *ids[:-1]]]),
            ).logits[0]
        rows = torch.log_softmax(logits.double(), -1).numpy()
        np.testing.assert_allclose(own, rows[np.arange(len(ids)), ids], rtol=0, atol=2e-4)


# What needs no other library.


def translator(**changes):
    """A translator of words with lively weights."""
    tokenizer = text.make("words", TEXTS)
    size = tokenizer.vocab_size
    model = lively(small_model(src_vocab_size=size, tgt_vocab_size=size, **changes))
    model.src_tokenizer = model.tgt_tokenizer = tokenizer
    return pt.Translator(model)


def bits(found):
    """Texts, ids and scores of hypotheses, the latter as whole numbers."""
    return [
        [(one.text, one.ids.tolist(), np.float64(one.score).tobytes()) for one in best]
        for best in found
    ]


MANY = [" ".join(TEXTS[i % 4].split()[: 1 + i % 5]) for i in range(23)]


@pytest.mark.parametrize("beams", [1, 3])
def test_every_text_gives_the_same_bits_in_any_company(beams):
    own = translator()
    settings = {"beam_size": beams, "max_length": 9}
    alone = bits([own.hypotheses([one], **settings)[0] for one in MANY])
    assert len({one[0][0] for one in alone}) > 5
    for tokens in (None, 1, 50, 100_000):
        for threads in (1, 2, 3) if tokens is None else (1,):
            with num_threads(threads):
                together = own.hypotheses(MANY, max_batch_tokens=tokens, **settings)
            assert bits(together) == alone
    assert bits(own.hypotheses(MANY[::-1], **settings)) == alone[::-1]
    assert own.translate(MANY, beam_size=beams, max_length=9) == [one[0][0] for one in alone]


def test_a_directory_is_as_good_as_a_model(tmp_path):
    own = translator()
    own.model.save(tmp_path / "model")
    expected = own.translate(TEXTS, max_length=8)
    assert pt.Translator(tmp_path / "model").translate(TEXTS, max_length=8) == expected
    assert pt.Translator(str(tmp_path / "model")).translate(tuple(TEXTS), max_length=8) == expected


def test_the_shipped_one():
    assert pt.Translator("en-ja").translate(["i love music ."], beam_size=4) == [
        "私は音楽が好きです。"
    ]


def test_several_translations_are_not_one():
    own = translator()
    assert own.translate([]) == own.hypotheses([]) == own.score([], []) == []
    assert own.translate(["", "i"], max_length=0) == ["", ""]
    for settings in ({"num_hypotheses": 2, "beam_size": 2}, {"num_samples": 2, "seed": 1}):
        (name, *_) = settings
        with pytest.raises(ValueError, match=f"translate: {name} is 2, expected 1"):
            own.translate(["i"], **settings)
        assert [len(one) for one in own.hypotheses(["i", "know"], **settings)] == [2, 2]


# What is known of a translation.


def test_a_translation_is_a_string():
    own = translator()
    settings = {"max_length": 4, "return_attention": True}
    (one,) = own.translate([" i  know him"], **settings)
    assert isinstance(one, str) and one.text == one and type(one.text) is str
    assert {one.text: 1}[one] == 1 and f"{one}!" == one.text + "!" and repr(one) == repr(one.text)
    assert json.loads(json.dumps([one])) == [one.text]
    assert [*map(type, Translate(own.model)([one, "i"]))] == [str, str]
    for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert again == one and type(again) is pt.GeneratedText
        for name in ("score", "finished", "tokens", "source_tokens"):
            assert getattr(again, name) == getattr(one, name)
        for name in ("ids", "token_scores", "attention"):
            np.testing.assert_array_equal(getattr(again, name), getattr(one, name), strict=True)
    assert len(pickle.dumps(one)) < len(pickle.dumps(own.source)) + 4 * one.attention.size + 2000


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_known_of_translations_is_the_models(beams):
    """Their tokens are the axes of their attention, the end's row among them."""
    own, texts = translator(), [*MANY[:6], ""]
    own.model.output_projection.bias[own.model.config.end_id] += 2
    asked = {"beam_size": beams, "num_hypotheses": beams, "max_length": 5, "return_scores": True}
    asked |= {"return_token_scores": True, "return_attention": True}
    ids = [own.source.encode(one) for one in texts]
    never = own.target.never_generated
    generation = own.model.generate(ids, suppress_tokens=never, **asked)
    found = own.hypotheses(texts, **asked)
    ends = set()
    for best, hypotheses, source in zip(found, generation.hypotheses, ids, strict=True):
        assert isinstance(best, pt.NBest) and len(best) == len(hypotheses)
        for one, wanted in zip(best, hypotheses, strict=True):
            end = [own.model.config.end_id] * wanted.is_finished
            assert one.ids.tolist() == [*wanted.sequence.tolist(), *end]
            assert one.tokens == [own.target.vocabulary[i] for i in one.ids]
            assert one.source_tokens == [own.source.vocabulary[i] for i in source]
            assert one.attention.shape[2:] == (len(one.tokens), len(one.source_tokens))
            assert_same_bits(one.attention, wanted.attention)
            assert_same_bits(one.token_scores, wanted.token_scores)
            assert (one.score, one.finished) == (wanted.score, wanted.is_finished)
            assert type(one.score) is float and type(one.finished) is bool
            ends.add(one.finished)
    assert ends == {True, False}
    (usual,) = own.translate(texts[:1], max_length=5)
    assert usual.attention is None and len(usual.token_scores) == len(usual.tokens)


def test_four_beams_where_nothing_else_is_said():
    own = translator()
    usual = own.hypotheses(MANY, max_length=9)
    assert bits(usual) == bits(own.hypotheses(MANY, max_length=9, beam_size=4))
    assert bits(usual) != bits(own.hypotheses(MANY, max_length=9, beam_size=1))
    assert [len(one) for one in own.hypotheses(["i"], num_hypotheses=4, max_length=9)] == [4]
    assert len(own.translate(["i"], num_samples=1, seed=1, max_length=9)) == 1
    greedy = pt.GenerationOptions(max_length=9)
    wanted = bits(own.hypotheses(MANY, max_length=9, beam_size=1))
    assert bits(own.hypotheses(MANY, options=greedy)) == wanted
    own.model.generation_options = greedy
    assert bits(own.hypotheses(MANY)) == wanted


def test_attention_shows_itself(monkeypatch):
    """As the translator's own view has it, which reads the translation again."""
    own = translator()
    (one,) = own.translate([MANY[3]], return_attention=True, max_length=5)
    (shown,), wanted = one.view().maps, own.attention(MANY[3], max_length=5)["cross"]
    assert_same_bits(shown.weights, one.attention)
    assert_same_bits(shown.weights, wanted.weights)
    assert (shown.rows, shown.columns) == (wanted.rows, wanted.columns)
    assert one._repr_html_() == one.view()._repr_html_()
    (usual,) = own.translate([MANY[3]], max_length=5)
    assert usual._repr_html_() is None
    with pytest.raises(ValueError, match=r"it has no attention, expected .* return_attention=True"):
        usual.view()
    (empty,) = own.translate([""], return_attention=True)
    assert empty._repr_html_() is None
    monkeypatch.setattr("pyx_transformer.pages.attention.MOST_NUMBERS", one.attention.size - 1)
    assert one._repr_html_() is None
    with pytest.raises(ValueError, match="expected at most"):
        one.view()


def test_several_translations_are_a_table_in_a_notebook():
    class Rows(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.cells = []

        def handle_starttag(self, tag, attributes):
            if tag == "tr":
                self.cells.append([])
            elif tag in ("td", "th"):
                self.cells[-1].append("")

        def handle_data(self, data):
            self.cells[-1][-1] += data

    rows = Rows()
    ids = np.zeros(0, np.int64)
    made = [pt.GeneratedText(one, -0.25, True, ids, [], [], ids) for one in ("a <b> & c", "漢")]
    rows.feed(pt.NBest(made)._repr_html_())
    assert rows.cells == [
        ["rank", "score", "text"],
        ["1", "-0.2500", "a <b> & c"],
        ["2", "-0.2500", "漢"],
    ]


def test_scores_are_those_of_the_model():
    own = translator()
    translations = ["i know", "", "zzz ."]
    scores = own.score(["him well", "", "i"], translations)
    encode = own.source.encode
    for source, target, score in zip(
        ["him well", "i"], ["i know", "zzz ."], scores[::2], strict=True
    ):
        (alone,) = own.model.score([encode(source)], [encode(target)])
        assert_same_bits(score, alone)
    assert scores[1].tolist() == [0.0]
    with pytest.raises(ValueError, match="score: translations has 1 entries, expected 2"):
        own.score(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"score: translations\[0\] is '\\udcff'"):
        own.score(["a"], ["\udcff"])


def test_texts_that_are_too_long():
    own = translator(positions="learned", max_length=5)
    with pytest.raises(ValueError, match=r"translate: texts\[1\] has 6 tokens, expected at most 5"):
        own.translate(["i know", "i know him well i know"])
    assert len(own.translate(["i know him well ."], max_length=3)) == 1


def test_texts_are_cut_where_the_file_says_so(folder, tmp_path):
    """In the middle, between the special tokens."""
    whole = folder("mbart_50")
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    values["truncation"] = {
        "direction": "Right",
        "max_length": 9,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 7}))
    own = pt.Translator(tmp_path)
    with pytest.warns(
        UserWarning, match="translate: 3 of 4 texts cut to 7 tokens: numbers 1, 3, 4"
    ):
        found = own.translate([TEXTS[0], "i", TEXTS[1], TEXTS[2]], max_length=5)
    (ids,) = own.source.read([TEXTS[0]], language="en_XX", longest=7).ids
    assert ids.tolist() == [*own.source.read([TEXTS[0]], language="en_XX").ids[0][:6], 2]
    first = own.target.token_id("de_DE")
    (cut,) = own.model.generate([ids], max_length=5, first_token=first).sequences
    assert own.target.decode(cut) == found[0]


# Wrong kinds of models.


def test_other_models_are_refused():
    tokenizer = text.make("words", TEXTS)
    size = tokenizer.vocab_size
    small = {"d_model": 8, "num_heads": 2}
    language_model = pt.TransformerLM(pt.TransformerLMConfig(size, **small))
    for model, came, right in (
        (language_model, "a TransformerLM", "TextGenerator"),
        (pt.EncoderModel(pt.EncoderConfig(size, **small)), "an EncoderModel", "SentenceEncoder"),
    ):
        says = f"Translator: model is {came}, expected a Transformer; {right} is for those"
        with pytest.raises(TypeError, match=says):
            pt.Translator(model)
    with pytest.raises(TypeError, match=r"Translator: model is 3, expected a Transformer$"):
        pt.Translator(3)
    with pytest.raises(FileNotFoundError, match="load: nowhere is missing"):
        pt.Translator("nowhere")
    bare = small_model()
    with pytest.raises(ValueError, match="Translator: model has no src_tokenizer"):
        pt.Translator(bare)
    bare.src_tokenizer = tokenizer
    with pytest.raises(ValueError, match="Translator: model has no tgt_tokenizer"):
        pt.Translator(bare)
