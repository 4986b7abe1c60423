"""Published architectures, one file for each kind: what config.json and tensors of theirs are as a
config and a state of ours. `parts` says what a family is."""

from __future__ import annotations

from pyx_transformer.checkpoints.families import (
    albert,
    bart,
    bert,
    distilbert,
    gemma2,
    gpt2,
    gpt_neox,
    llama,
    modernbert,
    t5,
)

# By model_type, as config.json has it.
FAMILIES = {
    **bert.FAMILIES,
    **distilbert.FAMILIES,
    **albert.FAMILIES,
    **modernbert.FAMILIES,
    **gpt2.FAMILIES,
    **gpt_neox.FAMILIES,
    **llama.FAMILIES,
    **gemma2.FAMILIES,
    **bart.FAMILIES,
    **t5.FAMILIES,
}
