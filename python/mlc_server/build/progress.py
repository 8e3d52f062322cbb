"""How long work reports itself: a callback, so that `build` knows nothing of terminals."""

from __future__ import annotations

from collections.abc import Callable

# progress(phase, done, total): `phase` is a short label such as "converting weights", `done` and
# `total` count bytes or steps of that phase. Called often, from one thread at a time.
ProgressCallback = Callable[[str, int, int], None]


def no_progress(phase: str, done: int, total: int) -> None:
    """Reports nothing."""
