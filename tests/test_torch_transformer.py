"""torch.nn.Transformer: its weights load as they are, and our rounding is no worse than its own.

Every case holds both libraries against the float64 reference, on the same weights and inputs.
PyTorch's boolean masks are True where a query may not attend, the opposite of ours; a length of 0
gives NaN there, so that every sequence here has a real position.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
import reference
from cases import normal
from models import assert_close, assert_same_bits, reference_options, small_config, token_ids

import pyx_transformer as pt

torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")

# PyTorch tells that it will not use its nested tensors, or that they are a prototype.
pytestmark = pytest.mark.filterwarnings("ignore:.*nested.?tensor")
# Times PyTorch's error: see test_no_case_is_worse_than_pytorch.
RMS_SLACK = 1.2
WORST_SLACK = 2


@dataclass(frozen=True)
class Case:
    """Sizes and options of a torch.nn.Transformer, and the lengths in a batch of 3 for it."""

    norm_first: bool
    activation: str
    d_model: int = 24
    num_heads: int = 4
    d_ff: int = 41
    num_layers: int = 2
    targets: int = 7
    sources: int = 11
    lengths: tuple[int, ...] | None = None
    memory_lengths: tuple[int, ...] | None = None

    def __str__(self):
        order = "pre" if self.norm_first else "post"
        padding = "padded" if self.lengths else "full"
        return f"{order}-norm-{self.activation}-{self.num_layers}x{self.d_model}-{padding}"


CASES = [
    Case(norm_first, activation, **sizes, **lengths)
    for norm_first, activation, sizes, lengths in product(
        (False, True),
        ("relu", "gelu"),
        (
            {},
            {"d_model": 64, "num_heads": 2, "d_ff": 160, "num_layers": 4},
            {"d_model": 96, "num_heads": 6, "d_ff": 33, "targets": 13, "sources": 37},
        ),
        ({}, {"lengths": (7, 1, 4), "memory_lengths": (2, 11, 5)}),
    )
]
SMALL_CASES = [case for case in CASES if case.d_model == 24 and case.lengths]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_small_case = pytest.mark.parametrize("case", SMALL_CASES, ids=str)


@pytest.fixture(autouse=True)
def plain_torch():
    """No gradients, and one thread, so that sums come out the same in every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


# PyTorch's side.


def randomise(module):
    """The module itself, with random weights, biases and norms."""
    rng = np.random.default_rng(0)
    for name, parameter in module.named_parameters():
        noise = torch.from_numpy(normal(rng, *parameter.shape))
        if parameter.ndim == 2:
            parameter.copy_(noise / parameter.shape[1] ** 0.5)
        else:
            parameter.copy_(noise / 2 if "bias" in name else 1 + noise / 4)
    return module.eval()


def torch_transformer(case):
    return randomise(
        torch.nn.Transformer(
            case.d_model,
            case.num_heads,
            case.num_layers,
            case.num_layers,
            case.d_ff,
            dropout=0.0,
            activation=case.activation,
            norm_first=case.norm_first,
            batch_first=True,
        )
    )


def padding(lengths, size):
    """PyTorch's key padding mask: True beyond each length."""
    return None if lengths is None else torch.arange(size) >= torch.tensor(lengths)[:, None]


def future(size):
    """PyTorch's causal mask."""
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def run_torch(module, case, x, memory_x):
    """The memory and the decoder's output, as arrays."""
    sources = padding(case.memory_lengths, case.sources)
    memory = module.encoder(torch.from_numpy(memory_x), src_key_padding_mask=sources)
    output = module.decoder(
        torch.from_numpy(x),
        memory,
        tgt_mask=future(case.targets),
        tgt_key_padding_mask=padding(case.lengths, case.targets),
        memory_key_padding_mask=sources,
    )
    return memory.numpy(), output.numpy()


# Ours.


def stacks_for(case, module):
    """An encoder and a decoder with PyTorch's weights."""
    arguments = (case.num_layers, case.d_model, case.num_heads, case.d_ff)
    options = {"activation": case.activation, "norm_first": case.norm_first, "final_norm": True}
    encoder = pt.TransformerEncoder(*arguments, **options)
    decoder = pt.TransformerDecoder(*arguments, **options)
    encoder.load_state_dict(module.encoder.state_dict())
    decoder.load_state_dict(module.decoder.state_dict())
    return encoder, decoder


def inputs_of(case):
    """x (3, T, d_model) and what the encoder is given (3, S, d_model)."""
    rng = np.random.default_rng(1)
    return normal(rng, 3, case.targets, case.d_model), normal(rng, 3, case.sources, case.d_model)


