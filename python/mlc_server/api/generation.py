"""What one HTTP request asked of the engine, under way: the engine pushes, one consumer awaits.

The engine calls `receive` on the event loop once per step that has news; the consumer wakes at most
once per step. No task and no queue is made per token.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlc_server.engine import Delta, GenerationRequest
from mlc_server.errors import RequestError

if TYPE_CHECKING:
    from mlc_server.api.service import EnginePort


class Generation:
    """Output of one HTTP request. Closing it before the end cancels what the engine still does."""

    def __init__(
        self,
        engine: EnginePort,
        requests: Sequence[GenerationRequest],
        *,
        on_close: Callable[[Generation], None],
    ) -> None:
        """Submits `requests`, whose choices are numbered one after another.

        Raises the engine's RequestError, with nothing left behind, if it refuses one of them.
        """
        self._engine = engine
        self._on_close = on_close
        self._open_choices = sum(request.num_choices for request in requests)
        self._pending: list[Delta] = []
        self._error: RequestError | None = None
        self._disconnected = False
        self._waiter: asyncio.Future[bool] | None = None
        self._handles: list[object] = []
        first_choice = 0
        try:
            for request in requests:
                sink = self.receive
                if first_choice:
                    sink = functools.partial(self._receive_from, first_choice)
                self._handles.append(engine.submit(request, sink))
                first_choice += request.num_choices
        except RequestError:
            self._cancel()
            raise

    def receive(self, deltas: list[Delta]) -> None:
        """The engine's sink."""
        self._pending.extend(deltas)
        self._wake()

    def _receive_from(self, first_choice: int, deltas: list[Delta]) -> None:
        """The sink of a request that is not the first."""
        self.receive([replace(delta, choice=first_choice + delta.choice) for delta in deltas])

    def disconnect(self) -> None:
        """The client has gone: nobody wants the rest."""
        self._disconnected = True
        self._wake()

    def fail(self, error: RequestError) -> None:
        """Ends the request with `error` after what has been received so far."""
        if self._error is None:
            self._error = error
            self._wake()

    @property
    def disconnected(self) -> bool:
        return self._disconnected

    @property
    def finished(self) -> bool:
        """All choices have ended and been handed out."""
        return self._open_choices <= 0

    async def next(self, timeout_s: float = 0.0) -> list[Delta]:
        """What has come since the last call, waiting if nothing has.

        Empty after `timeout_s` without news (0 waits for ever), and once the client has gone or all
        choices have ended. Raises the RequestError that ended the request early.
        """
        while not self._pending and not self._disconnected and self._error is None:
            if self.finished:
                return []
            if not await self._wait(timeout_s):
                return []
        if self._disconnected:
            return []
        if self._pending:
            deltas, self._pending = self._pending, []
            self._open_choices -= sum(delta.finish_reason is not None for delta in deltas)
            return deltas
        assert self._error is not None
        raise self._error

    def close(self) -> None:
        """Cancels the request in the engine unless it has ended. Idempotent."""
        if not self.finished:
            self._cancel()
        self._on_close(self)

    def _cancel(self) -> None:
        for handle in self._handles:
            self._engine.cancel(handle)

    async def _wait(self, timeout_s: float) -> bool:
        """Whether there was news in time."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # Cheaper than asyncio.wait_for, which makes a task.
        alarm = loop.call_later(timeout_s, self._wake, False) if timeout_s else None
        try:
            return await self._waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()

    def _wake(self, news: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(news)
