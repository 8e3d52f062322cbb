"""Grammars are compiled in a process of their own first, which can be killed.

The compiler can neither be interrupted nor held to an amount of memory or stack: a hostile schema
takes it seconds, or crashes it. What has compiled there within its limits compiles here too.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlc_server
from mlc_server import _core, limits
from mlc_server import grammar_sandbox as sandbox
from mlc_server.errors import Unavailable

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_REPLY_TIMEOUT_S = 10.0  # far beyond the limits: then the process itself has stopped
_EXIT_TIMEOUT_S = 2.0

# Signals meant for the server, those of a terminal, are not for it. It stays in the session, since
# where the system shares out time by sessions first, priorities say nothing between two of them.
_PROGRAM = (
    f"import os; os.setpgid(0, 0); os.nice({sandbox.NICE}); "
    f"from {sandbox.__name__} import main; main()"
)

_FAULTS = {
    sandbox.OUT_OF_CPU: f"takes more than {limits.GRAMMAR_CPU_MS.default} ms of CPU time to "
    "compile; simplify it",
    sandbox.DIED: f"takes more than {limits.GRAMMAR_MEMORY_BYTES.default >> 20} MiB of memory, "
    "or too deep a recursion, to compile; simplify it",
}


class GrammarRefused(Exception):
    """What is wrong with a grammar, for the client."""


class _Lost(Exception):
    """The process ended, or stopped, at a grammar."""


class GrammarProbe:
    """Tries out grammars for one vocabulary. For any thread; the process starts with the first."""

    def __init__(
        self,
        library: Path,
        vocabulary: _core.Vocabulary,
        eos_token_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        self._library = library
        self._vocabulary = vocabulary
        self._eos_token_ids = list(eos_token_ids)
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[Any, GrammarProbe] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there, as far as the system knows by now."""
        return (
            self._control is not None and self._process is not None and self._process.poll() is None
        )

    def start(self) -> None:
        """Starts the process unless it runs. Raises Unavailable."""
        with self._lock:
            if not self.is_running:
                self._discard()
                self._start()

    def check(self, kind: str, source: str) -> int:
        """How many bytes a grammar has, compiled; 0 where the system does not tell.

        Raises GrammarRefused for one that does not compile within its limits, and Unavailable if
        others leave no time for it. What makes the process end is not known while there are others
        in it, so then it is tried in one of its own.
        """
        try:
            return self._check(kind, source)
        except _Lost as error:
            logger.warning("the process that compiles grammars is gone: %s", error)
        with self._alone:
            other = GrammarProbe(
                self._library, self._vocabulary, self._eos_token_ids, self._vocab_size
            )
            try:
                return other._check(kind, source)
            except _Lost:
                raise GrammarRefused("crashes the compiler; simplify it") from None
            finally:
                other.close()

    def _check(self, kind: str, source: str) -> int:
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                process = self._send(theirs)
            mine.settimeout(_REPLY_TIMEOUT_S)
            try:
                mine.sendall(f"{kind}\n{source}".encode("utf-8", "surrogatepass"))
                mine.shutdown(socket.SHUT_WR)
                reply = _read_all(mine)
            except OSError as error:
                self._give_up(process)
                raise _Lost(error) from error
        if not reply:
            self._give_up(process)
            raise _Lost("no answer")
        if reply == sandbox.OUT_OF_TIME:
            raise Unavailable("too busy to compile a grammar that takes long; try again later")
        if reply in _FAULTS:
            raise GrammarRefused(_FAULTS[reply])
        if reply.startswith(sandbox.FAULT):
            raise GrammarRefused(reply[len(sandbox.FAULT) :].decode())
        return int(reply[len(sandbox.SIZE) :])

    def close(self) -> None:
        """Ends the process; the next grammar starts another one."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        self._control = None
        if self._finalizer is not None:
            self._finalizer()

    def _give_up(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the process unless it has been replaced."""
        with self._lock:
            if self._process is process:
                self._discard()

    def _send(self, connection: socket.socket) -> subprocess.Popen[bytes]:
        """Returns the process that has it."""
        for attempt in range(2):
            self.start()
            with self._lock:
                try:
                    if self._control is not None and self._process is not None:
                        socket.send_fds(self._control, [b"g"], [connection.fileno()])
                        return self._process
                except OSError as error:  # it has ended since
                    if attempt > 0:
                        raise Unavailable("grammars cannot be compiled now") from error
            self.close()
        raise Unavailable("grammars cannot be compiled now")

    def _start(self) -> None:
        mine, theirs = socket.socketpair()
        root = str(Path(mlc_server.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            process = subprocess.Popen(  # noqa: S603 -- itself, with nothing of a client's
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *self._arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        finalizer = weakref.finalize(self, _end, process, mine)
        assert process.stdin is not None
        try:
            with process.stdin as stdin:
                stdin.write(self._vocabulary.serialize())
            mine.settimeout(_START_TIMEOUT_S)
            ready = mine.recv(1)
        except OSError as error:
            finalizer()
            raise Unavailable(f"grammars cannot be compiled: {error}") from error
        if ready != sandbox.READY:
            finalizer()
            raise Unavailable("grammars cannot be compiled: the process for it ended at once")
        mine.settimeout(None)
        self._control, self._process, self._finalizer = mine, process, finalizer

    def _arguments(self) -> list[str]:
        return [
            str(self._library),
            str(limits.GRAMMAR_CPU_MS.default / 1e3),
            str(limits.GRAMMAR_WALL_MS.default / 1e3),
            str(limits.GRAMMAR_MEMORY_BYTES.default),
            str(self._vocab_size),
            *map(str, self._eos_token_ids),
        ]


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    try:
        process.wait(_EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
