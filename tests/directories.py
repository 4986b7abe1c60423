"""Small directories as transformers writes them: random weights, and tokenizers of real texts.

Weights are larger than a fresh model's, and those of a generator's embeddings smaller, so that what
comes out changes with what goes in. All need the packages torch, transformers, tokenizers and
sentencepiece, which are imported here only.
"""

import io
import json
import re
from collections import Counter

import pytest

SIZES = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 44,
    "max_position_embeddings": 70,
    "scale_embedding": True,
    "init_std": 1.0,
}


# Those of the test data, by the kind of model.
ENCODERS = (
    "albert, bert, bert_classifier, bert_masked, bert_tagger, distilbert, distilbert_classifier, "
    "modernbert, mpnet, roberta, roberta_reranker, xlm_roberta"
)
LANGUAGE_MODELS = "gemma2, gpt2, gpt_neox, llama, llama3_scaled, mistral, qwen2, qwen3"
TRANSLATORS = "bart, m2m_100, marian, mbart, mt5, t5, t5_v11, umt5"
TINY = {
    name: kind
    for kind, names in (
        ("EncoderModel", ENCODERS),
        ("TransformerLM", LANGUAGE_MODELS),
        ("Transformer", TRANSLATORS),
    )
    for name in names.split(", ")
}


def library():
    """transformers, silent, on one thread; the test is skipped where it or what it needs is
    missing."""
    names = ("sentencepiece", "tokenizers", "torch", "transformers")
    reason = "needs transformers and its packages to make directories"
    *_, torch, found = (
        pytest.importorskip(name, reason=reason, exc_type=ImportError) for name in names
    )
    torch.set_num_threads(1)
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


def lines(shared_data, language="en", count=1500):
    """Sentences to make tokenizers of."""
    path = shared_data / "tanaka-en-ja" / f"train.{language}"
    return path.read_text("utf-8").splitlines()[:count]


def write(folder, kind, config, tokenizer=None, embeddings=0.3, **generation):
    """A model of a class of transformers with random weights, those of embeddings times a factor,
    and its tokenizer."""
    import torch

    torch.manual_seed(0)
    model = kind(config)
    model.get_input_embeddings().weight.data *= embeddings
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


# Tokenizers.


def sentence_pieces(texts, size, **settings):
    """A SentencePiece model's file."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        minloglevel=2,
        num_threads=1,
        **settings,
    )
    return model.getvalue()


def pieces_of(model):
    """The pieces of such a file in the order of their ids, with scores."""
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(own.IdToPiece(i), own.GetScore(i)) for i in range(own.GetPieceSize())]


def word_pieces(texts, words=200, **settings):
    """A WordPiece tokenizer in lower case: so many whole words, and characters for all others."""
    found = Counter(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower()))
    characters = sorted(set("".join(found)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    tokens += [f"##{character}" for character in characters]
    tokens += sorted(found, key=lambda word: (-found[word], word))[:words]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return library().BertTokenizer(vocab=ids, model_max_length=64, **settings)


def byte_pairs(texts, size=400):
    """The vocabulary and the merges of a byte-level BPE of texts."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=size, min_frequency=1, show_progress=False)
    values = json.loads(made.to_str())["model"]
    return values["vocab"], [tuple(pair) for pair in values["merges"]]


# Translators.


def marian(folder, shared_data, codes=()):
    """Two SentencePiece models, the pieces of both but some in one vocab.json, and codes of
    languages such as >>deu<<."""
    tf, texts = library(), lines(shared_data)
    tokens = ["</s>", "<unk>"]
    for name, part in (("source", texts), ("target", texts[:700])):
        model = sentence_pieces(part, 300)
        (folder / f"{name}.spm").write_bytes(model)
        tokens += [piece for piece, _ in pieces_of(model)[3:] if piece not in tokens]
    tokens = [*tokens[:-20], *(f">>{code}<<" for code in codes), "<pad>"]
    ids = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    pad = ids["<pad>"]
    config = tf.MarianConfig(
        vocab_size=len(tokens),
        pad_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        decoder_start_token_id=pad,
        bos_token_id=None,
        **{**SEQ2SEQ, "decoder_layers": 4, "init_std": 2.0},
    )
    settings = {"bad_words_ids": [[pad]], "max_length": 40}
    return write(folder, tf.MarianMTModel, config, tf.MarianTokenizer(*files), **settings)


def m2m_100(folder, shared_data):
    """Pieces looked up in vocab.json, and a hundred languages, which no file names."""
    tf = library()
    model = sentence_pieces(lines(shared_data), 300)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(piece for piece, _ in pieces_of(model)[3:])]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    tokenizer = tf.M2M100Tokenizer(*files)
    config = tf.M2M100Config(vocab_size=len(tokens) + 100, **SEQ2SEQ)
    return write(folder, tf.M2M100ForConditionalGeneration, config, tokenizer)


def nllb(folder, shared_data, **settings):
    """M2M-100 with the tokenizer of NLLB, a tokenizer.json."""
    tf = library()
    vocabulary, merges = metaspace_pairs(lines(shared_data))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ids = {token: i for i, token in enumerate([*special, *vocabulary])}
    tokenizer = tf.NllbTokenizer(vocab=ids, merges=merges, **settings)
    config = tf.M2M100Config(vocab_size=len(tokenizer), **SEQ2SEQ)
    return write(folder, tf.M2M100ForConditionalGeneration, config, tokenizer)


