"""Published architectures as descriptions: for each family, what its config.json and its arrays
are as a config and a state of ours. Nothing but names and sizes is translated.

A function takes a config and arrays by their names, the weights or their gradients, and returns
our config and state; what a gradient is not known of is left out.
"""

import numpy as np

import pyx_transformer as pt

KINDS = ("weight", "bias")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def moved(theirs, names):
    """The weights and biases of layers by our names."""
    return {
        f"{ours}.{kind}": theirs[f"{their}.{kind}"]
        for ours, their in names.items()
        for kind in KINDS
        if f"{their}.{kind}" in theirs
    }


def attention(theirs, ours, inputs, output):
    """An attention's state: the projections of queries, keys and values one above the other."""
    state = moved(theirs, {f"{ours}.out_proj": output})
    for kind in KINDS:
        if f"{inputs[0]}.{kind}" in theirs:
            parts = [theirs[f"{name}.{kind}"] for name in inputs]
            state[f"{ours}.in_proj_{kind}"] = np.concatenate(parts)
    return state


def layers(theirs, ours, their, count, names, self_attn, multihead_attn=None):
    """The state of all layers of a stack; {} in `their` stands for the number of one."""
    state = {}
    for i in range(count):
        inner, outer = f"{ours}.layers.{i}", their.format(i)
        state |= moved(theirs, {f"{inner}.{a}": f"{outer}.{b}" for a, b in names.items()})
        attentions = {"self_attn": self_attn, "multihead_attn": multihead_attn}
        for name, parts in attentions.items():
            if parts is not None:
                *inputs, output = (f"{outer}.{part}" for part in parts)
                state |= attention(theirs, f"{inner}.{name}", inputs, output)
    return state


def pre_norm(*blocks, norm):
    """Blocks one after the other, a norm before each."""
    return pt.LayerConfig(tuple(pt.SubLayerConfig(block, norm_before=norm) for block in blocks))


def post_norm(*blocks, norm):
    """Blocks one after the other, a norm of each sum."""
    return pt.LayerConfig(tuple(pt.SubLayerConfig(block, norm_sum=norm) for block in blocks))


# Decoders. What we call the start token is the prompt's first one: these models have none.


def language_model(config, decoder, start_id, **changes):
    return pt.TransformerLMConfig(
        config["vocab_size"],
        decoder,
        **{
            "positions": "none",
            "scale_embeddings": False,
            "tie_output": config["tie_word_embeddings"],
            "output_bias": False,
            "start_id": int(start_id),
            "end_id": config["eos_token_id"],
            **changes,
        },
    )


def rotary_of(parameters, **changes):
    scaling = {}
    if parameters["rope_type"] == "llama3":
        scaling = {
            "scaling": "llama3",
            "factor": parameters["factor"],
            "low_frequency_factor": parameters["low_freq_factor"],
            "high_frequency_factor": parameters["high_freq_factor"],
            "original_length": parameters["original_max_position_embeddings"],
        }
    return pt.RotaryConfig(base=parameters["rope_theta"], **scaling, **changes)


LLAMA_LAYER = {
    "linear1": "mlp.gate_proj",
    "linear2": "mlp.down_proj",
    "linear3": "mlp.up_proj",
    "self_attn.q_norm": "self_attn.q_norm",
    "self_attn.k_norm": "self_attn.k_norm",
}
LLAMA_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
PROJECTIONS = [f"self_attn.{part}_proj" for part in "qkvo"]


def llama_state(config, theirs, names):
    state = moved(
        theirs,
        {
            "tgt_embedding": "model.embed_tokens",
            "decoder.norm": "model.norm",
            "output_projection": "lm_head",
        },
    )
    count = config["num_hidden_layers"]
    return state | layers(theirs, "decoder", "model.layers.{}", count, names, PROJECTIONS)


