"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Seconds until the condition held; fails after `timeout_s`."""
    begin_s = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begin_s < timeout_s, "not within the time allowed"
        time.sleep(0.005)
    return time.perf_counter() - begin_s
