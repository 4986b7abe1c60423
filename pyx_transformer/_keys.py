"""What to say of keys that are not those that were expected, however many and long they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

MOST_LISTED = 10
LONGEST_SHOWN = 200


def listed(keys: Iterable[object]) -> str:
    """Keys in order, the first ones and how many more there are."""
    names = sorted(map(str, keys))
    shown = [shortened(name) for name in names[:MOST_LISTED]]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def shortened(text: str) -> str:
    """A key, or what somebody else's error says of one, as far as it is to be shown."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def wrong_keys(unknown: Collection[str], missing: Collection[str], known: Collection[str]) -> str:
    """What to say of keys that are unknown or missing."""
    of_all = [f"[{listed(map(repr, keys))}]" for keys in (unknown, missing)]
    return f"unknown keys {of_all[0]}, missing keys {of_all[1]}; known are {sorted(known)}"


def prefix_problem(state: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """What to say where the keys of a state have a prefix too much, as wrapped models' do, or too
    few."""
    keys = [str(key) for key in state if key not in expected]
    if not keys:
        return []
    for prefix in prefixes_of(keys[0]):
        if all(k.startswith(prefix) and k.removeprefix(prefix) in expected for k in keys):
            return [f"these begin with {prefix!r}, expected the same without it"]
    for prefix in dict.fromkeys(p for key in expected for p in prefixes_of(key)):
        if all(prefix + key in expected for key in keys):
            return [f"expected the same after {prefix!r}"]
    return []


def prefixes_of(key: str) -> list[str]:
    """What a dotted name begins with, the dot included: a. and a.b. for a.b.c."""
    return [key[: i + 1] for i, character in enumerate(key) if character == "."]