@cache
def errors_of(case):
    """Against float64, at real positions: ours and PyTorch's, of the encoder and the decoder."""
    module = torch_transformer(case)
    encoder, decoder = stacks_for(case, module)
    x, memory_x = inputs_of(case)
    memory = encoder(memory_x, case.memory_lengths)
    ours = memory, decoder(x, memory, case.lengths, case.memory_lengths)
    theirs = run_torch(module, case, x, memory_x)

    options = {"activation": case.activation, "norm_first": case.norm_first}
    memory = reference.encoder(
        encoder.state_dict(), memory_x, case.num_heads, lengths=case.memory_lengths, **options
    )
    output = reference.decoder(
        decoder.state_dict(),
        x,
        memory,
        case.num_heads,
        lengths=case.lengths,
        memory_lengths=case.memory_lengths,
        **options,
    )
    for actual, expected in zip(ours, (memory, output), strict=True):
        assert_close(actual, expected)
    lengths = case.memory_lengths, case.lengths
    return [
        [real_errors(*pair) for pair in zip(results, (memory, output), lengths, strict=True)]
        for results in (ours, theirs)
    ]


def real_errors(actual, expected, lengths):
    """The errors (N, features) of the rows that are no padding."""
    errors = actual - expected
    if lengths is None:
        return errors.reshape(-1, errors.shape[2])
    return np.concatenate([rows[:n] for rows, n in zip(errors, lengths, strict=True)])


def root_mean_square(errors):
    return np.sqrt(np.mean(errors**2))


def assert_no_worse(ours, theirs):
    assert 0 < root_mean_square(ours) <= RMS_SLACK * root_mean_square(theirs)
    assert np.abs(ours).max() <= WORST_SLACK * np.abs(theirs).max()


@each_case
def test_no_case_is_worse_than_pytorch(case):
    """Errors are no larger than PyTorch's own, but for chance.

    Both add up float32 in orders of their own. Of 48 stacks with 288 to 10,656 values, 45 or more
    have the smaller root mean square here, and the others up to 1.13 times PyTorch's: 1.2 is
    allowed. The worst of the values, which is one of them, came up to 1.57 times: 2 is allowed.
    """
    for ours, theirs in zip(*errors_of(case), strict=True):
        assert_no_worse(ours, theirs)


def test_all_cases_together_are_no_worse_than_pytorch():
    """Without any slack: all values together, and the sum of each case's worst."""
    for stack in range(2):
        ours, theirs = ([errors_of(case)[who][stack].ravel() for case in CASES] for who in range(2))
        assert root_mean_square(np.concatenate(ours)) <= root_mean_square(np.concatenate(theirs))
        assert sum(np.abs(e).max() for e in ours) <= sum(np.abs(e).max() for e in theirs)


# Weights.


@each_small_case
@pytest.mark.parametrize("form", ("tensors", "arrays", "float64"))
def test_weights_load_as_they_are(case, form):
    module = torch_transformer(case)
    convert = {
        "tensors": lambda t: t,
        "arrays": lambda t: t.numpy(),
        "float64": lambda t: t.double(),
    }
    for stack, part in zip(stacks_for(case, module), (module.encoder, module.decoder), strict=True):
        state = part.state_dict()
        stack.load_state_dict({key: convert[form](tensor) for key, tensor in state.items()})
        loaded = stack.state_dict()
        assert loaded.keys() == state.keys()
        for key, tensor in state.items():
            assert_same_bits(loaded[key], tensor.numpy())
        part.load_state_dict({key: torch.from_numpy(array) for key, array in loaded.items()})


def test_stacks_without_a_final_norm():
    """torch.nn.TransformerEncoder and Decoder have none unless they are given one."""
    rng = np.random.default_rng(0)
    sizes = {"d_model": 24, "nhead": 4, "dim_feedforward": 41, "dropout": 0, "batch_first": True}
    theirs = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(**sizes), 2)
    ours = pt.TransformerEncoder(2, 24, 4, 41)
    ours.load_state_dict(randomise(theirs).state_dict())
    x = normal(rng, 3, 11, 24)
    assert_close(ours(x), theirs.double()(torch.from_numpy(x).double()).numpy())

    theirs = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(**sizes), 2)
    ours = pt.TransformerDecoder(2, 24, 4, 41)
    ours.load_state_dict(randomise(theirs).state_dict())
    x, memory = normal(rng, 3, 7, 24), normal(rng, 3, 11, 24)
    expected = theirs.double()(
        torch.from_numpy(x).double(), torch.from_numpy(memory).double(), tgt_mask=future(7)
    )
    assert_close(ours(x, memory), expected.numpy())


