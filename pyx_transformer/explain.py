"""The Transformer of "Attention Is All You Need" in seven parts, with real arrays flowing through.

    explain, explain_html -> tell -> one function per part -> a layout of explain_layouts
                                                           -> explain_text (sentences)

Each part tells its formula, what it is for, and its arrays, and returns the arrays that the next
parts take in: `tell` reads like the forward pass of the paper. Every number is computed by the
library while it is told; nothing but the inputs is written down. Sentences are looked up by key, so
the structure and the numbers are the same in every language. A layout prints what it is told, or
makes a page of it; what has to be looked at, pictures and charts, is in the page only.
"""

from __future__ import annotations

import os

import numpy as np

from pyx_transformer import _checks, ops
from pyx_transformer._files import replace_file
from pyx_transformer.attention import MultiheadAttention
from pyx_transformer.explain_layouts import Html, Layout, Text
from pyx_transformer.explain_text import SENTENCES
from pyx_transformer.feed_forward import FeedForward
from pyx_transformer.pages.document import check_page
from pyx_transformer.pipelines import Translator
from pyx_transformer.positions import sinusoidal_positions
from pyx_transformer.stacks import TransformerDecoder, TransformerEncoder

__all__ = ["explain", "explain_html", "write_html"]


def __dir__() -> list[str]:
    return sorted(__all__)


SEED = 2017
SOURCE = ("I", "love", "NLP")
TARGET = ("<s>", "ich", "mag")
NEXT_WORDS = ("ich", "mag", "NLP", "</s>")

# Parts 1 and 2: the well-known three-word example, d_model = d_k = 3.
X = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], np.float32)
W_Q = W_V = X
W_K = np.array([[0.1, 0.3, 0.5], [0.2, 0.4, 0.6], [0.3, 0.5, 0.7]], np.float32)
TUTORIAL_WEIGHTS = np.array([[0.2, 0.3, 0.5], [0.1, 0.7, 0.2], [0.4, 0.4, 0.2]], np.float32)

# Parts 3 to 7: one small Transformer, wide enough for two heads and narrow enough to print.
D_MODEL, NUM_HEADS, D_FF = 4, 2, 8
SOURCE_EMBEDDINGS = np.array(
    [[1.0, -0.5, 0.3, 1.2], [-0.8, 1.4, 0.6, -0.2], [0.4, 0.9, -1.1, 0.7]], np.float32
)
TARGET_EMBEDDINGS = np.array(
    [[0.2, 0.3, -0.4, 1.1], [0.9, -0.4, 0.5, 1.0], [-0.7, 1.2, 0.8, -0.1]], np.float32
)
OTHER_LAST_WORD = np.array([1.3, 0.2, -0.9, -0.6], np.float32)

# Why the division by sqrt(d_k): a million dot products keep the measured variance within a few %.
HEAD_SIZES = (4, 16, 64, 256, 1024)
NUM_QUERIES = NUM_KEYS = 1024
KEYS_PER_SOFTMAX = 16

# The picture of positions.
MOST_POSITIONS, WIDTH = 48, 64

# What the page shows a trained model with.
MODEL = "en-ja"
SENTENCE = "The cat is sleeping on my bed."


def explain(language: str = "en", part: int | None = None) -> str:
    """The text of `pyx-transformer explain`, in "en" or "zh": all seven parts, or only part 1 to 7.

    Raises TypeError for what is no name or no integer, ValueError for a language or a part that
    does not exist.
    """
    _checks.as_choice("explain", "language", language, SENTENCES)
    if part is not None:
        part = _checks.as_integer("explain", "part", part, minimum=1, maximum=7)

    layout = Text(SENTENCES[language])
    tell(layout)
    return layout.text(part)


def explain_html(sentence: str = SENTENCE, language: str = "en") -> str:
    """The page of `pyx-transformer explain --html`: all seven parts in every language, one file of
    HTML that asks the network for nothing.

    It begins with what every head of the shipped translator attends to as it translates `sentence`
    to Japanese. language: "en" or "zh", the one that is shown first. Raises TypeError or ValueError
    for a language that does not exist, and what `Translator.attention` does.
    """
    _checks.as_choice("explain_html", "language", language, SENTENCES)
    layout = Html(SENTENCES)
    translator = Translator(MODEL)
    view = translator.attention(sentence)
    (translation,) = translator.translate([sentence])
    config = translator.model.config
    layout.trained(
        view,
        sentence=sentence,
        translation=translation,
        encoder_layers=config.encoder.num_layers,
        decoder_layers=config.decoder.num_layers,
        heads=view["cross"].weights.shape[1],
        d_model=config.d_model,
    )
    tell(layout)
    return layout.page(language)


