"""What a server said on one connection, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from support.http_server import http_chunks

INTERNAL = re.compile(
    rb"0x[0-9a-f]{4,}|Traceback|\.py\b|/site-packages/|/python/|/usr/|/home/|/root/|/tmp/",
    re.IGNORECASE,
)
MAX_ERROR_BYTES = 1024


@dataclass(frozen=True)
class HttpAnswer:
    """One response. `whole`: it was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


def parse_answers(data: bytes, *, to_head: bool = False) -> Iterator[HttpAnswer]:
    """The responses in what a connection brought; the last may be cut short.

    `to_head`: they answer HEAD, and so have no bodies.
    """
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if status == 100:
            continue
        body, whole = b"", True
        if to_head:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            size = _chunked_size(data)
            whole = size is not None
            body, data = (b"".join(http_chunks(data[:size])), data[size:]) if whole else (data, b"")
        else:
            size = int(headers.get("content-length", "0"))
            body, data = data[:size], data[size:]
            whole = len(body) == size
        yield HttpAnswer(status, headers, body, whole)


def _chunked_size(data: bytes) -> int | None:
    """Bytes of a chunked body up to its end; None if that is not there."""
    position = 0
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            return None
        size = int(data[position:end], 16)
        position = end + 2 + size + 2
        if position > len(data):
            return None
        if size == 0:
            return position


def fault(answer: HttpAnswer) -> str | None:
    """What a server that stands hostile requests must not answer; None is all well."""
    if answer.status >= 500 and answer.status != 503:
        return f"status {answer.status}: {answer.body[:200]!r}"
    if answer.status == 503 and "retry-after" not in answer.headers:
        return "503 without Retry-After"
    if not answer.whole or not answer.body:
        return None
    if INTERNAL.search(answer.body) and answer.status >= 400:
        return f"internals in {answer.body[:300]!r}"
    if answer.status >= 400:
        return _error_fault(answer)
    if b'"finish_reason":"error"' in answer.body or b'data: {"error"' in answer.body:
        return f"an answer that failed: {answer.body[-300:]!r}"
    return None


def _error_fault(answer: HttpAnswer) -> str | None:
    if len(answer.body) > MAX_ERROR_BYTES:
        return f"an error of {len(answer.body)} bytes: {answer.body[:200]!r}"
    if answer.headers.get("content-type") != "application/json":
        return f"an error of type {answer.headers.get('content-type')}: {answer.body[:200]!r}"
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"an error of another shape: {answer.body[:200]!r}"
    if set(error) != {"message", "type", "param", "code"}:
        return f"an error with {sorted(error)}"
    if not error["message"] or not error["message"].isprintable():
        return f"an error that says {error['message']!r}"
    return None
