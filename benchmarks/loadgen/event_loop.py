"""The load generator's event loop: the cheapest there is, since it takes the cores of the server
that it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_on_loop(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run(), on uvloop where it is installed."""
    return _runner()(main)


def _runner() -> Callable[[Coroutine[Any, Any, T]], T]:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run
    return uvloop.run