def write_html(
    path: str | os.PathLike[str], sentence: str = SENTENCE, language: str = "en"
) -> None:
    """Write the page of `explain_html` to a file whose name ends in .html. Raises as that does,
    ValueError for another ending, and OSError where no file can be written."""
    found = check_page("write_html", path)
    replace_file(found, explain_html(sentence, language).encode())


def tell(page: Layout) -> None:
    """The seven parts, one after another."""
    rng = np.random.default_rng(SEED)
    encoder = TransformerEncoder(1, D_MODEL, NUM_HEADS, D_FF, rng=rng)
    decoder = TransformerDecoder(1, D_MODEL, NUM_HEADS, D_FF, rng=rng)
    q, k, v = _projections(page)
    _scaled_dot_product(page, q, k, v)
    _division_by_sqrt_d_k(page)
    attention = _heads(page, encoder)
    x = _positions(page, attention)
    y = _residual_and_norm(page, encoder, attention, x)
    memory = _feed_forward(page, encoder, y)
    _encoder_and_decoder(page, encoder, decoder, x, memory)


def _projections(page):
    page.part("projections", "Q = X W_Q", "K = X W_K", "V = X W_V")
    page.say("projections.input")
    page.arrays(("X", X, SOURCE))
    page.arrays(("W_Q = W_V", W_Q), ("W_K", W_K))
    page.say("projections.call")
    q = ops.linear(X, W_Q.T)
    k = ops.linear(X, W_K.T)
    v = ops.linear(X, W_V.T)
    page.arrays(("Q = V", q, SOURCE), ("K", k, SOURCE))
    return q, k, v


def _scaled_dot_product(page, q, k, v):
    d_k = q.shape[-1]
    page.part("attention", "A = softmax(Q K^T / sqrt(d_k))", "Z = A V")
    page.say("attention.scores", d_k=d_k)
    scores = ops.linear(q, k)
    scaled = scores / np.sqrt(d_k)
    page.arrays(
        ("Q K^T", scores, SOURCE, SOURCE),
        (f"Q K^T / sqrt({d_k})", scaled, SOURCE, SOURCE),
    )
    page.say("attention.result")
    z, a = _attend(q, k, v)
    page.arrays(("A", a, SOURCE, SOURCE), ("Z", z, SOURCE))

    page.say("attention.tutorial")
    tutorial_q = tutorial_v = ops.linear(X, X)
    tutorial_k = ops.linear(X, X + np.float32(0.2))
    _, softmax_of_its_scores = _attend(tutorial_q, tutorial_k, tutorial_v)
    page.beside(
        (("Q = V", q, SOURCE), ("Q' = V' = X X^T", tutorial_q)),
        (("K", k, SOURCE), ("K' = X (X + 0.2)^T", tutorial_k)),
        (("A", a, SOURCE, SOURCE), ("A'", TUTORIAL_WEIGHTS)),
        (None, ("softmax(Q' K'^T / sqrt(3))", softmax_of_its_scores)),
        (("Z", z, SOURCE), ("A' V'", ops.linear(TUTORIAL_WEIGHTS, tutorial_v.T))),
    )


def _attend(q, k, v):
    """Z and A for single-head (T, K), (S, K), (S, Kv); the kernel wants (batch, heads, ...)."""
    z, a = ops.scaled_dot_product_attention(
        q[None, None], k[None, None], v[None, None], return_weights=True
    )
    return z[0, 0], a[0, 0]


