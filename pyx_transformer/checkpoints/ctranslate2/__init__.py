"""Directories of CTranslate2: model.bin, vocabularies, and in newer ones config.json.

container   model.bin: variables by name
layers      what the variables of stacks are as descriptions and a state of ours
models      the same of whole models
directory   all of a directory as a model
"""

from pyx_transformer.checkpoints.ctranslate2.directory import load

__all__ = ["load"]
