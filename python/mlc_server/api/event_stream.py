"""An answer as server-sent events, written straight to the connection.

Each event is one HTTP chunk, also when several leave in the same write: clients that take a chunk
for an event are right. The engine merges news of steps that nobody has read yet, so a slow reader
gets fewer and longer events.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.api.http_protocol import ChunkWriter, chunk_data, http_chunk
from mlc_server.engine import Delta
from mlc_server.errors import RequestError
from mlc_server.protocol.error_body import error_event
from mlc_server.protocol.responses import DONE_EVENT

# A comment, which SSE readers skip; it keeps proxies from cutting a silent connection.
_PING = b": ping\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Streams an answer. A failure after the first byte is an error event, then [DONE].

    What the events say is the subclass's. News that only brings text is written as it comes from
    the engine; the beginning, the end and what a slow reader has to wait for go through ASGI.
    """

    def __init__(self, answer: Answer, *, ping_interval_s: int) -> None:
        """`ping_interval_s`: seconds of silence before a comment is sent; 0 is never."""
        # Not super().__init__(): there is no body to render. FastAPI reads these two.
        self.background = None
        self.status_code = 200
        self._answer = answer
        self._ping_interval_s = ping_interval_s

    # What is said

    def opening(self) -> Iterable[bytes]:
        """Events before the first token."""
        raise NotImplementedError

    def events(self, delta: Delta) -> Iterable[bytes]:
        """Events of a delta; the log has counted its tokens."""
        raise NotImplementedError

    def closing(self) -> Iterable[bytes]:
        """Events after the last token."""
        raise NotImplementedError

    # How it gets there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        async with disconnect_watch(answer.generation, receive):
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                for event in self.opening():
                    await _send_event(send, event)
                self._write_news_with(ChunkWriter.of(scope))
                await self._send_deltas(send)
            except RequestError as error:
                answer.log.failed(error)
                await _send_event(send, error_event(error))
                await _send_event(send, DONE_EVENT, last=True)
                return
            if answer.generation.disconnected:
                answer.log.disconnected()
                return
            answer.log.finished()
            for event in self.closing():
                await _send_event(send, event)
            await _send_event(send, DONE_EVENT, last=True)

    def _write_news_with(self, writer: ChunkWriter | None) -> None:
        if writer is None:
            return
        log = self._answer.log

        def write(delta: Delta) -> bool:
            if not writer.is_open:
                return False
            if delta.event_chunk is not None:
                log.tokens(delta.choice, len(delta.token_ids), delta.completion_tokens)
                writer.write(delta.event_chunk)
                return True
            log.progressed(delta)
            for event in self._events_of(delta):
                writer.write(http_chunk(event))
            return True

        self._answer.generation.listen(write)

    def _events_of(self, delta: Delta) -> Iterable[bytes]:
        if delta.event_chunk is not None:
            return [chunk_data(delta.event_chunk)]
        return self.events(delta)

    async def _send_deltas(self, send: Send) -> None:
        generation = self._answer.generation
        while not generation.finished and not generation.disconnected:
            deltas = await generation.next(self._ping_interval_s)
            if not deltas and not generation.disconnected:
                await _send_event(send, _PING)
            for delta in deltas:
                check_delta(delta)
                self._answer.log.progressed(delta)
                for event in self._events_of(delta):
                    await _send_event(send, event)


async def _send_event(send: Send, event: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": not last})
