"""Progress on a terminal: bars."""

from __future__ import annotations

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


class Bars:
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
