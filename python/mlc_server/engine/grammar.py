"""Grammars compiled off the event loop, each once, within a time limit."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc_server import _core, limits
from mlc_server.engine.grammar_probe import GrammarProbe, GrammarRefused
from mlc_server.engine.grammar_source import grammar_source
from mlc_server.engine.types import CompiledGrammar, GrammarSpec
from mlc_server.errors import InvalidRequest, Unavailable
from mlc_server.grammar_sandbox import NICE

logger = logging.getLogger(__name__)

# Most of them wait for the probe, which shares out what time there is.
_MAX_THREADS = 16
_MAX_COMPILING = 2
# More than grammar_probe allows, so that what did not overflow it there does not do so here.
_STACK_BYTES = 8 * 1024 * 1024
_PATIENCE_S = 10.0
_MAX_FAULT = 300  # characters


class _Entry:
    """A grammar being compiled, or what came of it: the grammar or the fault to report."""

    __slots__ = ("num_bytes", "outcome")

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes  # of the source, and of the grammar once it is there
        self.outcome: asyncio.Future[CompiledGrammar | Exception] = (
            asyncio.get_running_loop().create_future()
        )


class GrammarCompiler:
    """Compiles grammars for one model and remembers them, faults too, least recently used first to
    go. Every call is made on the event loop; the work is done on threads of its own, after a
    process that can be killed has shown that it ends (`probe`, by default one of its own)."""

    def __init__(
        self,
        vocabulary: _core.Vocabulary,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        probe: GrammarProbe | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._eos_token_ids = list(eos_token_ids)
        self._vocab_size = vocab_size
        self._probe = probe
        self._tools: _Tools | None = None
        self._tools_lock = threading.Lock()
        self._loading = asyncio.Lock()
        self._slots = asyncio.Semaphore(_MAX_THREADS)
        self._entries: OrderedDict[GrammarSpec, _Entry] = OrderedDict()
        self._in_use: weakref.WeakSet[CompiledGrammar] = weakref.WeakSet()  # and those kept
        self._tasks: set[asyncio.Task[None]] = set()

    async def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """Raises InvalidRequest that names `spec.param` and what is wrong with the grammar, or that
        it takes too much time; Unavailable while others do."""
        entry = self._entries.get(spec)
        if entry is None:
            entry = self._begin(spec)
        else:
            self._entries.move_to_end(spec)
        await asyncio.wait([entry.outcome], timeout=_PATIENCE_S)
        if not entry.outcome.done():
            raise Unavailable("other grammars are being compiled; try again later")
        outcome = entry.outcome.result()
        if isinstance(outcome, InvalidRequest):
            raise InvalidRequest(outcome.message, param=spec.param)
        if isinstance(outcome, _core.CoreError):
            raise _refusal(spec, _first_words(outcome.message))
        if isinstance(outcome, GrammarRefused):
            raise _refusal(spec, _first_words(str(outcome)))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def warm_up(self) -> None:
        """Makes ready, in the background, what the first grammar would have to wait for. From any
        thread."""

        def work() -> None:
            try:
                self._load(NICE)
            except Exception as error:
                # Whoever asks for a grammar tries again, and is told.
                logger.warning("grammars cannot be compiled: %s", error)

        _start_thread(work)

    def _begin(self, spec: GrammarSpec) -> _Entry:
        entry = _Entry(len(spec.source))
        self._entries[spec] = entry
        self._evict()
        task = asyncio.get_running_loop().create_task(self._run(spec, entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    async def _run(self, spec: GrammarSpec, entry: _Entry) -> None:
        """Finds out what comes of a grammar."""
        outcome: CompiledGrammar | Exception
        try:
            outcome = await self._make(spec)
            self._in_use.add(outcome)
            entry.num_bytes += outcome.num_bytes
            self._evict()
        except (InvalidRequest, GrammarRefused, _core.CoreError) as error:
            outcome = error
        except Unavailable as error:
            self._forget(spec, entry)
            outcome = error
        except Exception as error:
            logger.exception("a grammar failed to compile")
            outcome = error
        entry.outcome.set_result(outcome)

    async def _ready_tools(self) -> _Tools:
        async with self._loading:
            if self._tools is not None and self._tools.probe.is_running:
                return self._tools
            try:
                tools: _Tools = await _on_thread(self._load)
            except Exception as error:
                logger.exception("grammars cannot be compiled")
                raise Unavailable(f"grammars cannot be compiled: {error}") from error
            return tools

    async def _make(self, spec: GrammarSpec) -> CompiledGrammar:
        """Compiles a grammar once a thread is free for it."""
        async with self._slots:
            tools = await self._ready_tools()
            self._check_room()
            compiled: CompiledGrammar = await _on_thread(lambda: _compile(tools, spec))
            return compiled

    def _check_room(self) -> None:
        """What requests hold is bounded too; the rest of it is bounded by those compiling now."""
        num_bytes = sum(grammar.num_bytes for grammar in self._in_use)
        if num_bytes > limits.GRAMMAR_USE_BYTES.default:
            raise Unavailable("the grammars in use take too much memory; try again later")

    def _load(self, nice: int = 0) -> _Tools:
        """The model's vocabulary as the compiler wants it, made once and only if it is needed, and
        the probe's process, started again if it has ended. `nice` is added to this thread's."""
        with self._tools_lock:
            if self._tools is None:
                library = llguidance_library()
                vocabulary = (self._vocabulary, self._eos_token_ids, self._vocab_size)
                probe = self._probe or GrammarProbe(library, *vocabulary)
                probe.start()
                os.nice(nice)  # of this thread only; not before, because processes inherit it
                self._tools = _Tools(
                    _core.GrammarCompiler(str(library), *vocabulary),
                    probe,
                    threading.Semaphore(_MAX_COMPILING),
                )
                _core.trim_heap()  # making it took as much again
            self._tools.probe.start()
            return self._tools

    def _forget(self, spec: GrammarSpec, entry: _Entry) -> None:
        if self._entries.get(spec) is entry:
            del self._entries[spec]

    def _evict(self) -> None:
        size = sum(entry.num_bytes for entry in self._entries.values())
        while (
            len(self._entries) > limits.GRAMMAR_CACHE_ENTRIES.default
            or size > limits.GRAMMAR_CACHE_BYTES.default
        ):
            _, entry = self._entries.popitem(last=False)
            size -= entry.num_bytes


@dataclass(frozen=True)
class _Tools:
    core: _core.GrammarCompiler
    probe: GrammarProbe
    compiling: threading.Semaphore


def _compile(tools: _Tools, spec: GrammarSpec) -> CompiledGrammar:
    """Lowers the thread's priority."""
    kind, source = grammar_source(spec)
    num_bytes = tools.probe.check(kind, source)
    if sys.platform == "linux":  # where it is the thread's own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    with tools.compiling:
        return CompiledGrammar(spec, tools.core.compile(kind, source), num_bytes)


async def _on_thread(work: Callable[[], Any]) -> Any:
    """`work()` on a daemon thread, which the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def finish(result: Any, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, result, failure)

    _start_thread(run)
    return await done


def _start_thread(run: Callable[[], None]) -> None:
    stack_size = threading.stack_size(_STACK_BYTES)
    try:
        threading.Thread(target=run, name="grammar", daemon=True).start()
    finally:
        threading.stack_size(stack_size)


def llguidance_library() -> Path:
    """The shared object of the package llguidance, found without importing it."""
    found = importlib.util.find_spec("llguidance")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        for path in sorted(Path(folder).glob("_lib*.so")):
            return path
    raise FileNotFoundError("the package llguidance is not installed")


def _refusal(spec: GrammarSpec, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{spec.param}: {problem}", param=spec.param)


def _first_words(message: str) -> str:
    """The compiler's message on one line, without what only its authors can use."""
    text = " ".join(message.split())
    if text.startswith("NoExtension"):
        return "no text can match it"
    text = text.split(". Enable '")[0].replace("Unimplemented keys:", "unsupported keywords:")
    return text[:_MAX_FAULT]
