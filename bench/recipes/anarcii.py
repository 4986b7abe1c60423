"""Number the residues of an antibody or T-cell receptor with the models of the package anarcii
2.0.8 (University of Oxford), whose wheel is unpacked and not installed. From the repository's root:

    pip download --no-deps --dest wheels anarcii==2.0.8
    python -m zipfile -e wheels/anarcii-2.0.8-py3-none-any.whl models
    python bench/recipes/anarcii.py models QVQLVQSGAEVKKPGASVKVSCKASGYTFTSYDINWVRQATGQGLEWMGWMN

The first line is the chain, the others are residues with their numbers, X being an insertion.
"""

import argparse
import json
from pathlib import Path

import pyx_transformer as pt

# Their names of layers, and ours.
NAMES = {
    "encoder.tok_embedding": "src_embedding",
    "encoder.pos_embedding": "src_positions",
    "decoder.tok_embedding": "tgt_embedding",
    "decoder.pos_embedding": "tgt_positions",
    "decoder.fc_out": "output_projection",
    "self_attention.multihead_attn": "self_attn",
    "encoder_attention.multihead_attn": "multihead_attn",
    "positionwise_feedforward.fc_1": "linear1",
    "positionwise_feedforward.fc_2": "linear2",
    "self_attn_layer_norm": "norm1",
    "enc_attn_layer_norm": "norm2",
    "encoder.layers.*.ff_layer_norm": "encoder.layers.*.norm2",
    "decoder.layers.*.ff_layer_norm": "decoder.layers.*.norm3",
}
LETTERS = "ACDEFGHIKLMNPQRSTVWXY"
SPECIAL = ["<PAD>", "<SOS>", "<EOS>", "<SKIP>"]
CHAINS = {"antibody": "HLK", "shark": "HLK", "tcr": "ABGD"}
LONGEST = 200


def load(folder, kind="antibody", layers=2):
    """The model of a kind of chains with so many layers in each stack."""
    path = Path(folder) / "anarcii" / "models" / kind / f"{kind}_4_{layers}_128_512.pt"
    sizes = json.loads(path.with_suffix(".json").read_text())
    config = pt.TransformerConfig(
        sizes["INPUT_DIM"],
        sizes["OUTPUT_DIM"],
        d_model=sizes["HID_DIM"],
        num_heads=sizes["HEADS"],
        num_encoder_layers=sizes["LAYERS"],
        num_decoder_layers=sizes["LAYERS"],
        d_ff=4 * sizes["HID_DIM"],
        positions="learned",
        max_length=210,
    )
    model = pt.load(path, config, NAMES)
    numbers = map(str, range(1, 129))
    model.src_vocabulary = [*SPECIAL, *LETTERS]
    model.tgt_vocabulary = [*SPECIAL, *numbers, "X", *CHAINS[kind]]
    return model


def source_ids(sequence):
    """The ids of a sequence of up to 200 residues; B, J, O, U and Z are unknown ones."""
    if len(sequence) > LONGEST:
        raise ValueError(f"the sequence has {len(sequence)} residues, expected at most {LONGEST}")
    letters = ["X" if letter in "BJOUZ" else letter for letter in sequence]
    return [1, *(len(SPECIAL) + LETTERS.index(letter) for letter in letters), 2]


def number(model, sequence):
    """The chain and the label of each residue that has one."""
    ids = source_ids(sequence)
    found = model.generate([ids], max_length=len(ids))
    chain, *labels = (model.tgt_vocabulary[token] for token in found.sequences[0])
    pairs = zip(sequence, labels, strict=False)
    return chain, [(letter, label) for letter, label in pairs if label != "<SKIP>"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where the wheel is unpacked")
    parser.add_argument("sequence", help="the residues, a letter each")
    parser.add_argument("--kind", choices=sorted(CHAINS), default="antibody")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=2)
    arguments = parser.parse_args()
    model = load(arguments.folder, arguments.kind, arguments.layers)
    chain, numbered = number(model, arguments.sequence)
    print(chain)
    for letter, label in numbered:
        print(letter, label)
