"""HTTP/1.1 responses and server-sent events.

While a run is timed only `EndDetector` looks at what arrives; `decode` parses it strictly after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_MAX_HEAD_BYTES = 1 << 16


class ResponseError(Exception):
    """What arrived is not a complete HTTP response."""


def _split_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers (lower-case names) of a response head without its empty line."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    parts = status_line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise ResponseError(f"not an HTTP/1 response: {status_line[:80]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ResponseError(f"not a header: {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    return int(parts[1]), headers


def _body_length(status: int, headers: dict[str, str]) -> int | None:
    """Bytes of a body that is not chunked; None: up to the end of the connection."""
    if status in {204, 304}:
        return 0
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise ResponseError(f"Content-Length is {text!r}")
    return int(text)


def _is_chunked(headers: dict[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower() == "chunked"


class EndDetector:
    """Tells from the pieces of one response, as they arrive, when it is complete.

    The body of a chunked response is not parsed: the end is where the last chunk could be, which
    is certain for JSON and server-sent events as neither holds a carriage return.
    """

    def __init__(self) -> None:
        self._head: bytes | None = b""  # None once it has been read
        self._tail = b""
        self._missing: int | None = None
        self._chunked = False
        self.keep_alive = True

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the end of the connection ends this response."""
        return self._head is None and not self._chunked and self._missing is None

    def feed(self, data: bytes) -> bool:
        """Takes the next piece; True once the response is complete. Raises ResponseError."""
        if self._head is not None:
            self._head += data
            end = self._head.find(_HEAD_END)
            if end < 0:
                if len(self._head) > _MAX_HEAD_BYTES:
                    raise ResponseError("the head of the response does not end")
                return False
            data = self._read_head(self._head[:end], self._head[end + len(_HEAD_END) :])
        if self._chunked:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            return self._tail == _LAST_CHUNK
        if self._missing is None:
            return False
        self._missing -= len(data)
        return self._missing <= 0

    def _read_head(self, head: bytes, body: bytes) -> bytes:
        status, headers = _split_head(head)
        self._head = None
        self._chunked = _is_chunked(headers)
        self._missing = None if self._chunked else _body_length(status, headers)
        self.keep_alive = headers.get("connection", "").lower() != "close"
        self._tail = b"\r\n"  # so that an empty chunked body is recognised
        return body


class ChunkParser:
    """Decodes a chunked body (RFC 9112, section 7.1) from pieces cut anywhere."""

    def __init__(self) -> None:
        self._buffer = b""
        self._missing = 0  # bytes of the chunk under way
        self._ends_chunk = False  # whether that chunk's line end is still to come
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Body bytes that `data` brings. Raises ResponseError."""
        body = []
        self._buffer += data
        while self._buffer:
            if self.complete:
                raise ResponseError("bytes after the last chunk")
            if self._missing:
                part, self._buffer = self._buffer[: self._missing], self._buffer[self._missing :]
                self._missing -= len(part)
                body.append(part)
            elif not (self._take_line_end() if self._ends_chunk else self._take_size()):
                break
        return b"".join(body)

    def _take_line_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if not self._buffer.startswith(b"\r\n"):
            raise ResponseError("a chunk is longer than its size says")
        self._buffer, self._ends_chunk = self._buffer[2:], False
        return True

    def _take_size(self) -> bool:
        line, separator, rest = self._buffer.partition(b"\r\n")
        if not separator:
            return False
        digits = line.split(b";", 1)[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            raise ResponseError(f"chunk size {digits[:20]!r}") from None
        if size > 0:
            self._buffer, self._missing, self._ends_chunk = rest, size, True
            return True
        if len(rest) < 2:
            return False
        if not rest.startswith(b"\r\n"):
            raise ResponseError("trailers after the last chunk")
        self._buffer, self.complete = rest[2:], True
        return True


class EventParser:
    """`data` fields of server-sent events, from pieces cut anywhere."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads of the events that `data` completes."""
        self._buffer += data.replace(b"\r\n", b"\n")
        *events, self._buffer = self._buffer.split(b"\n\n")
        payloads = []
        for event in events:
            fields = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if fields:
                payloads.append(b"\n".join(fields))
        return payloads


@dataclass(frozen=True)
class Response:
    """`events`: (time of arrival, payload) of each server-sent event; `body`: any other body."""

    status: int
    headers: dict[str, str]
    events: list[tuple[float, bytes]]
    body: bytes


def decode(pieces: Sequence[tuple[float, bytes]]) -> Response:
    """The response in `pieces` of (time of arrival, bytes). Raises ResponseError."""
    whole = b""
    head_at = 0.0
    rest = iter(pieces)
    while _HEAD_END not in whole:
        try:
            head_at, data = next(rest)
        except StopIteration:
            raise ResponseError("the response has no head") from None
        whole += data
    head, _, first = whole.partition(_HEAD_END)
    status, headers = _split_head(head)
    stamped = [(head_at, first), *rest]
    if _is_chunked(headers):
        chunks = ChunkParser()
        stamped = [(at, chunks.feed(data)) for at, data in stamped]
        if not chunks.complete:
            raise ResponseError("the chunked body is not complete")
    else:
        length = _body_length(status, headers)
        got = sum(len(data) for _, data in stamped)
        if length is not None and got != length:
            raise ResponseError(f"Content-Length is {length}, {got} bytes arrived")
    if not headers.get("content-type", "").startswith("text/event-stream"):
        return Response(status, headers, [], b"".join(data for _, data in stamped))
    parser = EventParser()
    events = [(at, payload) for at, data in stamped for payload in parser.feed(data)]
    return Response(status, headers, events, b"")
