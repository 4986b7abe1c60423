"""What `python -m pytest -m quick` runs: files of every part of the package, which take less than a
minute on two cores together (`.ci/run` holds them to it), and of tests of every instruction set
those of the one that is used here.
"""

QUICK = {
    "the order of the source": ("layering", "public_names", "typed"),
    "kernels": ("ops", "attention", "training_kernels"),
    "layers and models": ("layers", "transformer", "reprs"),
    "generation": ("generation",),
    "training": ("optimizer", "training", "recipe"),
    "checkpoints": ("state_dicts", "families"),
    "text": ("text", "text_generator", "translation"),
    "commands": ("paths", "commands_of_texts"),
}
FILES = {f"test_{name}.py" for names in QUICK.values() for name in names}
