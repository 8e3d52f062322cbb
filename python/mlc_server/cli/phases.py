"""Start-up as named phases: each line says what was done, how it went and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_NAME_WIDTH = 16


class Phase:
    """The phase under way. `note` goes at the end of its line."""

    def __init__(self) -> None:
        self.note = ""


class Phases:
    """Prints phases as they end; durations sum to the total."""

    def __init__(self, begin_s: float | None = None, output: TextIO | None = None) -> None:
        """`begin_s` on time.monotonic() is when it all began; None is now."""
        self._output = output or sys.stdout
        self._begin_s = time.monotonic() if begin_s is None else begin_s
        self._last_s = self._begin_s

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """One phase; a failure inside ends it without a line."""
        phase = Phase()
        yield phase
        # Counted from the end of the phase before, so that nothing goes unaccounted.
        now_s = time.monotonic()
        line = f"  {name:<{_NAME_WIDTH}}{now_s - self._last_s:7.2f} s  {phase.note}".rstrip()
        self._last_s = now_s
        self._output.write(line + "\n")
        self._output.flush()

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._begin_s
