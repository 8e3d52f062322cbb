"""The process that tries grammars out before the server compiles them: see engine/grammar_probe.

It has the compiler and the vocabulary ready and forks for each grammar. The fork may use so much
time, memory and stack; whatever it does then ends with it. This process itself has one thread and
does nothing but fork, wait and kill. It imports little, and is in no package that imports more,
because all of it is kept in memory a second time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NamedTuple

from mlc_server import _core

READY = b"r"
# What else than JSON a reply can be.
OUT_OF_CPU, OUT_OF_TIME, DIED = b"cpu", b"time", b"died"

NICE = 5  # so that it takes about a quarter of what a busy engine has
# Less than what the server's threads have, so that what runs here runs there.
_STACK_BYTES = 4 * 1024 * 1024


class Limits(NamedTuple):
    """Of one grammar; cpu_s and wall_s in seconds, memory in bytes."""

    cpu_s: float
    wall_s: float
    memory: int


class _Trial:
    """A fork at work. `life` is a pipe that is closed when it ends, `deadline_s` when it is killed;
    infinite once it has been."""

    __slots__ = ("deadline_s", "life", "pid", "reply")

    def __init__(self, pid: int, reply: socket.socket, life: int, deadline_s: float) -> None:
        self.pid = pid
        self.reply = reply
        self.life = life
        self.deadline_s = deadline_s


class Sandbox:
    """Serves one server over `control`, which brings the socket of each grammar."""

    def __init__(
        self, control: socket.socket, compiler: _core.GrammarCompiler, limits: Limits
    ) -> None:
        self._control = control
        self._compiler = compiler
        self._limits = limits
        self._trials: dict[int, _Trial] = {}  # by `life`

    def serve(self) -> None:
        """Until the server closes its end, or has died."""
        try:
            self._serve()
        except ConnectionError:
            pass  # it died with something of ours unread, READY for one
        finally:
            for trial in self._trials.values():
                os.kill(trial.pid, signal.SIGKILL)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        self._control.sendall(READY)
        while True:
            for file, _ in poll.poll(self._patience_ms()):
                if file != self._control.fileno():
                    poll.unregister(file)
                    self._reap(self._trials.pop(file))
                    continue
                _, files, _, _ = socket.recv_fds(self._control, 1, 1)
                if not files:
                    return
                trial = self._fork(socket.socket(fileno=files[0]))
                self._trials[trial.life] = trial
                poll.register(trial.life, select.POLLIN)
            now = time.monotonic()
            for trial in self._trials.values():
                if trial.deadline_s <= now:
                    trial.deadline_s = math.inf
                    os.kill(trial.pid, signal.SIGKILL)

    def _patience_ms(self) -> float | None:
        first = min((trial.deadline_s for trial in self._trials.values()), default=math.inf)
        return None if first == math.inf else max(1.0, 1e3 * (first - time.monotonic()))

    def _fork(self, reply: socket.socket) -> _Trial:
        life, alive = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(life)
                self._control.close()
                _try_out(self._compiler, self._limits, reply)
                status = 0
            finally:
                os._exit(status)
        os.close(alive)
        return _Trial(pid, reply, life, time.monotonic() + self._limits.wall_s)

    def _reap(self, trial: _Trial) -> None:
        os.close(trial.life)
        _, status = os.waitpid(trial.pid, 0)
        if status != 0:
            used_up = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            late = trial.deadline_s == math.inf
            with contextlib.suppress(OSError):  # the server has given it up
                trial.reply.sendall(OUT_OF_TIME if late else OUT_OF_CPU if used_up else DIED)
        trial.reply.close()


def _try_out(compiler: _core.GrammarCompiler, limits: Limits, reply: socket.socket) -> None:
    """Compiles what `reply` brings and answers; ends with SIGPROF when its time is over."""
    kind, source = json.loads(_read_all(reply))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_STACK, _STACK_BYTES)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- pathlib is large
        pages = int(file.read().split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory)
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
    before = _core.heap_bytes()
    answer: dict[str, Any]
    try:
        grammar = compiler.compile(kind, source)
        answer = {"num_bytes": max(0, _core.heap_bytes() - before)}
        del grammar
    except _core.CoreError as error:
        answer = {"fault": error.message}
    signal.setitimer(signal.ITIMER_PROF, 0)
    reply.sendall(json.dumps(answer).encode())


def _lower(kind: int, limit: int) -> None:
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(kind, (limit, hard))


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def main() -> None:
    """Started by grammar_probe, NICE below it. argv: the control socket's number. stdin: the setup,
    a line of JSON, and the serialised vocabulary."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    setup: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    vocabulary = _core.Vocabulary.parse(sys.stdin.buffer.read())
    compiler = _core.GrammarCompiler(
        setup["library"],
        vocabulary,
        setup["eos_token_ids"],
        setup["vocab_size"],
        for_trial=True,
    )
    del vocabulary
    _core.trim_heap()
    Sandbox(control, compiler, Limits(**setup["limits"])).serve()
