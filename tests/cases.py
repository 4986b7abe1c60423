"""Tables of cases, one per operation, shared by the tests and the benchmarks.

A case is a small frozen dataclass: sizes, and the options that it exercises. `arrays(case, seed)`
makes its inputs as a dict of arrays under the operation's own argument names, and `case.options`
holds the remaining, scalar arguments, so that

    pt.ops.linear(**arrays(case, seed), **case.options)

is the call, and the same call on the reference gives the expected result. `str(case)` names what
differs from the defaults, for test ids (`ids=str`).

Sizes are chosen to hit edges: 1; a vector of 4, 8, 16 and 32 floats, one less, one more; a product
tile of 6 and 14 rows likewise; a block of 256 likewise; primes; and a few large ones, big enough
for a kernel to use its threads. All dimensions of a case are distinct, so that a swapped axis
cannot pass; where H = Hkv or K = Kv, the two names mean one dimension.
"""

from dataclasses import dataclass, fields
from functools import singledispatch

import numpy as np

EDGE_SIZES = (1, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 97, 255, 256, 257)


class Case:
    """What all cases share: a name built from the fields that differ from their defaults."""

    @property
    def options(self):
        """The scalar keyword arguments of the operation."""
        return {}

    def __str__(self):
        shown = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return "-".join(f"{f.name}={getattr(self, f.name)}" for f in shown).replace(" ", "")


@singledispatch
def arrays(case, seed=0):
    """The inputs of a case as a dict of C-contiguous arrays, float32 unless integer or boolean."""
    raise TypeError(f"no arrays are defined for {type(case).__name__}")


def normal(rng, *shape):
    """Standard normal float32 values of the given shape."""
    return rng.standard_normal(shape, dtype=np.float32)


def values(kind, rng, shape):
    """Float32 values of the given shape that are hard on a reduction or an exponential.

    normal    standard normal
    offset    a mean of 10,000 with a spread of 0.001, the float32 grid there being 0.00098 wide
    constant  every row holds one number, so that its variance is 0
    huge      about 1e30, where squares and sums of squares leave float32
    tiny      about 1e-30, where squares vanish
    wide      a spread of 50, so that a softmax is nearly one-hot
    masked    normal with about a third of each row at -infinity, never the last column
    tails     an even walk from -20 to 20, through every bend of an activation
    subnormal below the smallest normal float32, with both zeros
    """
    noise = normal(rng, *shape)
    if kind == "normal":
        return noise
    if kind == "offset":
        return (10_000 + 0.001 * noise.astype(np.float64)).astype(np.float32)
    if kind == "constant":
        return np.repeat(noise[..., :1], shape[-1], axis=-1)
    if kind == "huge":
        return noise * np.float32(1e30)
    if kind == "tiny":
        return noise * np.float32(1e-30)
    if kind == "wide":
        return noise * np.float32(50)
    if kind == "masked":
        hidden = rng.random(shape) < 0.3
        hidden[..., -1] = False
        return np.where(hidden, np.float32(-np.inf), noise)
    if kind == "tails":
        return np.linspace(-20, 20, num=int(np.prod(shape)), dtype=np.float32).reshape(shape)
    if kind == "subnormal":
        x = noise * np.float32(1e-39)
        x.flat[::3] = 0.0
        x.flat[1::3] = -0.0
        return x
    raise ValueError(f"values: unknown kind {kind!r}")


# linear


@dataclass(frozen=True)
class LinearCase(Case):
    """x (m, k) times weight (n, k) transposed."""

    m: int
    n: int
    k: int
    bias: bool = True
    activation: str | None = None

    @property
    def options(self):
        return {"activation": self.activation}