def llama(config, theirs, start_id):
    """Llama, Mistral with its window, Qwen 2 with biases, Qwen 3 with norms of heads."""
    norm = pt.NormConfig("rms_norm", config["rms_norm_eps"])
    window = config.get("sliding_window")
    block = pt.AttentionConfig(
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config.get("head_dim"),
        is_causal=True,
        bias="model.layers.0.self_attn.q_proj.bias" in theirs,
        output_bias=False,
        window=None if window is None else (window - 1, None),
        rotary=rotary_of(config["rope_parameters"]),
        head_norm=norm if "model.layers.0.self_attn.q_norm.weight" in theirs else None,
    )
    gate = pt.FeedForwardConfig(
        config["intermediate_size"], ACTIVATIONS[config["hidden_act"]], gated=True, bias=False
    )
    stack = pt.StackConfig(
        config["hidden_size"],
        config["num_hidden_layers"],
        (pre_norm(block, gate, norm=norm),),
        norm,
    )
    state = llama_state(config, theirs, LLAMA_LAYER | LLAMA_NORMS)
    return language_model(config, stack, start_id), state


def gemma2(config, theirs, start_id):
    """Norms before and after each block, local and global attention in turn, capped scores."""
    norm = pt.NormConfig("rms_norm", config["rms_norm_eps"])

    def layer(kind):
        is_local = kind == "sliding_attention"
        block = pt.AttentionConfig(
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            is_causal=True,
            bias=False,
            output_bias=False,
            scale=config["query_pre_attn_scalar"] ** -0.5,
            softcap=config["attn_logit_softcapping"],
            window=(config["sliding_window"] - 1, None) if is_local else None,
            rotary=rotary_of(config["rope_parameters"]),
        )
        gate = pt.FeedForwardConfig(
            config["intermediate_size"],
            ACTIVATIONS[config["hidden_activation"]],
            gated=True,
            bias=False,
        )
        both = {"norm_before": norm, "norm_after": norm}
        return pt.LayerConfig((pt.SubLayerConfig(block, **both), pt.SubLayerConfig(gate, **both)))

    # They add 1 to the weights of norms.
    theirs = {name: array + ("norm" in name) for name, array in theirs.items()}
    norms = {
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "norm3": "pre_feedforward_layernorm",
        "norm4": "post_feedforward_layernorm",
    }
    stack = pt.StackConfig(
        config["hidden_size"],
        config["num_hidden_layers"],
        tuple(layer(kind) for kind in config["layer_types"][:2]),
        norm,
    )
    ours = language_model(config, stack, start_id, scale_embeddings=True)
    return ours, llama_state(config, theirs, LLAMA_LAYER | norms)


def gpt_neox(config, theirs, start_id):
    """Attention and feed-forward side by side; a part of each head turns."""
    norm, heads = pt.NormConfig(eps=config["layer_norm_eps"]), config["num_attention_heads"]
    head_size = config["hidden_size"] // heads
    parameters = config["rope_parameters"]
    size = int(head_size * parameters["partial_rotary_factor"])
    block = pt.AttentionConfig(heads, is_causal=True, rotary=rotary_of(parameters, size=size))
    wide = pt.FeedForwardConfig(config["intermediate_size"], ACTIVATIONS[config["hidden_act"]])
    layer = pt.LayerConfig(pre_norm(block, wide, norm=norm).sub_layers, side_by_side=True)
    stack = pt.StackConfig(config["hidden_size"], config["num_hidden_layers"], (layer,), norm)
    theirs = {
        # Theirs hold queries, keys and values head by head.
        name: np.concatenate(array.reshape(heads, 3, head_size, -1).swapaxes(0, 1)).reshape(
            array.shape
        )
        if "query_key_value" in name
        else array
        for name, array in theirs.items()
    }
    state = moved(
        theirs,
        {
            "tgt_embedding": "gpt_neox.embed_in",
            "decoder.norm": "gpt_neox.final_layer_norm",
            "output_projection": "embed_out" if "embed_out.weight" in theirs else "lm_head",
        },
    )
    names = {
        **LLAMA_NORMS,
        "linear1": "mlp.dense_h_to_4h",
        "linear2": "mlp.dense_4h_to_h",
    }
    parts = ["attention.query_key_value", "attention.dense"]
    count = config["num_hidden_layers"]
    state |= layers(theirs, "decoder", "gpt_neox.layers.{}", count, names, parts)
    return language_model(config, stack, start_id), state


