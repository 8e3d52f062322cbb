"""The core's engine on an asyncio event loop: one wake-up per step, no task or queue per token."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from mlc_server import _core
from mlc_server.engine.convert import delta_from, request_error, sampling_params
from mlc_server.engine.grammar import GrammarCompiler
from mlc_server.engine.retry_after import RetryAfter
from mlc_server.engine.types import (
    CompletedChoice,
    Delta,
    GenerationRequest,
    GrammarSpec,
    Handle,
)
from mlc_server.errors import GenerationFailed, InvalidRequest, Unavailable
from mlc_server.limits import HEARTBEAT_STALE_S

logger = logging.getLogger(__name__)

Sink = Callable[[list[Delta]], None]
EventSink = Callable[[Delta], bool]

_WATCH_INTERVAL_S = 1.0
_STOP_TIMEOUT_S = 10.0


class _Open:
    """A request under way: who wants its output, and which choices are still to end."""

    __slots__ = ("choices", "event_sink", "grammar", "prompt_tokens", "sink")

    def __init__(self, sink: Sink, request: GenerationRequest) -> None:
        self.sink = sink
        self.event_sink: EventSink | None = None
        self.choices = set(range(request.num_choices))
        self.prompt_tokens = len(request.prompt_ids)
        self.grammar = request.grammar  # which the core holds as long


class AsyncEngine:
    """Submits requests and hands their output to sinks. Every call is made on the event loop.

    A sink is called with the news of one request, at most once per wake-up, and must not block; one
    that raises has its request cancelled. Each choice ends with exactly one delta that has a
    finish_reason, whatever happens: if the engine dies or hangs, all get "error".
    """

    def __init__(
        self,
        core: _core.Engine,
        grammars: GrammarCompiler | None = None,
        *,
        stall_after_s: float = HEARTBEAT_STALE_S.default,
    ) -> None:
        self._core = core
        self._grammars = grammars
        self._stall_after_s = stall_after_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._open: dict[int, _Open] = {}
        self._ids = itertools.count(1)
        self._retry_after = RetryAfter()
        self._stale_at_last_look = False
        self._stall_reason: str | None = None

    # Life

    def start(self) -> None:
        """Starts the engine thread unless it runs; its output comes to the running event loop."""
        if self._core.health() == "not started":
            self._core.start()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._core.wake_fd(), self._deliver)
        self._watch = self._loop.call_later(_WATCH_INTERVAL_S, self._look_at_heartbeat)

    def close(self) -> None:
        """Ends the engine thread after its current step; open requests end with "error".

        Blocks for that step, but not for one that hangs. Idempotent.
        """
        if self._loop is None:
            return
        if self._watch is not None:
            self._watch.cancel()
        self._loop.remove_reader(self._core.wake_fd())
        self._loop = None
        timeout_s = 0.0 if self._stall_reason is not None else _STOP_TIMEOUT_S
        if self._core.stop(timeout_s):
            self._deliver()
        self._fail_open("the server is shutting down")

    # Requests

    async def prepare(self, request: GenerationRequest) -> GenerationRequest:
        """`request` as submit() takes it, that is, with its grammar compiled.

        Raises InvalidRequest for a grammar that cannot be followed, and Unavailable.
        """
        spec = request.grammar
        if not isinstance(spec, GrammarSpec):
            return request
        if self._grammars is None:
            raise InvalidRequest(f"{spec.param}: not supported by this server", param=spec.param)
        return replace(request, grammar=await self._grammars.compile(spec))

    def submit(self, request: GenerationRequest, sink: Sink) -> Handle:
        """Queues a request.

        Raises InvalidRequest, ContextOverflow, QueueFull (with retry_after_s) or Unavailable.
        """
        if self._stall_reason is not None:
            raise Unavailable(self._stall_reason)
        if self._loop is None:
            raise Unavailable("the engine is not running")
        grammar = request.grammar
        assert not isinstance(grammar, GrammarSpec), "prepare() the request first"
        params = sampling_params(request.sampling)
        events = request.events
        request_id = next(self._ids)
        try:
            self._core.submit(
                request_id,
                request.prompt_ids,
                params,
                request.num_choices,
                request.priority,
                None if grammar is None else grammar.core,
                request.begins_text,
                None if events is None else (events.prefixes, events.suffix),
            )
        except _core.CoreError as error:
            seconds = self._retry_after.seconds(self._core.stats().num_waiting)
            raise request_error(error, seconds) from error
        self._open[request_id] = _Open(sink, request)
        return Handle(request_id)

    def listen(self, handle: object, event_sink: EventSink) -> None:
        """Offers each delta with an `event_chunk` to `event_sink` before the sink.

        It must not block either, and says whether it took the delta; else the sink gets it.
        """
        assert isinstance(handle, Handle)
        entry = self._open.get(handle.request_id)
        if entry is not None:
            entry.event_sink = event_sink

    def cancel(self, handle: object) -> None:
        """Ends a request: its sink is not called again and its pages are free after the next step.

        A request that has ended is left as it is.
        """
        assert isinstance(handle, Handle)
        if self._open.pop(handle.request_id, None) is not None:
            self._core.cancel(handle.request_id)

    async def collect(self, request: GenerationRequest) -> list[CompletedChoice]:
        """The whole output of a request, by choice. Cancelling the call cancels the request.

        Raises what submit() raises, and GenerationFailed if the engine gave the request up.
        """
        ended = asyncio.get_running_loop().create_future()
        deltas: defaultdict[int, list[Delta]] = defaultdict(list)
        num_open = request.num_choices

        def sink(news: list[Delta]) -> None:
            nonlocal num_open
            for delta in news:
                deltas[delta.choice].append(delta)
                num_open -= delta.finish_reason is not None
            if num_open == 0 and not ended.done():
                ended.set_result(None)

        handle = self.submit(await self.prepare(request), sink)
        try:
            await ended
        finally:
            self.cancel(handle)
        return [_completed(deltas[choice]) for choice in range(request.num_choices)]

    # State

    @property
    def num_open(self) -> int:
        """Requests whose sinks still expect something."""
        return len(self._open)

    def stats(self) -> _core.EngineStats:
        """A snapshot, at most one step old."""
        return self._core.stats()

    def health(self) -> str:
        """ "ok", "not started", "stopped" or "dead: <reason>"; a hung step is a dead engine."""
        if self._stall_reason is not None:
            return f"dead: {self._stall_reason}"
        return self._core.health()

    # Output

    def _deliver(self) -> None:
        """Hands everything drained to the sinks: events one by one, the rest in one call per
        request. A choice's event comes before its end and after nothing of it."""
        news: dict[int, list[Delta]] = {}
        for item in self._core.drain():
            request_id, delta = item[0], delta_from(item)
            entry = self._open.get(request_id)
            if entry is None:
                continue  # cancelled meanwhile
            if delta.event_chunk is not None and entry.event_sink is not None:
                try:
                    if entry.event_sink(delta):
                        continue
                except Exception:
                    self._give_up(request_id)
                    continue
            news.setdefault(request_id, []).append(delta)
        for request_id, deltas in news.items():
            self._hand_over(request_id, deltas)

    def _hand_over(self, request_id: int, deltas: list[Delta]) -> None:
        entry = self._open.get(request_id)
        if entry is None:
            return  # cancelled meanwhile
        for delta in deltas:
            if delta.finish_reason is not None:
                entry.choices.discard(delta.choice)
        if not entry.choices:
            del self._open[request_id]
            self._retry_after.note_end()
        try:
            entry.sink(deltas)
        except Exception:
            self._give_up(request_id)

    def _give_up(self, request_id: int) -> None:
        logger.exception("the sink of request %d failed; the request is cancelled", request_id)
        self.cancel(Handle(request_id))

    # Death

    def _look_at_heartbeat(self) -> None:
        """Declares the engine dead when its heartbeat is too old at two looks in a row.

        Two, because a process that was stopped for a while finds an old heartbeat when it goes on.
        """
        stats = self._core.stats()
        is_stale = stats.alive and stats.heartbeat_age_ns > self._stall_after_s * 1e9
        if is_stale and self._stale_at_last_look:
            age_s = stats.heartbeat_age_ns / 1e9
            self._stall_reason = f"the engine has not stepped for {age_s:.0f} seconds"
            logger.critical("%s", self._stall_reason)
            self._fail_open(self._stall_reason)
            return
        self._stale_at_last_look = is_stale
        if self._loop is not None:
            self._watch = self._loop.call_later(_WATCH_INTERVAL_S, self._look_at_heartbeat)

    def _fail_open(self, error: str) -> None:
        """Ends every open request with `error`; what the engine still says of them is ignored."""
        for request_id, entry in list(self._open.items()):
            tokens = entry.prompt_tokens
            end = Delta(0, "", [], finish_reason="error", prompt_tokens=tokens, error=error)
            deltas = [end._replace(choice=choice) for choice in sorted(entry.choices)]
            self._hand_over(request_id, deltas)


def _completed(deltas: list[Delta]) -> CompletedChoice:
    """All deltas of one choice put together; raises GenerationFailed if it did not end well."""
    last = deltas[-1]
    if last.finish_reason in ("error", "cancelled") or last.finish_reason is None:
        raise GenerationFailed(last.error or "the engine ended this request")
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return CompletedChoice(
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        logprobs=logprobs or None,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
    )
