"""Servers and workers as child processes that never outlive the benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START_S = 300.0
STOP_S = 20.0
_POLL_S = 0.005


class ProcessError(Exception):
    """A child process did not do what it was started for; the message ends with its output."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def resident_bytes(pid: int) -> int:
    """Memory of a process and all its descendants; pages they share count for each of them."""
    total = 0
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            total = int(line.split()[1]) * 1024
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):  # it has just ended
                total += resident_bytes(int(child))
    return total


class Child:
    """A process in a group of its own, its standard error and log in a temporary file."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, pipes: bool) -> None:
        self.command = list(command)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        channel = subprocess.PIPE if pipes else None
        self.started_at = time.perf_counter()
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **env},
            stdin=channel or subprocess.DEVNULL,
            stdout=channel or self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def output_tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-2000:]

    def stop(self) -> None:
        """Asks, waits, then kills the whole group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()


class Server(Child):
    """A server on a port of this machine."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], port: int) -> None:
        super().__init__(command, env, pipes=False)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def wait_for_port(self) -> None:
        """Returns once it accepts connections. Raises ProcessError."""
        while time.perf_counter() - self.started_at < START_S:
            if self.process.poll() is not None:
                raise ProcessError(f"{self.command[0]} has ended:\n{self.output_tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(_POLL_S)
        raise ProcessError(f"{self.command[0]} did not listen within {START_S:g} s")

    @property
    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    @property
    def main_thread_cpu_s(self) -> float:
        """Processor time that the process's first thread has had."""
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) * 1e-9


class Worker(Child):
    """A process that answers each line of JSON with one (see in_process.py)."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        super().__init__(command, env, pipes=True)
        self.info = self._read()

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            message = f"{' '.join(self.command)} has ended:\n{self.output_tail()}"
            self.stop()
            raise ProcessError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer


class ServedWorker(Worker):
    """A worker that is a server too (see served_core.py)."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], port: int) -> None:
        super().__init__(command, env)
        self.url = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running(*children: Child) -> Iterator[None]:
    """Stops the children whatever happens."""
    try:
        yield
    finally:
        for child in children:
            child.stop()
