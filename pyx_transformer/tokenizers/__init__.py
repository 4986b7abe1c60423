"""Text to token ids and back, behind one small protocol.

protocol     what every tokenizer has; the special tokens and languages of those of other people
listed       lists of tokens, words or characters: of models that are trained here
trained      SentencePiece's models, trained here, whose special ids are fixed
pieces       SentencePiece's models with ids of their own: Marian, T5, M2M-100, ALBERT, LLaMA
fast         Hugging Face's tokenizer.json, by the package tokenizers
english      how small corpora write English
"""
