"""All kinds of hostile requests, in a seeded order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType

from support.hostile import bodies, connections, meanings
from support.hostile.wire import Family, Hostile


def _families(module: ModuleType) -> list[Family]:
    """The public functions that a module defines, in its order."""
    return [
        value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and value.__module__ == module.__name__
    ]


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for module in (bodies, meanings, connections)
    for family in _families(module)
}


def hostile_requests(count: int, seed: int) -> Iterator[tuple[str, Hostile]]:
    """`count` requests with their family's name: every family in turn, in shuffled rounds."""
    chance = random.Random(seed)
    names = list(FAMILIES)
    for number in range(count):
        if number % len(names) == 0:
            chance.shuffle(names)
        name = names[number % len(names)]
        yield name, FAMILIES[name](chance)