@arrays.register
def _(case: LinearCase, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {
        "x": normal(rng, case.m, case.k),
        # Scaled so that outputs stay near 1, where the activations bend.
        "weight": normal(rng, case.n, case.k) / np.float32(np.sqrt(case.k)),
    }
    if case.bias:
        inputs["bias"] = normal(rng, case.n)
    return inputs


LINEAR_CASES = (
    *(LinearCase(m=size, n=43, k=29) for size in EDGE_SIZES),
    *(LinearCase(m=11, n=size, k=29) for size in EDGE_SIZES),
    *(LinearCase(m=11, n=43, k=size) for size in EDGE_SIZES),
    # Several edges at once.
    LinearCase(m=5, n=15, k=255),
    LinearCase(m=6, n=16, k=256),
    LinearCase(m=7, n=17, k=257),
    LinearCase(m=13, n=31, k=255),
    LinearCase(m=14, n=32, k=256),
    LinearCase(m=15, n=33, k=257),
    LinearCase(m=255, n=32, k=256),
    LinearCase(m=256, n=257, k=16),
    LinearCase(m=257, n=256, k=255),
    # The epilogue.
    LinearCase(m=17, n=37, k=23, bias=False),
    *(
        LinearCase(m=17, n=37, k=23, bias=bias, activation=activation)
        for bias in (True, False)
        for activation in ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
    ),
    # Large.
    LinearCase(m=1, n=4099, k=1031),
    LinearCase(m=3, n=2, k=4099),
    LinearCase(m=67, n=1543, k=509, activation="gelu"),
    LinearCase(m=521, n=1031, k=769),
)


# layer_norm, rms_norm


@dataclass(frozen=True)
class NormCase(Case):
    """x (rows, features). `bias` is for layer_norm; rms_norm has none: use `without_bias`."""

    rows: int
    features: int
    data: str = "normal"
    weight: bool = True
    bias: bool = True
    eps: float | None = None

    @property
    def options(self):
        return {} if self.eps is None else {"eps": self.eps}


@arrays.register
def _(case: NormCase, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {"x": values(case.data, rng, (case.rows, case.features))}
    if case.weight:
        inputs["weight"] = 1 + normal(rng, case.features) / 2
    if case.bias:
        inputs["bias"] = normal(rng, case.features)
    return inputs


NORM_CASES = (
    *(NormCase(rows=size, features=29) for size in EDGE_SIZES),
    *(NormCase(rows=11, features=size) for size in EDGE_SIZES),
    *(
        NormCase(rows=5, features=features, data=data)
        for features in (37, 512)
        for data in ("offset", "constant", "huge", "tiny", "wide")
    ),
    NormCase(rows=7, features=67, bias=False),
    NormCase(rows=7, features=67, weight=False),
    NormCase(rows=7, features=67, weight=False, bias=False),
    NormCase(rows=7, features=67, eps=1e-12),
    NormCase(rows=7, features=67, eps=0.5),
    NormCase(rows=1031, features=769),
)


def without_bias(inputs):
    """The arrays of a NormCase for rms_norm."""
    return {name: array for name, array in inputs.items() if name != "bias"}


# softmax, log_softmax


@dataclass(frozen=True)
class SoftmaxCase(Case):
    """x (rows, features)."""

    rows: int
    features: int
    data: str = "normal"


@arrays.register
def _(case: SoftmaxCase, seed=0):
    return {"x": values(case.data, np.random.default_rng(seed), (case.rows, case.features))}


SOFTMAX_CASES = (
    *(SoftmaxCase(rows=size, features=29) for size in EDGE_SIZES),
    *(SoftmaxCase(rows=11, features=size) for size in EDGE_SIZES),
    *(
        SoftmaxCase(rows=5, features=features, data=data)
        for features in (37, 512)
        for data in ("offset", "constant", "huge", "tiny", "wide", "masked")
    ),
    SoftmaxCase(rows=61, features=32_003),
)


# relu, gelu, gelu_tanh, quick_gelu, silu


@dataclass(frozen=True)
class ActivationCase(Case):
    """x (size,)."""

    size: int
    data: str = "normal"


@arrays.register
def _(case: ActivationCase, seed=0):
    return {"x": values(case.data, np.random.default_rng(seed), (case.size,))}


ACTIVATION_CASES = (
    *(ActivationCase(size) for size in EDGE_SIZES),
    ActivationCase(4001, "tails"),
    ActivationCase(257, "wide"),
    ActivationCase(257, "huge"),
    ActivationCase(257, "tiny"),
    ActivationCase(257, "subnormal"),
    ActivationCase(1_000_003),
)


# scaled_dot_product_attention


@dataclass(frozen=True)
class AttentionCase(Case):
    """query (B, H, T, K), key (B, Hkv, S, K), value (B, Hkv, S, Kv).

    Hkv is H and Kv is K unless given.
    mask: "bool", "float" (some slots at -infinity) or "lowest" (some at the lowest finite float32,
        as other libraries write it: a number that is added, not a masked slot).
    mask_axes: the mask's shape, one character per axis, "1" for an axis of size 1: "B1TS", "TS".
    query_offset: an integer, or a tuple with one per sequence.
    spread: a factor on the query; large ones make the softmax nearly one-hot.
    poison: positions of keys and values, in every sequence and head, that hold NaN and infinity.
    """

    B: int = 2
    H: int = 3
    T: int = 11
    S: int = 19
    K: int = 23
    Hkv: int | None = None
    Kv: int | None = None
    mask: str | None = None
    mask_axes: str = "B1TS"
    lengths: tuple[int, ...] | None = None
    is_causal: bool = False
    query_offset: int | tuple[int, ...] = 0
    window: tuple[int | None, int | None] | None = None
    softcap: float | None = None
    scale: float | None = None
    spread: float = 1.0
    poison: tuple[int, ...] = ()

    @property
    def options(self):
        options = {"is_causal": self.is_causal}
        if not isinstance(self.query_offset, tuple):
            options["query_offset"] = self.query_offset
        for name in ("window", "softcap", "scale"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        return options

    @property
    def kv_heads(self):
        return self.H if self.Hkv is None else self.Hkv

    @property
    def value_width(self):
        return self.K if self.Kv is None else self.Kv

    @property
    def mask_shape(self):
        return tuple(1 if axis == "1" else getattr(self, axis) for axis in self.mask_axes)


def attention_mask(case, rng):
    """The mask of a case. One that reaches over T and S masks the whole of query 0."""
    shape = case.mask_shape
    attend = np.asarray(rng.random(shape) < 0.7)
    if attend.size > 1:
        attend.flat[0] = False
    attend.flat[-1] = True
    if case.mask_axes.endswith("TS"):
        attend[..., 0, :] = False
    if case.mask == "bool":
        return attend
    fill = {"float": -np.inf, "lowest": np.finfo(np.float32).min}[case.mask]
    return np.where(attend, normal(rng, *shape), np.float32(fill))


@arrays.register
def _(case: AttentionCase, seed=0):
    rng = np.random.default_rng(seed)
    query = normal(rng, case.B, case.H, case.T, case.K) * np.float32(case.spread)
    key = normal(rng, case.B, case.kv_heads, case.S, case.K)
    value = normal(rng, case.B, case.kv_heads, case.S, case.value_width)
    for j in case.poison:
        key[:, :, j] = np.nan
        value[:, :, j] = np.inf
    inputs = {"query": query, "key": key, "value": value}
    if case.mask is not None:
        inputs["mask"] = attention_mask(case, rng)
    if case.lengths is not None:
        inputs["lengths"] = np.array(case.lengths, dtype=np.int64)
    if isinstance(case.query_offset, tuple):
        inputs["query_offset"] = np.array(case.query_offset, dtype=np.int64)
    return inputs


LENGTH_EDGES = (1, 13, 14, 15, 16, 17, 31, 32, 33, 255, 256, 257)
WIDTH_EDGES = (1, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)

# Every way to leave out or to keep the axes of (B, H, T, S).
MASK_AXES = (
    "",
    *(s for s in "1S"),
    *(t + s for t in "1T" for s in "1S"),
    *(h + t + s for h in "1H" for t in "1T" for s in "1S"),
    *(b + h + t + s for b in "1B" for h in "1H" for t in "1T" for s in "1S"),
)

ATTENTION_CASES = (
    # Sizes.
    *(AttentionCase(T=size) for size in LENGTH_EDGES),
    *(AttentionCase(S=size) for size in LENGTH_EDGES),
    *(AttentionCase(K=size, Kv=29) for size in WIDTH_EDGES),
    *(AttentionCase(Kv=size) for size in WIDTH_EDGES),
    *(AttentionCase(K=size) for size in WIDTH_EDGES),
    AttentionCase(B=1, H=2, T=15, S=257, K=64),
    AttentionCase(B=1, H=2, T=16, S=256, K=64),
    AttentionCase(B=1, H=2, T=17, S=255, K=64),
    AttentionCase(B=2, H=1, T=257, S=16, K=32),
    AttentionCase(B=7, H=5, T=1, S=33, K=64),
    # Grouped heads.
    AttentionCase(B=3, H=4, Hkv=2),
    AttentionCase(B=3, H=8, Hkv=4, Kv=29),
    AttentionCase(B=2, H=5, Hkv=1),
    AttentionCase(B=5, H=6, Hkv=2, T=1, S=37),
    # Causal, with offsets before, at and past the diagonal of the last keys.
    *(AttentionCase(T=size, S=size + 4, is_causal=True) for size in LENGTH_EDGES),
    AttentionCase(T=19, S=11, is_causal=True),
    AttentionCase(is_causal=True, query_offset=8),
    AttentionCase(is_causal=True, query_offset=3),
    AttentionCase(is_causal=True, query_offset=-4),
    AttentionCase(is_causal=True, query_offset=100),
    AttentionCase(is_causal=True, query_offset=-100),
    AttentionCase(is_causal=True, query_offset=(0, 8)),
    AttentionCase(T=1, is_causal=True, query_offset=(18, 5)),
    AttentionCase(T=33, S=257, is_causal=True, query_offset=224),
    # Sliding windows.
    AttentionCase(window=(4, 0)),
    AttentionCase(window=(0, 0)),
    AttentionCase(window=(None, 3)),
    AttentionCase(window=(5, None)),
    AttentionCase(window=(None, None)),
    AttentionCase(window=(100, 100)),
    AttentionCase(window=(2, 4), query_offset=8),
    AttentionCase(window=(2, 4), query_offset=(-3, 15)),
    AttentionCase(window=(5, 3), is_causal=True, query_offset=4),
    AttentionCase(T=257, S=263, window=(16, 0), is_causal=True),
    AttentionCase(T=65, S=259, window=(31, 33), query_offset=97),
    # Lengths.
    AttentionCase(B=4, lengths=(0, 1, 13, 19)),
    AttentionCase(B=4, lengths=(19, 19, 19, 19)),
    AttentionCase(B=4, lengths=(0, 0, 0, 0)),
    AttentionCase(B=4, S=257, lengths=(256, 17, 0, 255)),
    AttentionCase(B=4, T=19, S=21, lengths=(0, 5, 16, 21), is_causal=True),
    AttentionCase(B=4, T=1, S=33, lengths=(1, 32, 33, 0)),
    # Masks of every shape that broadcasts to (B, H, T, S).
    *(
        AttentionCase(T=7, S=17, mask=mask, mask_axes=axes)
        for mask in ("bool", "float")
        for axes in MASK_AXES
    ),
    AttentionCase(mask="lowest", mask_axes="TS"),
    AttentionCase(mask="lowest", mask_axes="B11S"),
    AttentionCase(T=33, S=257, mask="bool", mask_axes="BHTS"),
    AttentionCase(T=33, S=257, mask="float", mask_axes="1HTS"),
    # Scores.
    AttentionCase(softcap=5.0),
    AttentionCase(softcap=30.0, spread=40.0),
    AttentionCase(softcap=2.0, mask="float", mask_axes="TS"),
    AttentionCase(scale=1.0),
    AttentionCase(scale=0.3, spread=40.0),
    AttentionCase(scale=-0.2),
    AttentionCase(scale=0.0),
    AttentionCase(spread=1e4),
    # NaN and infinity in slots that all, or some, of the queries may not attend to.
    AttentionCase(B=4, lengths=(0, 1, 13, 17), poison=(17, 18)),
    AttentionCase(is_causal=True, poison=(5,)),
    AttentionCase(is_causal=True, poison=(0,), query_offset=-2),
    AttentionCase(T=65, S=67, window=(9, 7), poison=(30, 31)),
    AttentionCase(mask="bool", mask_axes="BHTS", poison=(6,)),
    AttentionCase(mask="float", mask_axes="BHTS", poison=(6,)),
    # All at once.
    AttentionCase(
        B=3,
        H=6,
        Hkv=2,
        T=35,
        S=41,
        K=24,
        Kv=40,
        mask="float",
        mask_axes="1HTS",
        lengths=(37, 0, 41),
        is_causal=True,
        query_offset=(6, 0, -5),
        window=(20, 2),
        softcap=10.0,
        scale=0.25,
    ),
    AttentionCase(
        B=5,
        H=4,
        Hkv=2,
        T=1,
        S=263,
        K=64,
        mask="bool",
        mask_axes="B11S",
        lengths=(263, 1, 0, 97, 256),
        is_causal=True,
        query_offset=(262, 0, 0, 96, 255),
        window=(128, 0),
        softcap=50.0,
    ),
    # Large.
    AttentionCase(B=3, H=2, T=257, S=263, K=64),
    AttentionCase(B=1, H=2, T=521, S=523, K=64),
    AttentionCase(B=1, H=2, T=521, S=523, K=64, is_causal=True),
    AttentionCase(B=1, H=3, T=2, S=4099, K=64),
)