def gpt2(config, theirs, start_id):
    """The plain pre-norm decoder, by its sizes; their linear weights are (in, out)."""
    ours = pt.TransformerLMConfig(
        config["vocab_size"],
        d_model=config["n_embd"],
        num_heads=config["n_head"],
        num_decoder_layers=config["n_layer"],
        d_ff=4 * config["n_embd"],
        activation=ACTIVATIONS[config["activation_function"]],
        norm_first=True,
        final_norm=True,
        layer_norm_eps=config["layer_norm_epsilon"],
        positions="learned",
        max_length=config["n_positions"],
        scale_embeddings=False,
        tie_output=True,
        output_bias=False,
        start_id=int(start_id),
        end_id=config["eos_token_id"],
    )
    theirs = {
        name: array.T if ".c_" in name and array.ndim == 2 else array
        for name, array in theirs.items()
    }
    state = moved(
        theirs,
        {
            "tgt_embedding": "transformer.wte",
            "tgt_positions": "transformer.wpe",
            "decoder.norm": "transformer.ln_f",
        },
    )
    names = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "linear1": "mlp.c_fc",
        "linear2": "mlp.c_proj",
    }
    parts = ["attn.c_attn", "attn.c_proj"]
    state |= layers(theirs, "decoder", "transformer.h.{}", config["n_layer"], names, parts)
    return ours, state


DECODERS = {
    "llama": llama,
    "llama3_scaled": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "gemma2": gemma2,
    "gpt_neox": gpt_neox,
    "gpt2": gpt2,
}


# Encoders.


def encoder_model(config, stack, norm, positions, **changes):
    learned = {} if positions is None else {"positions": "learned", "max_length": len(positions)}
    return pt.EncoderConfig(
        config["vocab_size"],
        stack,
        **{
            "positions": "none",
            "scale_embeddings": False,
            "embedding_norm": norm,
            **learned,
            **changes,
        },
    )


BERT_LAYER = {
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
}
BERT_PARTS = [f"attention.self.{part}" for part in ("query", "key", "value")]
BERT_PARTS.append("attention.output.dense")
EMBEDDINGS = {
    "src_embedding": "embeddings.word_embeddings",
    "src_positions": "embeddings.position_embeddings",
    "token_type_embedding": "embeddings.token_type_embeddings",
    "src_embedding_norm": "embeddings.LayerNorm",
}


def without_first_positions(theirs, count):
    """Real tokens begin at the position `count` of their table."""
    name = "embeddings.position_embeddings.weight"
    return {**theirs, name: theirs[name][count:]}


def bert(config, theirs, layer=BERT_LAYER, parts=BERT_PARTS, distance_bias=None):
    """BERT; RoBERTa and XLM-R, whose positions begin behind that of the padding; MPNet."""
    theirs = {name.removeprefix("bert."): array for name, array in theirs.items()}
    if config["model_type"] != "bert":
        theirs = without_first_positions(theirs, config["pad_token_id"] + 1)
    norm = pt.NormConfig(eps=config["layer_norm_eps"])
    block = pt.AttentionConfig(config["num_attention_heads"], distance_bias=distance_bias)
    wide = pt.FeedForwardConfig(config["intermediate_size"], ACTIVATIONS[config["hidden_act"]])
    count = config["num_hidden_layers"]
    stack = pt.StackConfig(config["hidden_size"], count, (post_norm(block, wide, norm=norm),))
    has_head = "cls.predictions.bias" in theirs
    ours = encoder_model(
        config,
        stack,
        norm,
        theirs["embeddings.position_embeddings.weight"],
        num_token_types=config.get("type_vocab_size", 0),
        pooler="pooler.dense.weight" in theirs,
        head=pt.MaskedLMConfig(ACTIVATIONS[config["hidden_act"]], norm) if has_head else None,
    )
    state = moved(
        theirs,
        {
            **EMBEDDINGS,
            "encoder.distance_bias": "encoder.relative_attention_bias",
            "pooler": "pooler.dense",
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "output_projection": "cls.predictions",
        },
    )
    return ours, state | layers(theirs, "encoder", "encoder.layer.{}", count, layer, parts)


