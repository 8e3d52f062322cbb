"""Progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# Phases that count bytes show sizes and speed; the others a share of the work.
_BYTE_PHASES = frozenset({"downloading", "checking files", "loading weights"})


class ProgressReport:
    """A ProgressCallback, used as a context manager: `report(phase, done, total)`.

    Colour and redrawing only on a terminal (NO_COLOR is honoured by rich).
    """

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = sys.stderr if output is None else output
        self._bars = _Bars(self._output) if self._output.isatty() else None
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
        if self._bars is not None:
            self._bars.update(phase, done, total)
        else:
            self._lines.update(phase, done, total)


class _Bars:
    """One rich bar a phase, in the order they come."""

    def __init__(self, output: TextIO) -> None:
        console = Console(file=output)
        text = TextColumn("{task.description:<20}")
        self._shares = Progress(
            text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console
        )
        self._bytes = Progress(
            text,
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._shown: Progress | None = None
        self._phase = ""
        self._task: TaskID | None = None

    def update(self, phase: str, done: int, total: int) -> None:
        if self._shown is None or phase != self._phase:
            self.stop()
            self._shown = self._bytes if phase in _BYTE_PHASES else self._shares
            self._phase = phase
            self._task = self._shown.add_task(phase, total=total or None)
            self._shown.start()
        assert self._task is not None
        self._shown.update(self._task, completed=done, total=total or None)

    def stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            for task_id in self._shown.task_ids:
                self._shown.remove_task(task_id)
            self._shown = None


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
