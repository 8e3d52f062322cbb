"""uvicorn's HTTP protocol with the limits it lacks: deadlines for headers and body, a cap on header
bytes, and an end to clients that stop reading.

Without them a few hundred half-sent requests hold their connections for ever, and a header of any
size is accepted. It also lets a stream write its chunks without a coroutine for each of them, and
where requests are pipelined it keeps refusals in order and tells the one that is being answered
that the client has gone; uvicorn looks at the last one only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from mlc_server import limits
from mlc_server.protocol.error_body import error_body


class _HeadersTooLargeError(Exception):
    """Raised inside the parser's callbacks, which stops the parser."""


# The extension of ASGI that brings a ChunkWriter with a request.
_CHUNKS = "mlc_server.chunks"


class ChunkWriter:
    """Writes to a response under way at once, beside the ASGI `send` that begins and ends it."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write
        self._is_closing = cycle.transport.is_closing

    @staticmethod
    def of(scope: Scope) -> ChunkWriter | None:
        """The writer for a response whose head has been sent and said that chunks follow; None
        for others, and on other servers than ours."""
        writer = scope.get("extensions", {}).get(_CHUNKS, {}).get("writer")
        if isinstance(writer, ChunkWriter) and writer._cycle.chunked_encoding:
            return writer
        return None

    @property
    def is_open(self) -> bool:
        """Whether the client is there and reads as fast as it is written to."""
        return not (self._flow.write_paused or self._cycle.disconnected or self._is_closing())

    def write(self, chunks: bytes) -> None:
        """Sends whole chunks; only while it is open, and not after the end of the response."""
        self._write(chunks)


def http_chunk(data: bytes) -> bytes:
    """`data`, which is not empty, as a chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunk_data(chunk: bytes) -> bytes:
    """The data of a chunk, for a transport that makes its own."""
    return chunk[chunk.index(b"\r\n") + 2 : -2]


class _Cycle(RequestResponseCycle):
    """uvloop refuses writes to a connection that is being closed, and tells of its loss later. An
    answer that ends the connection before the request is in waits for the rest of it."""

    linger: Callable[[], None]

    async def send(self, message: Any) -> None:
        if self.transport.is_closing() and not self.response_complete:
            self.disconnected = True
        is_end = message["type"] == "http.response.body" and not message.get("more_body")
        lingers = is_end and self.more_body and not self.keep_alive and not self.disconnected
        if lingers:
            self.keep_alive = True  # else it would be closed at once
        await super().send(message)
        if lingers:
            self.linger()


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. At most one of its deadlines runs at a time besides the writer's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._unparsed_bytes = 0  # fed since the current headers began
        self._header_bytes = 0  # of complete headers and the URL
        self._refused_headers = False
        self._active: RequestResponseCycle | None = None  # the one that is being answered
        self._refusal: bytes | None = None  # waits until the answers before it are out
        self._lingering = False

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline(limits.HEADER_TIMEOUT_S.default)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._clear_write_deadline()
        if self._active is not None and not self._active.response_complete:
            _abandon(self._active)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self._lingering:
            return
        super().data_received(data)
        if self._in_headers and self._refusal is None and not self.transport.is_closing():
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > limits.MAX_HEADER_BYTES.default:
                self._refused_headers = True
                self.send_400_response("")

    # Parser callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._unparsed_bytes = self._header_bytes = 0
        if self._deadline is None:
            self._set_deadline(limits.HEADER_TIMEOUT_S.default)

    def on_url(self, url: bytes) -> None:
        self._count_header_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header_bytes(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()
        # The application's task has been made and has not run yet.
        self.cycle.__class__ = _Cycle
        cast(_Cycle, self.cycle).linger = self._linger
        self.scope["extensions"] = {_CHUNKS: {"writer": ChunkWriter(self.cycle)}}
        if self.pipeline:
            self._clear_deadline()  # its body is not read before the answers ahead of it are out
        else:
            self._set_deadline(limits.BODY_TIMEOUT_S.default)

    def on_message_complete(self) -> None:
        self._clear_deadline()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None and self._is_idle and not self.transport.is_closing():
            self._refuse(self._refusal)
            return
        # The next pipelined request begins now, and its deadline with it.
        half = not self.pipeline and self.cycle.more_body and not self.cycle.response_complete
        if half and self._deadline is None and not self.transport.is_closing():
            self._set_deadline(limits.BODY_TIMEOUT_S.default)

    def _count_header_bytes(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > limits.MAX_HEADER_BYTES.default:
            self._refused_headers = True
            raise _HeadersTooLargeError

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are no acceptable HTTP request, after what came before, and closes."""
        status = 400
        message = msg or "Invalid HTTP request received."
        if self._refused_headers:
            status = 431
            limit = limits.MAX_HEADER_BYTES.default
            message = f"request line and headers must have at most {limit} bytes"
        body = error_body(message, "invalid_request_error")
        head = (
            b"content-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self._clear_deadline()
        # The unfinished request, if its headers were in, is the one that is refused.
        self.pipeline = deque(item for item in self.pipeline if not item[0].more_body)
        if self._active is not None and self._active.more_body:
            _abandon(self._active)
        self._refusal = STATUS_LINE[status] + head + body
        if self._is_idle:
            self._refuse(self._refusal)

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is owed."""
        active = self._active
        answers = active is not None and not active.response_complete and not active.disconnected
        return not answers and not self.pipeline

    def _refuse(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        self._linger()

    def _linger(self) -> None:
        """Ends a connection whose client may still be sending: the last answer has been written,
        and what comes now is thrown away until the client closes too. Closed at once, unread bytes
        would make the system reset the connection, and the answer could be lost (RFC 9112, 9.6).
        """
        if self.transport.is_closing():
            return
        self._lingering = True
        self._unset_keepalive_if_required()
        self._set_deadline(limits.BODY_TIMEOUT_S.default)
        self.flow.resume_reading()
        self.transport.write_eof()

    def shutdown(self) -> None:
        super().shutdown()
        if self._lingering:
            self.transport.close()

    # Deadlines

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._cut_off)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self) -> None:
        self._deadline = None
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_deadline is None:
            stall_s = limits.WRITE_STALL_S.default
            self._write_deadline = self.loop.call_later(stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._clear_write_deadline()
        super().resume_writing()

    def _clear_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None


def _abandon(cycle: RequestResponseCycle) -> None:
    """Tells the application that nobody reads its answer."""
    cycle.disconnected = True
    cycle.message_event.set()
