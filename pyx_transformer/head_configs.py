"""What heads are built from: masked tokens, and labels of sequences or tokens."""

from __future__ import annotations

from dataclasses import dataclass

from pyx_transformer import _checks, _runtime
from pyx_transformer._fields import check_fields, set_field
from pyx_transformer._reprs import described
from pyx_transformer.description import NormConfig

BERT_NORM = NormConfig(eps=1e-12)
POOLINGS = ("first", "mean")
PROBLEMS = (None, "single_label", "multi_label", "regression")
PAIR_SCORES = (None, "logits", "sigmoid")


@described
@dataclass(frozen=True, repr=False)
class MaskedLMConfig:
    """The head that says which tokens stood in masked places (Devlin et al. 2019).

    logits = norm(activation(x W^T + b)) E^T + c, with E the token embeddings or, unless tied, a
    weight of its own. bias: whether there is a b.
    """

    activation: str | None = "gelu"
    norm: NormConfig | None = BERT_NORM
    bias: bool = True
    tied: bool = True

    def __post_init__(self):
        check_fields("MaskedLMConfig", self)
        activations = _runtime.kernels.ACTIVATIONS
        _checks.as_choice("MaskedLMConfig", "activation", self.activation, activations)


@described
@dataclass(frozen=True, repr=False)
class ClassifierConfig:
    """The head that says which of some labels a sequence has, or each of its tokens.

    logits = norm(activation(h W1^T + b1)) W2^T + b2. labels: their names. of_tokens: h are the
    rows of all tokens; else one of the sequence, by `pooling` its "first" row, which in a model
    with a pooler is `pooled`, or the "mean" of all. dense: whether there is a W1; activation: as in
    `ops.linear`, or "tanh"; bias: whether there is a b1. problem: what logits are, "single_label"
    for those of one label out of all, "multi_label" for one of each, as they are where there is a
    single label, "regression" for scores as they are; None: one of the first two. pair_scores: what
    a `CrossEncoder` makes of them, the "logits" as they are or the "sigmoid" of each; None: the
    latter where there is a single label, else the former.
    """

    labels: tuple[str, ...]
    of_tokens: bool = False
    pooling: str = "first"
    dense: bool = False
    activation: str | None = None
    bias: bool = True
    norm: NormConfig | None = None
    problem: str | None = None
    pair_scores: str | None = None

    def __post_init__(self):
        this = "ClassifierConfig"
        check_fields(this, self)
        activations = ("tanh", *_runtime.kernels.ACTIVATIONS)
        _checks.as_choice(this, "activation", self.activation, activations)
        _checks.as_choice(this, "pooling", self.pooling, POOLINGS)
        _checks.as_choice(this, "problem", self.problem, PROBLEMS)
        _checks.as_choice(this, "pair_scores", self.pair_scores, PAIR_SCORES)
        labels = self.labels
        if not isinstance(labels, (tuple, list)) or not all(isinstance(one, str) for one in labels):
            raise TypeError(f"{this}: labels is {_checks.brief(labels)}, expected a tuple of words")
        if not labels:
            raise ValueError(f"{this}: labels is empty, expected at least one")
        set_field(self, "labels", tuple(labels))
        if not self.dense and (self.activation or self.norm):
            raise ValueError(
                f"{this}: dense is False, expected True because activation or norm are given"
            )


Head = MaskedLMConfig | ClassifierConfig
