"""Measurements of this library beside others on the same cores: `python -m bench kernels`.

    __main__    arguments, environment, choice of the benchmark
    kernels     one benchmark: its rows (from product, attention, elementwise and block), its bars
    encoder     another: encoder stacks, and through footprint import time and size
    decode      another: greedy and beam search, the Python of a step, memory
    train       another: training steps, backward attention, memory; torch_translator is PyTorch's
    busy        another: work while other processes hold the cores
    report      runs the rows of a benchmark, prints them, keeps them as JSON
    rows        what a row, its result, a bar and a benchmark are
    timing      contestants in turn
    machine     what ran it, and the limits it has, by the loops of limits and limits.c
    peers       the other libraries; graphs and translators are the models for some of them

    recipes/    training runs as TOML files, the scripts beside them, and scripts that run models
                which lie in packages of others; torch_language_model is PyTorch's for one of them

A further benchmark is a further module with a `BENCHMARK`, and its name in `__main__`.
"""