def metaspace_pairs(texts):
    """The tokens and the merges of a BPE of characters with a mark for spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    values = json.loads(made.to_str())["model"]
    tokens = sorted(values["vocab"], key=values["vocab"].get)
    return tokens, [tuple(pair) for pair in values["merges"]]


def mbart_50(folder, shared_data):
    """SentencePiece's pieces behind four special tokens, languages first in sources."""
    tf = library()
    own = pieces_of(sentence_pieces(lines(shared_data), 300))
    tokenizer = tf.MBart50Tokenizer(vocab=own, src_lang="en_XX", tgt_lang="de_DE")
    config = tf.MBartConfig(
        vocab_size=len(tokenizer), decoder_start_token_id=2, forced_eos_token_id=2, **SEQ2SEQ
    )
    return write(folder, tf.MBartForConditionalGeneration, config, tokenizer)


def t5(folder, shared_data):
    """T5 with prefixes of tasks in its config."""
    tf = library()
    own = sentence_pieces(
        lines(shared_data), 300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, unk_surface=" <unk> "
    )
    (folder / "spiece.model").write_bytes(own)
    tokenizer = tf.T5Tokenizer(vocab=pieces_of(own), extra_ids=7)
    config = tf.T5Config(
        vocab_size=320,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        initializer_factor=4.0,
        task_specific_params={
            "translation_en_to_de": {"prefix": "translate English to German: ", "num_beams": 4},
            "translation_en_to_fr": {"prefix": "translate English to French: "},
            "summarization": {"prefix": "summarize: "},
        },
    )
    return write(folder, tf.T5ForConditionalGeneration, config, tokenizer)


# Encoders.


def bert(folder, shared_data, kind="BertModel", positions=64, tokenizer=None, **settings):
    """BERT with any head."""
    tf = library()
    if tokenizer is None:
        tokenizer = word_pieces(lines(shared_data))
    config = tf.BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=52,
        max_position_embeddings=positions,
        **{**SIZES, "initializer_range": 0.3, **settings},
    )
    return write(folder, getattr(tf, kind), config, tokenizer, embeddings=3)


def roberta(folder, shared_data, kind="RobertaModel", **settings):
    """RoBERTa with any head, over bytes."""
    tf = library()
    vocabulary, merges = byte_pairs(lines(shared_data))
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    ids = {token: i for i, token in enumerate([*special[:4], *vocabulary, special[4]])}
    tokenizer = tf.RobertaTokenizer(vocab=ids, merges=merges, model_max_length=64)
    config = tf.RobertaConfig(
        vocab_size=len(ids),
        intermediate_size=52,
        max_position_embeddings=66,
        type_vocab_size=1,
        **{**SIZES, "initializer_range": 0.3, **settings},
    )
    return write(folder, getattr(tf, kind), config, tokenizer, embeddings=3)


# Language models.


def gpt2(folder, shared_data):
    """GPT-2 over the bytes of English and Japanese."""
    tf = library()
    texts = lines(shared_data, count=600) + lines(shared_data, "ja", 300)
    vocabulary, merges = byte_pairs(texts, 420)
    ids = {token: i for i, token in enumerate([*vocabulary, "<|endoftext|>"])}
    tokenizer = tf.GPT2Tokenizer(vocab=ids, merges=merges)
    end = ids["<|endoftext|>"]
    config = tf.GPT2Config(
        vocab_size=len(ids),
        n_positions=80,
        n_embd=36,
        n_layer=2,
        n_head=3,
        bos_token_id=end,
        eos_token_id=end,
        initializer_range=0.4,
    )
    return write(folder, tf.GPT2LMHeadModel, config, tokenizer)


def llama(folder, shared_data):
    """LLaMA over SentencePiece's pieces, and bytes where those lack a character."""
    tf = library()
    own = sentence_pieces(
        lines(shared_data, count=600), 380, model_type="bpe", byte_fallback=True, pad_id=-1
    )
    (folder / "tokenizer.model").write_bytes(own)
    config = tf.LlamaConfig(
        vocab_size=380,
        intermediate_size=52,
        max_position_embeddings=80,
        initializer_range=0.4,
        **{**SIZES, "num_attention_heads": 2},
    )
    return write(folder, tf.LlamaForCausalLM, config)


# What sentence-transformers writes beside a model.


def sentence_transformer(folder, poolings, dense=(), normalize=False, inside="", prompts=None):
    """The modules of a directory whose model lies in a folder inside it, "" for none.

    poolings: the values of 1_Pooling/config.json; dense: the values and the tensors of each map;
    prompts: the values of config_sentence_transformers.json.
    """
    from safetensors.numpy import save_file

    modules = [("Transformer", inside), ("Pooling", "1_Pooling")]
    write_json(folder / "1_Pooling/config.json", poolings)
    for i, (values, tensors) in enumerate(dense):
        path = f"{i + 2}_Dense"
        modules.append(("Dense", path))
        write_json(folder / path / "config.json", values)
        save_file(tensors, folder / path / "model.safetensors")
    if normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    if prompts is not None:
        write_json(folder / "config_sentence_transformers.json", prompts)
    return folder


def write_json(path, values):
    """A JSON file, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), "utf-8")
