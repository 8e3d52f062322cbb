"""What one HTTP request asked of the engine, under way: the engine pushes, one consumer awaits.

The engine calls `receive` on the event loop once per step that has news. A consumer that waits may
have a listener take the news on the spot; else it wakes, at most once per step. No task and no
queue is made per token.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
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
        self._error: Exception | None = None
        self._listener: Callable[[Delta], bool] | None = None
        self._heard_s = 0.0  # when the listener last took news
        self._disconnected = False
        self._waiter: asyncio.Future[bool] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._handles: list[object] = []
        self._first_choices: list[int] = []
        first_choice = 0
        try:
            for request in requests:
                sink = self.receive
                if first_choice:
                    sink = functools.partial(self._receive_from, first_choice)
                self._handles.append(engine.submit(request, sink))
                self._first_choices.append(first_choice)
                first_choice += request.num_choices
        except RequestError:
            self._cancel()
            raise

    def listen(self, listener: Callable[[Delta], bool]) -> None:
        """From now on `listener` is offered the news that comes while the consumer waits.

        It says whether it took the news; else the consumer gets it. What ends a choice is not
        offered, and what the listener raises is raised by next().
        """
        self._listener = listener
        for handle, first_choice in zip(self._handles, self._first_choices, strict=True):
            event_sink = self._take
            if first_choice:
                event_sink = functools.partial(self._take_from, first_choice)
            self._engine.listen(handle, event_sink)

    def receive(self, deltas: list[Delta]) -> None:
        """The engine's sink."""
        num_taken = 0
        if not any(delta.finish_reason is not None for delta in deltas):
            while num_taken < len(deltas) and self._take(deltas[num_taken]):
                num_taken += 1
        if num_taken < len(deltas):
            self._pending.extend(deltas[num_taken:])
            self._wake()

    def _take(self, delta: Delta) -> bool:
        """Whether the listener took a delta that does not end its choice."""
        # While the consumer waits nothing is pending that this could overtake.
        if self._listener is None or self._waiter is None or self._waiter.done():
            return False
        try:
            if not self._listener(delta):
                return False
        except Exception as error:
            self._fail(error)
        if self._alarm is not None:
            self._heard_s = time.perf_counter()
        return True

    def _take_from(self, first_choice: int, delta: Delta) -> bool:
        """The same for a request that is not the first."""
        return self._take(delta._replace(choice=first_choice + delta.choice))

    def _receive_from(self, first_choice: int, deltas: list[Delta]) -> None:
        """The sink of a request that is not the first."""
        self.receive([delta._replace(choice=first_choice + delta.choice) for delta in deltas])

    def disconnect(self) -> None:
        """The client has gone: nobody wants the rest."""
        self._disconnected = True
        self._wake()

    def fail(self, error: RequestError) -> None:
        """Ends the request with `error` after what has been received so far."""
        self._fail(error)

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

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    async def _wait(self, timeout_s: float) -> bool:
        """Whether there was news in time."""
        self._waiter = asyncio.get_running_loop().create_future()
        # Cheaper than asyncio.wait_for, which makes a task.
        begin_s = time.perf_counter()
        if timeout_s:
            self._set_alarm(begin_s, timeout_s)
        try:
            return await self._waiter
        finally:
            self._waiter = None
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def _set_alarm(self, begin_s: float, timeout_s: float) -> None:
        """Wakes the consumer after `timeout_s` without news, which the listener's is too."""
        quiet_s = time.perf_counter() - max(begin_s, self._heard_s)
        if quiet_s >= timeout_s:
            self._wake(False)
            return
        loop = asyncio.get_running_loop()
        # A little late rather than a little early, which would take another round.
        self._alarm = loop.call_later(
            timeout_s - quiet_s + 0.001, self._set_alarm, begin_s, timeout_s
        )

    def _wake(self, news: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(news)
