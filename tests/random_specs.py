"""Directories of CTranslate2 with random weights, and model.bin written and read without it."""

import struct

import numpy as np

TYPES = {"f4": 0, "i1": 1, "i2": 2, "i4": 3, "f2": 4, "u2": 5}  # u2: the upper half of an f4
SIZES = {
    "vocabulary": 37,
    "width": 24,
    "heads": 4,
    "inner": 20,
    "buckets": 8,
    "positions": 40,
    "types": 3,
}
TOKENS = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, SIZES["vocabulary"]))]


# The file.


def read(path):
    """(version, spec, revision, variables by name, aliases by name), as the file has them."""
    content, place = path.read_bytes(), 0

    def take(count):
        nonlocal place
        place += count
        assert place <= len(content)
        return content[place - count : place]

    def number(kind):
        return struct.unpack(f"<{kind}", take(struct.calcsize(kind)))[0]

    def text():
        return take(number("H"))[:-1].decode()

    version, spec, revision = number("I"), text(), number("I")
    kinds = {code: kind for kind, code in TYPES.items()} if version > 3 else {4: "f4", 2: "i2"}
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        code, count = number("B"), number("I")
        content_of_it = take(count if version > 3 else count * code)
        array = np.frombuffer(content_of_it, f"<{kinds.get(code, 'i1')}")
        variables[name] = array.reshape(shape)
    aliases = {}
    for _ in range(number("I") if version > 2 else 0):
        alias = text()
        aliases[alias] = text()
    assert place == len(content)
    return version, spec, revision, variables, aliases


def write(path, version, spec, revision, variables, aliases=()):
    """What `read` gives, as a file."""

    def text(string):
        return struct.pack("<H", len(string.encode()) + 1) + string.encode() + b"\0"

    parts = [struct.pack("<I", version), text(spec), struct.pack("<II", revision, len(variables))]
    for name, array in variables.items():
        shape, size = array.shape, array.dtype.itemsize
        code, count = size, array.size
        if version > 3:
            code, count = TYPES[array.dtype.str[1:]], array.nbytes
        parts += [text(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        parts += [struct.pack("<BI", code, count), array.tobytes()]
    if version > 2:
        parts.append(struct.pack("<I", len(aliases)))
        parts += [text(name) for pair in dict(aliases).items() for name in pair]
    path.write_bytes(b"".join(parts))


# Specs.


def filled(spec, *, seed=0, kv_heads=None, head_size=None, bias=True, learned=True, types=1):
    """The spec with random numbers for all that it requires, and where they may be biases and
    tables of positions."""
    rng, s = np.random.default_rng(seed), SIZES
    size = s["width"] // s["heads"] if head_size is None else head_size
    queries, keys = s["heads"] * size, (kv_heads or s["heads"]) * size
    shapes = {
        "embeddings": (s["vocabulary"], s["width"]),
        "embeddings_0": (s["vocabulary"], s["width"]),
        "embeddings_1": (types, s["width"]),
        "projection": (s["vocabulary"], s["width"]),
        "pooler_dense": (s["width"], s["width"]),
        "self_attention/linear_0": (queries + 2 * keys, s["width"]),
        "self_attention/linear_1": (s["width"], queries),
        "attention/linear_0": (queries, s["width"]),
        "attention/linear_1": (2 * keys, s["width"]),
        "attention/linear_2": (s["width"], queries),
        "ffn/linear_0": (s["inner"], s["width"]),
        "ffn/linear_0_noact": (s["inner"], s["width"]),
        "ffn/linear_1": (s["width"], s["inner"]),
    }

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def visit(part, name, value):
        *scope, last = name.split("/")
        whole = "/".join(scope)
        ending = next((e for e in ("/".join(scope[-2:]), *scope[-1:]) if e in shapes), None)
        if last == "gamma":
            part.gamma = 1 + normal(size if scope[-1] in ("q_norm", "k_norm") else s["width"]) / 4
        elif last == "beta":
            part.beta = normal(s["width"]) / 2
        elif last == "weight":
            shape = shapes[ending]
            part.weight = normal(*shape) / np.float32(np.sqrt(shape[1]))
            if "embeddings" in whole or scope[-1] == "projection":
                part.weight *= 3
        elif last == "bias" and (bias or scope[-1] == "pooler_dense"):
            part.bias = normal(shapes[ending][0]) / 2
        elif last == "encodings" and learned:
            part.encodings = normal(s["positions"], s["width"])
        elif last == "relative_attention_bias":
            part.relative_attention_bias = normal(s["buckets"], s["heads"])
        elif last == "relative_attention_max_distance":
            part.relative_attention_max_distance = np.int32(12)

    from ctranslate2.specs import model_spec

    model_spec.visit_spec(spec, visit)
    return spec


def save(spec, folder, dtype="float32", **settings):
    """Write a spec with TOKENS as its vocabularies."""
    if spec.name == "TransformerSpec":
        spec.register_source_vocabulary(TOKENS)
        spec.register_target_vocabulary(TOKENS)
    else:
        spec.register_vocabulary(TOKENS)
    for name, value in settings.items():
        setattr(spec.config, name, value)
    spec.validate()
    spec.optimize(quantization=dtype)
    folder.mkdir(exist_ok=True)
    spec.save(str(folder))
    return folder
