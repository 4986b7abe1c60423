"""Models on disk, one module per format.

native         the library's own directories: `save` and `load`
hugging_face   directories of transformers, whose architectures are in `families`
marian         Marian's own files, whose options and vocabularies `flat_yaml` reads
state_dicts    files of weights alone, with a config and names that the caller gives
ctranslate2    directories of CTranslate2
models         models without weights, by their configs
tensors        tensors of a file that are read as they are asked for
safetensors    files of that kind
pytorch        files of torch.save, whose pickles `pickles` reads
npz            files of numpy.savez
tokenizer_files     their tokenizers, and `vocabulary_files` those that are only vocabularies
generation_config   what transformers says of generation
fields         the values of somebody else's config.json
sides          vocabularies and tokenizers of a model's sides as files
"""

from pyx_transformer.checkpoints.native import is_shipped, load, load_model, save

__all__ = ["is_shipped", "load", "load_model", "save"]
