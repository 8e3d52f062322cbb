"""The process that tries grammars out before the server compiles them: see engine/grammar_probe.

It has the compiler and the vocabulary ready and forks for each grammar. The fork may use so much
time, memory and stack; whatever it does then ends with it. This process itself has one thread and
does nothing but fork, wait and kill. It imports little, and is in no package that imports more,
because all of it is kept in memory a second time: `json` and `typing` alone would be a megabyte.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque

from mlc_server import _core

READY = b"r"
# What a reply begins with: the grammar's size or what is wrong with it follows.
SIZE, FAULT = b"size ", b"fault "
# What else a reply can be.
OUT_OF_CPU, OUT_OF_TIME, DIED = b"cpu", b"time", b"died"

NICE = 5  # so that it takes about a quarter of what a busy engine has
# So many forks run at once. One that has run for so long is put off for those that have not.
_SLOTS = 2
_QUICK_S = 0.015
# Less than what the server's threads have, so that what runs here runs there.
_STACK_BYTES = 4 * 1024 * 1024


class Limits:
    """Of one grammar; cpu_s and wall_s in seconds, memory in bytes."""

    __slots__ = ("cpu_s", "memory", "wall_s")

    def __init__(self, cpu_s: float, wall_s: float, memory: int) -> None:
        self.cpu_s = cpu_s
        self.wall_s = wall_s
        self.memory = memory


class _Trial:
    """A fork. `life` is a pipe that is closed when it ends, `deadline_s` when it is killed;
    infinite once it has been. `runs_until_s` is when it has run for _QUICK_S, None while it is
    stopped."""

    __slots__ = ("deadline_s", "life", "pid", "reply", "runs_until_s")

    def __init__(self, pid: int, reply: socket.socket, life: int, wall_s: float) -> None:
        self.pid = pid
        self.reply = reply
        self.life = life
        now = time.monotonic()
        self.deadline_s = now + wall_s
        self.runs_until_s: float | None = now + _QUICK_S

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.runs_until_s = None

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.runs_until_s = 0.0


class Sandbox:
    """Serves one server over `control`, which brings the socket of each grammar."""

    def __init__(
        self, control: socket.socket, compiler: _core.GrammarCompiler, limits: Limits
    ) -> None:
        self._control = control
        self._compiler = compiler
        self._limits = limits
        self._trials: dict[int, _Trial] = {}  # by `life`, in the order in which they began
        self._waiting: deque[socket.socket] = deque()
        self._poll = select.poll()

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
        self._poll.register(self._control, select.POLLIN)
        self._control.sendall(READY)
        while True:
            for file, _ in self._poll.poll(self._patience_ms()):
                if file != self._control.fileno():
                    self._poll.unregister(file)
                    self._reap(self._trials.pop(file))
                    continue
                _, files, _, _ = socket.recv_fds(self._control, 1, 1)
                if not files:
                    return
                self._waiting.append(socket.socket(fileno=files[0]))
            now = time.monotonic()
            for trial in self._trials.values():
                if trial.deadline_s <= now:
                    trial.deadline_s = math.inf
                    os.kill(trial.pid, signal.SIGKILL)
            self._share_slots(now)

    def _patience_ms(self) -> float | None:
        trials = self._trials.values()
        times = [trial.deadline_s for trial in trials]
        if self._waiting:
            times += [trial.runs_until_s for trial in trials if trial.runs_until_s is not None]
        first = min(times, default=math.inf)
        return None if first == math.inf else max(1.0, 1e3 * (first - time.monotonic()))

    def _share_slots(self, now: float) -> None:
        """Whoever has not run for _QUICK_S goes first, then who came first."""
        running = [
            (trial, trial.runs_until_s)
            for trial in self._trials.values()
            if trial.runs_until_s is not None
        ]
        long = [trial for trial, until_s in running if until_s <= now]
        free = _SLOTS - len(running)
        while self._waiting and (free > 0 or long):
            if free == 0:
                long.pop().stop()
            else:
                free -= 1
            self._begin(self._waiting.popleft())
        for trial in self._trials.values():
            if free > 0 and trial.runs_until_s is None:
                trial.go_on()
                free -= 1

    def _begin(self, reply: socket.socket) -> None:
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
        self._trials[life] = _Trial(pid, reply, life, self._limits.wall_s)
        self._poll.register(life, select.POLLIN)

    def _reap(self, trial: _Trial) -> None:
        os.close(trial.life)
        _, status = os.waitpid(trial.pid, 0)
        if status != 0:
            used_up = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            late = trial.deadline_s == math.inf
            with contextlib.suppress(OSError):  # the server has given it up
                _answer(trial.reply, OUT_OF_TIME if late else OUT_OF_CPU if used_up else DIED)
        trial.reply.close()


def _try_out(compiler: _core.GrammarCompiler, limits: Limits, reply: socket.socket) -> None:
    """Compiles what `reply` brings, kind and source on the lines after, and answers; ends with
    SIGPROF when its time is over."""
    kind, _, source = _read_all(reply).decode("utf-8", "surrogatepass").partition("\n")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_STACK, _STACK_BYTES)
    _bound_memory(limits.memory)
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
    before = _core.heap_bytes()
    try:
        grammar = compiler.compile(kind, source)  # type: ignore[arg-type] # the core checks it
        answer = SIZE + b"%d" % max(0, _core.heap_bytes() - before)
        del grammar
    except _core.CoreError as error:
        answer = FAULT + error.message.encode()
    signal.setitimer(signal.ITIMER_PROF, 0)
    _answer(reply, answer)


def _bound_memory(nbytes: int) -> None:
    """To so much more than it has; only by what CPU time can fill where there is no /proc."""
    with contextlib.suppress(FileNotFoundError):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- pathlib is large
            pages = int(file.read().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + nbytes)


def _answer(reply: socket.socket, answer: bytes) -> None:
    reply.sendall(answer)
    reply.shutdown(socket.SHUT_WR)  # other forks have it open, too


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
    """Started by grammar_probe, NICE below it. argv: the control socket's number, the library, the
    limits, the vocabulary's size, the ids that end a text. stdin: the serialised vocabulary."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control_file, library, cpu_s, wall_s, memory, vocab_size, *eos_token_ids = sys.argv[1:]
    control = socket.socket(fileno=int(control_file))
    vocabulary = _core.Vocabulary.parse(sys.stdin.buffer.read())
    compiler = _core.GrammarCompiler(
        library, vocabulary, list(map(int, eos_token_ids)), int(vocab_size), for_trial=True
    )
    del vocabulary
    _core.trim_heap()
    Sandbox(control, compiler, Limits(float(cpu_s), float(wall_s), int(memory))).serve()
