"""Directories in Hugging Face's layout to try finetune_marian.toml and finetune_llama.toml with:
one shaped as an OPUS-MT translator is, one as LLaMA, of random weights, each with the tokenizer of
its family, made of the task's texts; and the plays as a text of one speech per line. From the
repository's root, with the packages sentencepiece and tokenizers:

    python bench/recipes/shaped.py shaped
    pyx-transformer train bench/recipes/finetune_marian.toml --output runs/marian
    pyx-transformer train bench/recipes/finetune_llama.toml --output runs/llama

A directory with trained weights takes the place of one of these by --set model.start=DIRECTORY.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

DATA = Path("../shared/data")
PIECES = 2000  # of each language, and of the plays
SEED = 0
SPREAD = 0.02  # of a weight
MARIAN = {
    "model_type": "marian",
    "architectures": ["MarianMTModel"],
    "d_model": 128,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 256),
    "activation_function": "swish",
    "max_position_embeddings": 128,
    "scale_embedding": True,
    "static_position_embeddings": True,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), 0),
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write(folder, config, tensors):
    """A directory of config.json and model.safetensors."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Tensors(dict):
    """Random weights by name."""

    def __init__(self):
        self._rng = np.random.default_rng(SEED)

    def add(self, name, *shape):
        """A matrix."""
        self[f"{name}.weight"] = self._rng.normal(0, SPREAD, shape).astype(np.float32)

    def add_with_bias(self, name, *shape):
        """A matrix, and a bias of zeros."""
        self.add(name, *shape)
        self[f"{name}.bias"] = np.zeros(shape[0], np.float32)

    def add_norm(self, name, size, *, bias=False):
        """The weight of a norm, and at will its bias."""
        self[f"{name}.weight"] = np.ones(size, np.float32)
        if bias:
            self[f"{name}.bias"] = np.zeros(size, np.float32)


# Marian's.


def marian(folder, sources, targets, pieces, changes=None, never=0.0):
    """A translator: pieces of each language by SentencePiece, ids of both in vocab.json.

    changes: values in place of those of MARIAN. never: the bias of the logits of special tokens.
    """
    config = {**MARIAN, **(changes or {})}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"</s>": 0, "<unk>": 1}
    for name, texts in (("source", sources), ("target", targets)):
        for piece in sentencepiece(folder / f"{name}.spm", texts, pieces):
            vocabulary.setdefault(piece, len(vocabulary))
    pad = vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    tokenizer = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer) + "\n")
    sizes = dict.fromkeys(("vocab_size", "decoder_vocab_size"), len(vocabulary))
    of_pad = {"pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
    tensors = marian_tensors(len(vocabulary), config)
    tensors["final_logits_bias"][0, [0, 1, pad]] = never
    write(folder, {**config, **sizes, **of_pad}, tensors)


def sentencepiece(path, texts, pieces):
    """Write a model of so many pieces, and return those that stand for text."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=pieces,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.vocab_size())
    return [
        processor.IdToPiece(i)
        for i in ids
        if not (processor.IsControl(i) or processor.IsUnknown(i))
    ]


def marian_tensors(size, config=MARIAN):
    """All weights; the row of the padding, with which targets begin, is zeros."""
    tensors, width = Tensors(), config["d_model"]
    tensors.add("model.shared", size, width)
    tensors["model.shared.weight"][-1] = 0
    tensors["final_logits_bias"] = np.zeros((1, size), np.float32)
    for side, attentions in (("encoder", ["self"]), ("decoder", ["self", "encoder"])):
        wide = config[f"{side}_ffn_dim"]
        for i in range(config[f"{side}_layers"]):
            layer = f"model.{side}.layers.{i}"
            for attention in attentions:
                for part in ("q", "k", "v", "out"):
                    tensors.add_with_bias(f"{layer}.{attention}_attn.{part}_proj", width, width)
                tensors.add_norm(f"{layer}.{attention}_attn_layer_norm", width, bias=True)
            tensors.add_with_bias(f"{layer}.fc1", wide, width)
            tensors.add_with_bias(f"{layer}.fc2", width, wide)
            tensors.add_norm(f"{layer}.final_layer_norm", width, bias=True)
    return tensors


# LLaMA's.


def llama(folder, texts, pieces):
    """A language model: pairs of bytes in tokenizer.json, every text after <s>."""
    folder.mkdir(parents=True, exist_ok=True)
    size = byte_pairs(folder / "tokenizer.json", texts, pieces)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    tokenizer |= {"eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer) + "\n")
    write(folder, {**LLAMA, "vocab_size": size}, llama_tensors(size))


def byte_pairs(path, texts, pieces):
    """Write a tokenizer of so many tokens, and return how many there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", LLAMA["bos_token_id"])]
    )
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


def llama_tensors(size):
    """All weights."""
    tensors, width, wide = Tensors(), LLAMA["hidden_size"], LLAMA["intermediate_size"]
    keys = width // LLAMA["num_attention_heads"] * LLAMA["num_key_value_heads"]
    tensors.add("model.embed_tokens", size, width)
    for i in range(LLAMA["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for part, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            tensors.add(f"{layer}.self_attn.{part}_proj", rows, width)
        for part in ("gate", "up"):
            tensors.add(f"{layer}.mlp.{part}_proj", wide, width)
        tensors.add(f"{layer}.mlp.down_proj", width, wide)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors.add_norm(f"{layer}.{norm}", width)
    tensors.add_norm("model.norm", width)
    tensors.add("lm_head", size, width)
    return tensors


def speeches(play):
    """What stands between empty lines, each on one line."""
    return [" ".join(speech.split()) for speech in play.split("\n\n") if speech.strip()]


def main(folder, data, pieces):
    """Make all of it in a folder."""
    pairs = [
        (data / "tanaka-en-ja" / f"train.{side}").read_text(encoding="utf-8").splitlines()
        for side in ("en", "ja")
    ]
    marian(folder / "marian", *pairs, pieces)
    texts = speeches((data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8"))
    (folder / "speeches.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    llama(folder / "llama", texts, pieces)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pieces", type=int, default=PIECES)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.data, arguments.pieces)
