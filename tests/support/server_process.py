"""A server as a process of its own, with its output collected as it comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
READY = re.compile(r"listening on (http://127\.0\.0\.1:\d+)$")
FAKE_SERVER = "support.fake_server"


class Process:
    """`python -m MODULE ARGV`. `url` is for the test that has waited for READY."""

    url = ""

    def __init__(self, module: str, argv: tuple[str, ...], environment: dict[str, str]) -> None:
        paths = [str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
            env={**os.environ, **environment, "PYTHONPATH": ":".join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in iter(self.popen.stdout.readline, ""):
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: re.Pattern[str], timeout_s: float = 60) -> str:
        """The first group of the pattern's first match in a line."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for line in list(self.lines):
                if match := pattern.search(line.rstrip("\n")):
                    return match[1]
            assert self.popen.poll() is None or self._reader.is_alive(), self.output
            time.sleep(0.02)
        raise AssertionError(self.output)

    def end(self, timeout_s: float = 30) -> int:
        """Waits for the end; returns the exit code."""
        code = self.popen.wait(timeout_s)
        self._reader.join(timeout=5)
        return code

    def kill(self) -> None:
        """Ends it if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(timeout=5)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@contextmanager
def process(*argv: str, module: str = FAKE_SERVER, **environment: str) -> Iterator[Process]:
    """A process that is killed at the latest when the block ends."""
    running = Process(module, argv, environment)
    try:
        yield running
    finally:
        running.kill()
