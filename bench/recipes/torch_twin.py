"""The run of a translation recipe in PyTorch, for comparison. From the repository's root:

    python bench/recipes/torch_twin.py bench/recipes/en_ja.toml runs/en_ja_torch
    pyx-transformer evaluate --model runs/en_ja_torch SOURCE TARGET --beam-size 5

torch.nn.Transformer of the recipe's sizes, from the same weights, on the same batches in the same
order, with AdamW, the same schedule, clipping and average of the weights. Its dropout is its own:
on attention weights and hidden activations too. The weights go into a model of this library, which
validates and translates as after a run of its own.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import pyx_transformer as pt
from pyx_transformer.training.optimizer import as_schedule
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import validate
from pyx_transformer.translation import padded


class Translator(torch.nn.Module):
    """The recipe's model, with its state-dict keys but for the prefix `transformer`."""

    def __init__(self, config, dropout):
        super().__init__()
        self.config = config
        self.transformer = torch.nn.Transformer(
            config.d_model,
            config.num_heads,
            config.num_encoder_layers,
            config.num_decoder_layers,
            config.d_ff,
            dropout=dropout,
            activation=config.activation,
            norm_first=config.norm_first,
            batch_first=True,
        )
        if not config.final_norm:
            self.transformer.encoder.norm = self.transformer.decoder.norm = None
        self.dropout = torch.nn.Dropout(dropout)
        self.src_embedding = torch.nn.Embedding(config.src_vocab_size, config.d_model)
        self.tgt_embedding = torch.nn.Embedding(config.tgt_vocab_size, config.d_model)
        self.output_projection = torch.nn.Linear(config.d_model, config.tgt_vocab_size)
        if config.share_embeddings:
            self.tgt_embedding.weight = self.src_embedding.weight
        if config.tie_output:
            self.output_projection.weight = self.tgt_embedding.weight

    def forward(self, src, src_lengths, tgt):
        padding = torch.arange(src.shape[1]) >= src_lengths[:, None]
        causal = torch.nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
        rows = self.transformer(
            self.embedded(self.src_embedding, src),
            self.embedded(self.tgt_embedding, tgt),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.output_projection(rows)

    def embedded(self, table, ids):
        positions = torch.tensor(pt.sinusoidal_positions(ids.shape[1], self.config.d_model))
        return self.dropout(table(ids) * math.sqrt(self.config.d_model) + positions)


def run(recipe, folder, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.training.seed)
    options, model = recipe.training, recipe.build()
    examples, dev = recipe.examples(model, "train"), recipe.examples(model, "dev")
    state = model.state_dict()
    twin = Translator(model.config, options.dropout)
    twin.load_state_dict({torch_key(k): torch.tensor(a) for k, a in state.items()}, strict=False)
    optimizer = torch.optim.AdamW(
        twin.parameters(),
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    parameters = {key: dict(twin.named_parameters())[torch_key(key)] for key in state}
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
            logits = twin(*map(torch.from_numpy, (src, src_lengths, tgt)))
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


def torch_key(key):
    return f"transformer.{key}" if key.startswith(("encoder.", "decoder.")) else key


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    run(load_recipe(arguments.recipe), arguments.folder, arguments.threads)