# Masks, against PyTorch in float64.


@each_small_case
@pytest.mark.parametrize("kind", ("bool", "float"))
def test_masks(case, kind):
    module = torch_transformer(case)
    encoder, decoder = stacks_for(case, module)
    # Its short cut for evaluation reads a float mask as a boolean one.
    module.double().train()
    x, memory_x = inputs_of(case)
    rng = np.random.default_rng(2)

    def masks(queries, keys):
        """Ours, and PyTorch's; every query sees a key, or it would get NaN there."""
        attend = rng.random((queries, keys)) < 0.6
        attend[:, 0] = True
        scores = np.where(attend, normal(rng, queries, keys), np.float32(-np.inf))
        if kind == "bool":
            return attend, torch.from_numpy(~attend)
        return scores, torch.from_numpy(scores).double()

    mask, torch_mask = masks(case.sources, case.sources)
    expected_memory = module.encoder(torch.from_numpy(memory_x).double(), mask=torch_mask)
    memory = encoder(memory_x, mask=mask)
    assert_close(memory, expected_memory.numpy())

    mask, torch_mask = masks(case.targets, case.targets)
    memory_mask, torch_memory_mask = masks(case.targets, case.sources)
    if kind == "bool":
        torch_mask = torch_mask | future(case.targets)
    else:
        torch_mask = torch_mask.masked_fill(future(case.targets), -torch.inf)
    expected = module.decoder(
        torch.from_numpy(x).double(),
        expected_memory,
        tgt_mask=torch_mask,
        memory_mask=torch_memory_mask,
    )
    assert_close(decoder(x, memory, mask=mask, memory_mask=memory_mask), expected.numpy())


@pytest.mark.parametrize("widths", [(None, None), (17, None), (None, 31), (17, 31)], ids=str)
def test_multihead_attention(widths):
    kdim, vdim = widths
    theirs = randomise(torch.nn.MultiheadAttention(24, 4, kdim=kdim, vdim=vdim, batch_first=True))
    ours = pt.MultiheadAttention(24, 4, kdim=kdim, vdim=vdim)
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    rng = np.random.default_rng(0)
    inputs = normal(rng, 3, 7, 24), normal(rng, 3, 11, kdim or 24), normal(rng, 3, 11, vdim or 24)
    lengths = [2, 11, 5]
    expected, expected_weights = theirs.double()(
        *(torch.from_numpy(array).double() for array in inputs),
        key_padding_mask=padding(lengths, 11),
        average_attn_weights=False,
    )
    output, weights = ours(*inputs, lengths=lengths, return_weights=True)
    assert_close(output, expected.numpy())
    assert_close(weights, expected_weights.numpy())


# The whole model.


@each_small_case
def test_whole_model(case):
    """PyTorch's Transformer between our embeddings, positions and output projection."""
    module = torch_transformer(case)
    model = pt.Transformer(
        small_config(
            d_model=case.d_model,
            num_heads=case.num_heads,
            d_ff=case.d_ff,
            num_encoder_layers=case.num_layers,
            num_decoder_layers=case.num_layers,
            activation=case.activation,
            norm_first=case.norm_first,
            final_norm=True,
        ),
        rng=0,
    )
    state = model.state_dict()
    own = {key: array for key, array in state.items() if key.split(".")[0][-5:] != "coder"}
    assert state.keys() - own.keys() == module.state_dict().keys()
    model.load_state_dict(own | module.state_dict())

    rng = np.random.default_rng(1)
    src, tgt = token_ids(rng, 23, 3, case.sources), token_ids(rng, 19, 3, case.targets)
    options = reference_options(model)
    scale = case.d_model**0.5
    embedded = [
        torch.from_numpy(own[f"{side}_embedding.weight"])[ids] * scale
        + torch.from_numpy(options[f"{side}_positions"].astype(np.float32))[: ids.shape[1]]
        for side, ids in (("src", src), ("tgt", tgt))
    ]
    _, rows = run_torch(module, case, embedded[1].numpy(), embedded[0].numpy())
    theirs = torch.nn.functional.linear(
        torch.from_numpy(rows),
        torch.from_numpy(own["output_projection.weight"]),
        torch.from_numpy(own["output_projection.bias"]),
    ).numpy()
    lengths = {"src_lengths": case.memory_lengths, "tgt_lengths": case.lengths}
    ours = model(src, tgt, **lengths)
    expected = reference.transformer(model.state_dict(), src, tgt, **lengths, **options)
    assert_close(ours, expected)
    assert_no_worse(*(real_errors(one, expected, case.lengths) for one in (ours, theirs)))
