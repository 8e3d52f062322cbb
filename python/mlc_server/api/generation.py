"""One request while the engine works on it: the engine pushes, one consumer awaits.

The engine calls `receive` on the event loop once per step that has news; the consumer wakes at most
once per step. No task and no queue is made per token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlc_server.engine import Delta, GenerationRequest
from mlc_server.errors import RequestError

if TYPE_CHECKING:
    from mlc_server.api.service import EnginePort


class Generation:
    """Output of one request. Closing it before the end cancels the request in the engine."""

    def __init__(
        self,
        engine: EnginePort,
        request: GenerationRequest,
        *,
        on_close: Callable[[Generation], None],
    ) -> None:
        """Submits `request`; raises the engine's RequestError if it is refused."""
        self._engine = engine
        self._on_close = on_close
        self._open_choices = request.num_choices
        self._pending: list[Delta] = []
        self._error: RequestError | None = None
        self._disconnected = False
        self._waiter: asyncio.Future[None] | None = None
        self._handle = engine.submit(request, self.receive)

    def receive(self, deltas: list[Delta]) -> None:
        """The engine's sink."""
        self._pending.extend(deltas)
        self._wake()

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

    async def next(self) -> list[Delta]:
        """What has come since the last call, waiting if nothing has.

        Empty once the client has gone or all choices have ended. Raises the RequestError that ended
        the request early.
        """
        while not self._pending and not self._disconnected and self._error is None:
            if self.finished:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
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
            self._engine.cancel(self._handle)
        self._on_close(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