def mpnet(config, theirs):
    """A bias by distance that all layers share."""
    parts = [f"attention.attn.{part}" for part in "qkvo"]
    bias = pt.DistanceBiasConfig(config["relative_attention_num_buckets"])
    return bert(config, theirs, BERT_LAYER | {"norm1": "attention.LayerNorm"}, parts, bias)


def distilbert(config, theirs):
    norm = pt.NormConfig(eps=1e-12)
    block = pt.AttentionConfig(config["n_heads"])
    wide = pt.FeedForwardConfig(config["hidden_dim"], ACTIVATIONS[config["activation"]])
    count = config["n_layers"]
    stack = pt.StackConfig(config["dim"], count, (post_norm(block, wide, norm=norm),))
    positions = theirs["embeddings.position_embeddings.weight"]
    names = {
        "norm1": "sa_layer_norm",
        "norm2": "output_layer_norm",
        "linear1": "ffn.lin1",
        "linear2": "ffn.lin2",
    }
    parts = [f"attention.{part}_lin" for part in ("q", "k", "v", "out")]
    state = moved(theirs, EMBEDDINGS)
    state |= layers(theirs, "encoder", "transformer.layer.{}", count, names, parts)
    return encoder_model(config, stack, norm, positions), state


def albert(config, theirs):
    """One set of weights for all layers, embeddings narrower than the rows."""
    norm = pt.NormConfig(eps=config["layer_norm_eps"])
    block = pt.AttentionConfig(config["num_attention_heads"])
    wide = pt.FeedForwardConfig(config["intermediate_size"], ACTIVATIONS[config["hidden_act"]])
    stack = pt.StackConfig(
        config["hidden_size"],
        config["num_hidden_layers"],
        (post_norm(block, wide, norm=norm),),
        share_weights=True,
    )
    ours = encoder_model(
        config,
        stack,
        norm,
        theirs["embeddings.position_embeddings.weight"],
        num_token_types=config["type_vocab_size"],
        embedding_size=config["embedding_size"],
        pooler=True,
    )
    state = moved(
        theirs,
        {
            **EMBEDDINGS,
            "embedding_projection": "encoder.embedding_hidden_mapping_in",
            "pooler": "pooler",
        },
    )
    names = {
        "norm1": "attention.LayerNorm",
        "norm2": "full_layer_layer_norm",
        "linear1": "ffn",
        "linear2": "ffn_output",
    }
    parts = [f"attention.{part}" for part in ("query", "key", "value", "dense")]
    group = "encoder.albert_layer_groups.{}.albert_layers.0"
    return ours, state | layers(theirs, "encoder", group, 1, names, parts)


def modernbert(config, theirs):
    """Local and global layers with rotary positions of their own; the first has one norm less."""
    norm = pt.NormConfig(eps=config["norm_eps"], bias=config["norm_bias"])
    gate = pt.FeedForwardConfig(
        config["intermediate_size"],
        ACTIVATIONS[config["hidden_activation"]],
        gated=True,
        bias=config["mlp_bias"],
    )
    reach = config["local_attention"] // 2

    def layer(i, kind):
        block = pt.AttentionConfig(
            config["num_attention_heads"],
            bias=config["attention_bias"],
            output_bias=config["attention_bias"],
            window=(reach, reach) if kind == "sliding_attention" else None,
            rotary=rotary_of(config["rope_parameters"][kind]),
        )
        first = pt.SubLayerConfig(block, norm_before=norm if i else None)
        return pt.LayerConfig((first, pt.SubLayerConfig(gate, norm_before=norm)))

    count = config["num_hidden_layers"]
    stack = pt.StackConfig(
        config["hidden_size"],
        count,
        tuple(layer(i, kind) for i, kind in enumerate(config["layer_types"])),
        norm,
    )
    theirs = dict(theirs)
    for i in range(count):
        name = f"layers.{i}.mlp"
        halves = np.split(theirs[f"{name}.Wi.weight"], 2)
        theirs |= dict(zip((f"{name}.W1.weight", f"{name}.W3.weight"), halves, strict=True))
        norms = [f"layers.{i}.{norm}.weight" for norm in ("attn_norm", "mlp_norm")]
        for n, norm_name in enumerate((norm for norm in norms if norm in theirs), 1):
            theirs[f"layers.{i}.norm{n}.weight"] = theirs[norm_name]
    state = moved(
        theirs,
        {
            "src_embedding": "embeddings.tok_embeddings",
            "src_embedding_norm": "embeddings.norm",
            "encoder.norm": "final_norm",
        },
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "linear1": "mlp.W1",
        "linear2": "mlp.Wo",
        "linear3": "mlp.W3",
    }
    state |= layers(theirs, "encoder", "layers.{}", count, names, ["attn.Wqkv", "attn.Wo"])
    return encoder_model(config, stack, norm, None), state


