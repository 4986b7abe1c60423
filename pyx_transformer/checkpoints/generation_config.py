"""What transformers' generation_config.json says, as `GenerationOptions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyx_transformer import _checks
from pyx_transformer.checkpoints.fields import Fields, read_fields
from pyx_transformer.generation import GenerationOptions

FILE = "generation_config.json"


def read(directory: Path, config: Fields, *, is_translator: bool) -> GenerationOptions | None:
    """The options of a directory's generation_config.json or, where there is none, those that older
    files have in config.json; None where nothing differs from our defaults.

    Raises ValueError, naming the file, for what is malformed.
    """
    path = directory / FILE
    if path.exists():
        config = read_fields(path)
    try:
        options = GenerationOptions(**settings_of(config, is_translator))
    except (TypeError, ValueError) as error:
        said = str(error)
        raise ValueError(
            said if said.startswith(config.where) else f"{config.where}: {said}"
        ) from error
    return None if options == GenerationOptions() else options


def settings_of(fields: Fields, is_translator: bool) -> dict[str, Any]:
    """Their settings by our names. Lengths count the token that a target begins with, and those of
    a language model the prompt too, so that only its numbers of new tokens can be kept. Both count
    a forced first token."""
    settings: dict[str, Any] = {"last_token": _last_token(fields)}
    forced = 0
    if is_translator:
        first = fields.size("forced_bos_token_id", None, minimum=0)
        settings["first_token"] = first
        forced = int(first is not None)
        for name, least in (("max_length", 1), ("min_length", 0)):
            length = fields.size(name, None, minimum=least)
            if length is not None:
                settings[name] = max(length - 1 - forced, 0)
    for ours, theirs in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = fields.size(theirs, None, minimum=0)
        if length is not None:
            settings[ours] = max(length - forced, 0)
    beams = fields.size("num_beams", 1)
    if fields.flag("do_sample", False) and beams == 1:
        settings |= {"temperature": fields.number("temperature", 1.0, above=0)}
        for name in ("top_k", "top_p", "min_p"):
            value = fields.number(name, None)
            if value:
                settings[name] = int(value) if name == "top_k" else value
    elif beams > 1:
        stops = fields.values.get("early_stopping")
        settings |= {"beam_size": beams, "early_stopping": False if stops is None else stops}
        if "length_penalty" in fields:
            settings["length_penalty"] = fields.values["length_penalty"]
    for name in ("repetition_penalty", "no_repeat_ngram_size"):
        if name in fields:
            settings[name] = fields.values[name]
    banned = fields.items("bad_words_ids", list)
    single = [ids[0] for ids in banned if len(ids) == 1]
    settings["suppress_tokens"] = [*fields.items("suppress_tokens", int), *single]
    settings["suppress_sequences"] = [ids for ids in banned if len(ids) > 1]
    ends = fields.values.get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1:
        settings["end_tokens"] = ends
    return settings


def _last_token(fields: Fields) -> int | None:
    """The one token that is forced at last. Of several they would choose by id, or draw one."""
    name = "forced_eos_token_id"
    if name not in fields:
        return None
    value = fields.values[name]
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(
                f"{fields.where}: {name} is {_checks.brief(value)}, expected one token id"
            )
        value = value[0]
    return _checks.as_integer(fields.where, name, value, 0, _checks.LARGEST_SIZE)
