"""How long a refused client should wait before it tries again."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

_WINDOW = 64  # requests
_LONGEST_S = 60


class RetryAfter:
    """Estimates when the queue will have moved on, from the pace of the latest requests to end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_s: deque[float] = deque(maxlen=_WINDOW)

    def note_end(self) -> None:
        """A request has ended."""
        self._ends_s.append(self._clock())

    def seconds(self, num_waiting: int) -> int:
        """When half of the queue will be gone, 1 to 60 whole seconds; 1 while there is no pace.

        Half: clients that come back when the queue is empty leave the engine idle, and clients that
        come back at once are refused again.
        """
        if len(self._ends_s) < 2:  # a pace needs two points
            return 1
        elapsed_s = max(self._clock() - self._ends_s[0], 1e-3)
        per_second = len(self._ends_s) / elapsed_s
        return min(max(math.ceil(num_waiting / 2 / per_second), 1), _LONGEST_S)
