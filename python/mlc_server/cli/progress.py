"""Progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mlc_server.cli.progress_bars import Bars


class ProgressReport:
    """A ProgressCallback, used as a context manager: `report(phase, done, total)`.

    Colour and redrawing only on a terminal (NO_COLOR is honoured by rich).
    """

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = sys.stderr if output is None else output
        self._bars: Bars | None = None
        self._lines = _Lines(self._output)

    def __enter__(self) -> ProgressReport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._bars is None and self._output.isatty():
            # Only when there is something to show: a server that starts from its cache has not.
            from mlc_server.cli.progress_bars import Bars  # noqa: PLC0415

            self._bars = Bars(self._output)
        if self._bars is not None:
            self._bars.update(phase, done, total)
        else:
            self._lines.update(phase, done, total)


class _Lines:
    """A line when a phase begins, and when it ends how long it took."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._phase = ""
        self._begin_s = 0.0
        self._ended = False

    def update(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._phase, self._begin_s, self._ended = phase, time.monotonic(), False
            self._write(f"{phase} ...")
        if total > 0 and done >= total and not self._ended:
            self._ended = True
            self._write(f"{phase}: done in {time.monotonic() - self._begin_s:.1f} s")

    def _write(self, line: str) -> None:
        self._output.write(line + "\n")
        self._output.flush()