ENCODERS = {
    "bert": bert,
    "bert_masked": bert,
    "roberta": bert,
    "xlm_roberta": bert,
    "mpnet": mpnet,
    "distilbert": distilbert,
    "albert": albert,
    "modernbert": modernbert,
}


# Encoder-decoders.


def t5(config, theirs):
    """T5, mT5 and UMT5, each of whose layers has a bias by distance of its own."""
    norm = pt.NormConfig("rms_norm", config["layer_norm_epsilon"])
    is_shared = config["model_type"] != "umt5"
    parts = [f"{{}}.{part}" for part in "qkvo"]

    def attention_config(**kind):
        return pt.AttentionConfig(
            config["num_heads"],
            head_size=config["d_kv"],
            scale=1.0,
            bias=False,
            output_bias=False,
            **kind,
        )

    def bias(is_encoder):
        return pt.DistanceBiasConfig(
            config["relative_attention_num_buckets"],
            config["relative_attention_max_distance"],
            bidirectional=is_encoder,
            shared=is_shared,
        )

    wide = pt.FeedForwardConfig(
        config["d_ff"],
        ACTIVATIONS[config["dense_act_fn"]],
        gated=config["is_gated_act"],
        bias=False,
    )
    encoder = pre_norm(attention_config(distance_bias=bias(True)), wide, norm=norm)
    decoder = pre_norm(
        attention_config(is_causal=True, distance_bias=bias(False)),
        attention_config(is_cross=True),
        wide,
        norm=norm,
    )
    width = config["d_model"]
    ours = pt.TransformerConfig(
        config["vocab_size"],
        config["vocab_size"],
        pt.StackConfig(width, config["num_layers"], (encoder,), norm),
        pt.StackConfig(width, config["num_decoder_layers"], (decoder,), norm),
        positions="none",
        scale_embeddings=False,
        share_embeddings=True,
        tie_output=True,
        output_bias=False,
        start_id=config["decoder_start_token_id"],
        end_id=config["eos_token_id"],
    )
    if config.get("scale_decoder_outputs"):  # a part of the last norm's weight
        last_norm = "decoder.final_layer_norm.weight"
        theirs = {**theirs, last_norm: theirs[last_norm] * np.float32(width**-0.5)}
    state = moved(theirs, {"src_embedding": "shared"})
    feed_forwards = {"linear1": "wi", "linear2": "wo"}
    if config["is_gated_act"]:
        feed_forwards = {"linear1": "wi_0", "linear2": "wo", "linear3": "wi_1"}
    self_attn = [part.format("layer.0.SelfAttention") for part in parts]
    cross = [part.format("layer.1.EncDecAttention") for part in parts]
    table = "layer.0.SelfAttention.relative_attention_bias"
    for name, count, last in (("encoder", "num_layers", 1), ("decoder", "num_decoder_layers", 2)):
        names = {f"norm{i + 1}": f"layer.{i}.layer_norm" for i in range(last + 1)}
        dense = f"layer.{last}.DenseReluDense"
        names |= {ours: f"{dense}.{their}" for ours, their in feed_forwards.items()}
        if not is_shared:
            names["self_attn.distance_bias"] = table
        state |= layers(
            theirs,
            name,
            f"{name}.block.{{}}",
            config[count],
            names,
            self_attn,
            cross if name == "decoder" else None,
        )
        state |= moved(theirs, {f"{name}.norm": f"{name}.final_layer_norm"})
        if is_shared:
            state |= moved(theirs, {f"{name}.distance_bias": f"{name}.block.0.{table}"})
    return ours, state