def _division_by_sqrt_d_k(page):
    page.heading("scaling.title")
    page.say(
        "scaling.theory",
        queries=NUM_QUERIES,
        keys=NUM_KEYS,
        products=NUM_QUERIES * NUM_KEYS,
        group=KEYS_PER_SOFTMAX,
        seed=SEED,
    )
    rng = np.random.default_rng(SEED)
    rows = []
    for d_k in HEAD_SIZES:
        queries = rng.standard_normal((NUM_QUERIES, d_k), np.float32)
        keys = rng.standard_normal((NUM_KEYS, d_k), np.float32)
        s = ops.linear(queries, keys)
        t = s / np.float32(np.sqrt(d_k))
        variances = [scores.var(dtype=np.float64) for scores in (s, t)]
        largest = [
            ops.softmax(scores.reshape(-1, KEYS_PER_SOFTMAX)).max(axis=-1).mean()
            for scores in (s, t)
        ]
        rows.append((d_k, *map(float, variances + largest)))
    page.table(("d_k", "var(s)", "var(t)", "w of s", "w of t"), rows)
    _, of_s, of_t, largest_of_s, largest_of_t = zip(*rows, strict=True)
    page.chart("scaling.variances", {"s": of_s, "t": of_t}, HEAD_SIZES, logarithmic=True)
    page.chart("scaling.largest", {"s": largest_of_s, "t": largest_of_t}, HEAD_SIZES)
    page.say("scaling.result")


