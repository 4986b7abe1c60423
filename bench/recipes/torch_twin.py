"""The run of a translation recipe in PyTorch, for comparison. From the repository's root:

    python bench/recipes/torch_twin.py bench/recipes/en_ja.toml runs/en_ja_torch
    pyx-transformer evaluate --model runs/en_ja_torch/model SOURCE TARGET --beam-size 5

torch.nn.Transformer of the recipe's sizes, from the same weights, on the same batches in the same
order, with AdamW, the same schedule, clipping and average of the weights. Its dropout is its own:
on attention weights and hidden activations too. The weights go into a model of this library, which
validates and translates as after a run of its own.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pyx_transformer.pipelines.texts import padded
from pyx_transformer.training.optimizer import as_schedule
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import validate

sys.path.append(str(Path(__file__).resolve().parents[2]))
from bench.torch_translator import Translator


def run(recipe, folder, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.training.seed)
    options, model = recipe.training, recipe.build()
    examples, dev = recipe.examples(model, "train"), recipe.examples(model, "dev")
    state = model.state_dict()
    twin = Translator(model.config, options.dropout)
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
            src, src_lengths = padded([examples.sources[i] for i in numbers])
            tgt, _ = padded([[examples.start_id, *examples.targets[i]] for i in numbers])
            labels = np.full(tgt.shape, -1)
            for row, i in zip(labels, numbers, strict=True):
                row[: len(examples.targets[i]) + 1] = [*examples.targets[i], examples.end_id]
            twin.train()
            optimizer.zero_grad()
            padding = np.arange(src.shape[1]) >= src_lengths[:, None]
            logits = twin(*map(torch.from_numpy, (src, tgt, padding)))
            loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten())
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
                figures = validate(model, dev, with_bleu=True, max_length=options.max_length)
                entry = {"step": step, "seconds": time.monotonic() - begun, "validation": figures}
                with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                print(entry, flush=True)
                if figures["bleu"] > best:
                    best = figures["bleu"]
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