def bart(config, theirs):
    """BART, mBART with norms before, Marian and M2M100 with sinusoids."""
    kind = config["model_type"]
    norm, is_first = pt.NormConfig(), kind in ("mbart", "m2m_100")
    has_tables = kind in ("bart", "mbart")
    width, size = config["d_model"], config["vocab_size"]
    place = pre_norm if is_first else post_norm

    def stack(name, *attentions):
        wide = pt.FeedForwardConfig(
            config[f"{name}_ffn_dim"], ACTIVATIONS[config["activation_function"]]
        )
        return pt.StackConfig(
            width,
            config[f"{name}_layers"],
            (place(*attentions, wide, norm=norm),),
            norm if is_first else None,
        )

    heads = config["decoder_attention_heads"]
    own, cross = pt.AttentionConfig(heads, is_causal=True), pt.AttentionConfig(heads, is_cross=True)
    first = 0 if kind == "marian" else 2  # the position of the first token
    positions = {"position_layout": "halves", "position_start": first}
    if has_tables:
        theirs = {
            name: array[first:] if "embed_positions" in name else array
            for name, array in theirs.items()
        }
        length = len(theirs["model.encoder.embed_positions.weight"])
        positions = {"positions": "learned", "max_length": length, "embedding_norm": norm}
    if kind == "m2m_100":
        positions["position_frequencies"] = "tensor2tensor"
    start_id = config.get("decoder_start_token_id")
    ours = pt.TransformerConfig(
        size,
        size,
        stack("encoder", pt.AttentionConfig(config["encoder_attention_heads"])),
        stack("decoder", own, cross),
        scale_embeddings=config["scale_embedding"],
        share_embeddings=True,
        tie_output=True,
        output_bias=True,
        start_id=config["eos_token_id"] if start_id is None else start_id,
        end_id=config["eos_token_id"],
        **positions,
    )
    state = moved(theirs, {"src_embedding": "model.shared"})
    if "final_logits_bias" in theirs:
        state["output_projection.bias"] = theirs["final_logits_bias"].reshape(-1)
    elif "model.shared.weight" in theirs and kind == "m2m_100":
        state["output_projection.bias"] = np.zeros(size, np.float32)
    names = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm"}
    parts = ["q_proj", "k_proj", "v_proj", "out_proj"]
    for name, side in (("encoder", "src"), ("decoder", "tgt")):
        is_decoder = name == "decoder"
        norms = ["encoder_attn_layer_norm"] * is_decoder + ["final_layer_norm"]
        state |= layers(
            theirs,
            name,
            f"model.{name}.layers.{{}}",
            config[f"{name}_layers"],
            names | {f"norm{n}": their for n, their in enumerate(norms, 2)},
            [f"self_attn.{part}" for part in parts],
            [f"encoder_attn.{part}" for part in parts] if is_decoder else None,
        )
        state |= moved(
            theirs,
            {
                f"{name}.norm": f"model.{name}.layer_norm",
                f"{side}_embedding_norm": f"model.{name}.layernorm_embedding",
            },
        )
        if has_tables:
            state |= moved(theirs, {f"{side}_positions": f"model.{name}.embed_positions"})
    return ours, state


ENCODER_DECODERS = {
    "t5": t5,
    "t5_v11": t5,
    "mt5": t5,
    "umt5": t5,
    "bart": bart,
    "marian": bart,
    "mbart": bart,
    "m2m_100": bart,
}
