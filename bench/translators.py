"""A model of ours as CTranslate2 and as Hugging Face's transformers have it.

Marian models allow norms after the sub-layers only, sines of all positions before the cosines, and
embeddings of their own on each side.
"""

from __future__ import annotations

import tempfile

import numpy as np

import pyx_transformer as pt

SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2; any other token is its id in digits


def load_ctranslate2(folder, ctranslate2, threads):
    """CTranslate2's translator of a folder, in float32 and with so many threads."""
    return ctranslate2.Translator(
        str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
    )


def to_ctranslate2(model, ctranslate2, threads):
    """CTranslate2's translator with the weights of our model."""
    spec = ctranslate2_spec(model, ctranslate2.specs)
    with tempfile.TemporaryDirectory() as folder:
        spec.validate()
        spec.save(folder)
        return load_ctranslate2(folder, ctranslate2, threads)


def ctranslate2_spec(model, specs):
    """Our model as CTranslate2 saves it."""
    config, state = model.config, model.state_dict()

    def linear(part, name, rows=slice(None)):
        part.weight, part.bias = state[f"{name}weight"][rows], state[f"{name}bias"][rows]

    def norm(part, name):
        part.gamma, part.beta = state[f"{name}weight"], state[f"{name}bias"]

    spec = specs.TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=config.norm_first,
    )
    queries, keys_and_values = slice(config.d_model), slice(config.d_model, None)
    for side, last_norm in (("encoder", "norm2"), ("decoder", "norm3")):
        stack = getattr(spec, side)
        stack.position_encodings.encodings = positions(config)
        if config.final_norm:
            norm(stack.layer_norm, f"{side}.norm.")
        for i, layer in enumerate(stack.layer):
            name = f"{side}.layers.{i}."
            linear(layer.self_attention.linear[0], f"{name}self_attn.in_proj_")
            linear(layer.self_attention.linear[1], f"{name}self_attn.out_proj.")
            norm(layer.self_attention.layer_norm, f"{name}norm1.")
            if side == "decoder":
                cross = f"{name}multihead_attn."
                linear(layer.attention.linear[0], f"{cross}in_proj_", queries)
                linear(layer.attention.linear[1], f"{cross}in_proj_", keys_and_values)
                linear(layer.attention.linear[2], f"{cross}out_proj.")
                norm(layer.attention.layer_norm, f"{name}norm2.")
            linear(layer.ffn.linear_0, f"{name}linear1.")
            linear(layer.ffn.linear_1, f"{name}linear2.")
            norm(layer.ffn.layer_norm, f"{name}{last_norm}.")
    spec.encoder.embeddings[0].weight = state["src_embedding.weight"]
    spec.decoder.embeddings.weight = state["tgt_embedding.weight"]
    if config.tie_output:
        state["output_projection.weight"] = state["tgt_embedding.weight"]
    linear(spec.decoder.projection, "output_projection.")
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.register_source_vocabulary(vocabulary(config.src_vocab_size))
    spec.register_target_vocabulary(vocabulary(config.tgt_vocab_size))
    return spec


def vocabulary(size):
    return [*SPECIAL, *map(str, range(len(SPECIAL), size))]


def tokens_of(sentences):
    """Sentences of ids as lists of the tokens in `vocabulary`."""
    return [[SPECIAL[i] if i < len(SPECIAL) else str(i) for i in ids] for ids in sentences]


def ids_of(tokens):
    return [SPECIAL.index(token) if token in SPECIAL else int(token) for token in tokens]


def positions(config):
    return pt.sinusoidal_positions(config.max_length, config.d_model, layout=config.position_layout)


def to_marian(model, transformers, torch):
    """Hugging Face's MarianMTModel with the weights of our model."""
    config = model.config
    transformers.logging.set_verbosity_error()
    settings = transformers.MarianConfig(
        vocab_size=config.src_vocab_size,
        decoder_vocab_size=config.tgt_vocab_size,
        d_model=config.d_model,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff,
        activation_function=config.activation,
        max_position_embeddings=config.max_length,
        scale_embedding=config.scale_embeddings,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index("<unk>"),
        decoder_start_token_id=config.start_id,
        eos_token_id=config.end_id,
        forced_eos_token_id=None,
    )
    with torch.device("meta"):  # without weights of its own
        theirs = transformers.MarianMTModel(settings)
    state = {name: torch.from_numpy(array) for name, array in marian_state(model)}
    theirs.load_state_dict(state, assign=True)
    return theirs.eval()


def marian_state(model):
    """The parameters of our model by the names that they have there."""
    norms = {
        "encoder": ("self_attn_layer_norm", "final_layer_norm"),
        "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    }
    names = {"linear1": "fc1", "linear2": "fc2", "multihead_attn": "encoder_attn"}
    state = model.state_dict()
    yield "lm_head.weight", state.pop("output_projection.weight")
    yield "final_logits_bias", state.pop("output_projection.bias")[None]
    for side, embedding in (("encoder", "src_embedding"), ("decoder", "tgt_embedding")):
        yield f"model.{side}.embed_tokens.weight", state.pop(f"{embedding}.weight")
        yield f"model.{side}.embed_positions.weight", positions(model.config)
        names.update((f"{side} norm{i}", name) for i, name in enumerate(norms[side], 1))
    for name, array in state.items():
        side, _, i, part, rest = name.split(".", 4)
        part = names.get(part) or names.get(f"{side} {part}", part)
        prefix = f"model.{side}.layers.{i}.{part}"
        if rest.startswith("in_proj_"):
            for projection, rows in zip("qkv", np.split(array, 3), strict=True):
                yield f"{prefix}.{projection}_proj.{rest.removeprefix('in_proj_')}", rows
        else:
            yield f"{prefix}.{rest}", array
