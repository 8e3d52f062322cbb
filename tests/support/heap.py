"""What an action takes from malloc, whatever else the process frees beside it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from typing import Any

from mlc_server import _core


def heap_growth(make: Callable[[int], Any], times: int = 5) -> float:
    """Bytes that the result of `make(index)` weighs: the median over `times` calls, whose results
    are all held. Threads and garbage of earlier tests may let memory go in the midst of one."""
    gc.collect()
    held = []
    growths = []
    for index in range(times):
        before = _core.heap_bytes()
        held.append(make(index))
        growths.append(_core.heap_bytes() - before)
    return statistics.median(growths)
