"""The run of a recipe in PyTorch, for comparison. From the repository's root:

    python bench/recipes/torch_twin.py bench/recipes/en_ja.toml runs/en_ja_torch
    pyx-transformer evaluate --model runs/en_ja_torch/model SOURCE TARGET --beam-size 5
    python bench/recipes/torch_twin.py bench/recipes/tinyshakespeare.toml runs/shakespeare_torch

A model of the recipe's sizes, from the same weights, on the same batches in the same order, with
AdamW, the same schedule, clipping and average of the weights. A translator is torch.nn.Transformer,
whose dropout is its own: on attention weights and hidden activations too; that of a language model
is ours. The weights go into a model of this library, which validates and translates as after a run
of its own.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch

from pyx_transformer.training.optimizer import as_schedule
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import reachable, validate

sys.path.append(str(Path(__file__).resolve().parents[2]))
from bench.torch_language_model import LanguageModel
from bench.torch_translator import Translator


def inputs_of(examples, numbers):
    """What a twin is called with, as tensors: of a translator sources, targets and where sources
    are padded, else targets."""
    tgt = padded([[examples.start_id, *examples.targets[i]] for i in numbers], 0)
    if examples.sources is None:
        return [tgt]
    src = padded([examples.sources[i] for i in numbers], -1)
    return [src.clamp(0), tgt, src < 0]


def labels_of(examples, numbers):
    """The token after each of the targets' (B, T), -1 behind the end."""
    return padded([[*examples.targets[i], examples.end_id] for i in numbers], -1)


def padded(sequences, fill):
    """(B, T), filled up to the longest."""
    tensors = [torch.tensor(ids) for ids in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)


def run(recipe, folder, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.training.seed)
    options, model = recipe.training, recipe.build()
    examples, dev = recipe.split(model)
    metric = "bleu" if model.has_encoder else "loss"
    state = model.state_dict()
    twin = (Translator if model.has_encoder else LanguageModel)(model.config, options.dropout)
    twin.load(state)
    optimizer = torch.optim.AdamW(
        twin.parameters(),
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    parameters = twin.our_parameters(state)
    average = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    cross_entropy = torch.nn.CrossEntropyLoss(
        label_smoothing=options.label_smoothing, ignore_index=-1
    )
    schedule = as_schedule("torch_twin", options.schedule)
    folder.mkdir(parents=True)
    step, epoch, best, begun = 0, 0, -math.inf, time.monotonic()
    while step < options.steps:
        for numbers in examples.epoch(options.seed, epoch, options.batch_tokens):
            step += 1
            rate = schedule(
                step, peak=options.peak_rate, warmup=options.warmup, steps=options.steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            twin.train()
            optimizer.zero_grad()
            logits = twin(*inputs_of(examples, numbers))
            loss = cross_entropy(logits.flatten(0, 1), labels_of(examples, numbers).flatten())
            loss.backward()
            if options.max_norm:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), options.max_norm)
            optimizer.step()
            kept = min(options.average_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for key, parameter in parameters.items():
                    average[key].lerp_(parameter, 1 - kept)
            if step % options.validate_every == 0 or step == options.steps:
                model.load_state_dict({key: value.numpy() for key, value in average.items()})
                length = reachable(model, options.max_length)
                figures = validate(model, dev, with_bleu=metric == "bleu", max_length=length)
                entry = {"step": step, "seconds": time.monotonic() - begun, "validation": figures}
                with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                print(entry, flush=True)
                value = figures[metric] if metric == "bleu" else -figures[metric]
                if value > best:
                    best = value
                    model.save(folder / "model")
            if step == options.steps:
                break
        epoch += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    changes = {"training.steps": arguments.steps} if arguments.steps else None
    run(load_recipe(arguments.recipe, changes), arguments.folder, arguments.threads)