def _heads(page, encoder):
    """Returns the attention block of the encoder's layer, which parts 4 and 5 go on with."""
    page.part(
        "heads",
        "head_i = Attention(E W_Q^i, E W_K^i, E W_V^i)",
        "MultiHead(E) = Concat(head_1, ..., head_h) W_O",
    )
    page.say("heads.input", d_model=D_MODEL, num_heads=NUM_HEADS, d_ff=D_FF, seed=SEED)
    page.arrays(("E", SOURCE_EMBEDDINGS, SOURCE))

    weights = _weights_below("layers.0.self_attn.", encoder)
    projected = ops.linear(SOURCE_EMBEDDINGS, weights["in_proj_weight"], weights["in_proj_bias"])
    q, k, v = (
        columns.reshape(-1, NUM_HEADS, D_MODEL // NUM_HEADS).swapaxes(0, 1)
        for columns in np.split(projected, 3, axis=-1)
    )
    heads = [_attend(q[i], k[i], v[i]) for i in range(NUM_HEADS)]
    page.say("heads.weights")
    page.arrays(*_by_head([a for _, a in heads], SOURCE, SOURCE))

    concat = np.concatenate([z for z, _ in heads], axis=-1)
    mixed = ops.linear(concat, weights["out_proj.weight"], weights["out_proj.bias"])
    attention = MultiheadAttention(D_MODEL, NUM_HEADS)
    attention.load_state_dict(weights)
    difference = _largest_difference(mixed, attention(SOURCE_EMBEDDINGS[None])[0])
    page.say("heads.result", difference=difference)
    page.arrays(("Concat(head_1, head_2)", concat, SOURCE), ("MultiHead(E)", mixed, SOURCE))
    return attention


def _positions(page, attention):
    """Returns X, the embeddings with positions added."""
    page.part(
        "positions",
        "PE[pos, 2i]     = sin(pos / 10000^(2i / d_model))",
        "PE[pos, 2i + 1] = cos(pos / 10000^(2i / d_model))",
        "X = E + PE",
    )
    embeddings, backwards = SOURCE_EMBEDDINGS, SOURCE_EMBEDDINGS[::-1]
    positions = sinusoidal_positions(len(SOURCE), D_MODEL)
    x = embeddings + positions
    page.say("positions.input", length=len(SOURCE), d_model=D_MODEL)
    page.arrays(("PE", positions, ("0", "1", "2")), ("X", x, SOURCE))
    page.picture("positions.picture", sinusoidal_positions(MOST_POSITIONS, WIDTH))
    page.say("positions.without")
    page.arrays(
        ("MultiHead(E)", attention(embeddings[None])[0], SOURCE),
        ("MultiHead(R E)", attention(backwards[None])[0], SOURCE[::-1]),
    )
    page.say("positions.with")
    page.arrays(
        ("MultiHead(E + PE)", attention(x[None])[0], SOURCE),
        ("MultiHead(R E + PE)", attention((backwards + positions)[None])[0], SOURCE[::-1]),
    )
    return x


def _residual_and_norm(page, encoder, attention, x):
    """Returns Y, the result of the encoder layer's first sub-layer."""
    page.part(
        "residual",
        "y = LayerNorm(x + Sublayer(x))",
        "LayerNorm(x) = gamma * (x - mean(x)) / sqrt(var(x) + eps) + beta",
    )
    correction = attention(x[None])[0]
    page.say("residual.sum")
    page.arrays(("X", x, SOURCE), ("MultiHead(X)", correction, SOURCE))
    weights = _weights_below("layers.0.", encoder)
    y = ops.layer_norm(x + correction, weights["norm1.weight"], weights["norm1.bias"])
    page.say("residual.norm")
    page.arrays(("X + MultiHead(X)", x + correction, SOURCE), ("Y = LayerNorm(...)", y, SOURCE))
    page.say("residual.moments")
    page.arrays(
        *(
            (name, np.stack([rows.mean(-1), rows.var(-1)], axis=-1), SOURCE, ("mean", "var"))
            for name, rows in (("of X + MultiHead(X)", x + correction), ("of Y", y))
        )
    )
    return y


def _feed_forward(page, encoder, y):
    """Returns M, the result of the whole encoder layer."""
    page.part(
        "feed_forward",
        "FFN(y) = max(0, y W_1 + b_1) W_2 + b_2",
        "M = LayerNorm(Y + FFN(Y))",
    )
    weights = _weights_below("layers.0.", encoder)
    page.say("feed_forward.hidden")
    page.arrays(("Y", y, SOURCE))
    hidden = ops.linear(y, weights["linear1.weight"], weights["linear1.bias"], activation="relu")
    page.arrays(("max(0, Y W_1 + b_1)", hidden, SOURCE))

    feed_forward = FeedForward(D_MODEL, D_FF)
    feed_forward.load_state_dict(
        {name: array for name, array in weights.items() if name.startswith("linear")}
    )
    correction = feed_forward(y)
    memory = ops.layer_norm(y + correction, weights["norm2.weight"], weights["norm2.bias"])
    page.say("feed_forward.result")
    page.arrays(("FFN(Y)", correction, SOURCE), ("M", memory, SOURCE))
    page.say("feed_forward.alone")
    page.arrays(("FFN(Y[love])", feed_forward(y[1:2]), SOURCE[1:2]))
    return memory


def _encoder_and_decoder(page, encoder, decoder, x, memory):
    page.part(
        "stacks",
        "encoder layer:  x <- LayerNorm(x + MultiHead(x, x, x))",
        "                x <- LayerNorm(x + FFN(x))",
        "decoder layer:  t <- LayerNorm(t + MultiHead(t, t, t; causal))",
        "                t <- LayerNorm(t + MultiHead(t, M, M))",
        "                t <- LayerNorm(t + FFN(t))",
        "next word:      P = softmax(t W_vocabulary)",
    )
    page.say("stacks.encoder", difference=_largest_difference(encoder(x[None])[0], memory))
    page.arrays(("M = Encoder(X)", memory, SOURCE))

    positions = sinusoidal_positions(len(TARGET), D_MODEL)
    target = TARGET_EMBEDDINGS + positions
    output, to_itself, to_memory = decoder(target[None], memory[None], return_attention=True)
    page.say("stacks.decoder")
    page.arrays(("T", target, TARGET))
    page.arrays(*_by_head(to_itself[0][0], TARGET, TARGET))
    page.say("stacks.cross")
    page.arrays(*_by_head(to_memory[0][0], TARGET, SOURCE))

    changed = target.copy()
    changed[-1] = OTHER_LAST_WORD
    page.say("stacks.causal")
    page.arrays(
        ("Decoder(T, M)", output[0], TARGET),
        ("Decoder(T*, M)", decoder(changed[None], memory[None])[0], (*TARGET[:-1], "*")),
    )
    page.say("stacks.probabilities")
    rng = np.random.default_rng(SEED)
    w_vocabulary = rng.standard_normal((len(NEXT_WORDS), D_MODEL), np.float32)
    probabilities = ops.softmax(ops.linear(output[0], w_vocabulary))
    page.arrays(("P", probabilities, TARGET, NEXT_WORDS))


def _by_head(weights, rows, columns):
    """The attention weights of each head, (H, T, S) in all, as entries for `Layout.arrays`."""
    return [(f"A of head {i}", a, rows, columns) for i, a in enumerate(weights, 1)]


def _weights_below(prefix, module):
    """The entries of the module's state dict below `prefix`, with the prefix taken off."""
    return {
        name.removeprefix(prefix): array
        for name, array in module.state_dict().items()
        if name.startswith(prefix)
    }


def _largest_difference(a, b):
    return f"{np.abs(a - b).max():.6f}"
