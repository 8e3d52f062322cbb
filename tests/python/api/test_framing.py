"""Bytes on the wire: one server-sent event is one HTTP chunk."""

from __future__ import annotations

import json
import socket
from typing import Any

import requests

from mlc_server.engine import Delta, GenerationRequest
from support.http_server import (
    FakeEngine,
    Script,
    chat_body,
    http_chunks,
    live_server,
    raw_chat_request,
)


def exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """(head, body) of the answer to raw bytes; the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def check_stream(body: bytes) -> list[Any]:
    """Asserts one event per chunk, [DONE] last; returns the events' JSON."""
    chunks = list(http_chunks(body))
    assert chunks[-1] == b""  # the terminal chunk
    assert chunks[-2] == b"data: [DONE]\n\n"
    events = []
    for chunk in chunks[:-2]:
        assert chunk.startswith(b"data: ")
        assert chunk.endswith(b"\n\n")
        assert chunk.count(b"\n") == 2
        events.append(json.loads(chunk[6:]))
    return events


def test_one_event_is_one_chunk() -> None:
    with live_server() as (server, _):
        head, body = exchange(server.port, raw_chat_request(chat_body(stream=True, n=3)))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream" in head
    assert b"transfer-encoding: chunked" in head
    events = check_stream(body)
    assert len(events) == 3 * (1 + 4 + 1)
    assert [event["choices"][0]["delta"].get("role") for event in events[:3]] == ["assistant"] * 3
    assert [event["choices"][0]["finish_reason"] for event in events[-3:]] == ["stop"] * 3


class BurstEngine(FakeEngine):
    """Hands every token over in one call, as after a stall of the event loop."""

    async def _play(self, handle: int, request: GenerationRequest, sink: Any) -> None:
        deltas: list[Delta] = []
        await super()._play(handle, request, deltas.extend)
        sink(deltas)


def test_events_that_leave_together_stay_apart() -> None:
    tokens = [f"\N{SNOWMAN}\n{i} " for i in range(300)]
    with live_server() as (server, _):
        server.set_ready(BurstEngine(Script(tokens=tokens)))
        _, body = exchange(server.port, raw_chat_request(chat_body(stream=True)))
        with requests.post(
            f"{server.url}/v1/chat/completions", json=chat_body(stream=True), stream=True
        ) as response:
            seen = [chunk.decode() for chunk in response.iter_content(chunk_size=None)]
    texts = [event["choices"][0]["delta"].get("content", "") for event in check_stream(body)]
    assert "".join(texts) == "".join(tokens)
    assert len(seen) == 303
    assert all(chunk.startswith("data: ") and chunk.endswith("\n\n") for chunk in seen)


def test_pipelined_and_kept_alive_requests_are_answered_in_order() -> None:
    body = json.dumps(chat_body(max_tokens=1)).encode()
    one = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
        % len(body)
    ) + body
    last = raw_chat_request(chat_body(max_tokens=2))
    with live_server() as (server, _):
        _, rest = exchange(server.port, one + one + last)
    assert rest.count(b"HTTP/1.1 200 OK") == 2  # the first one's head was cut off
    assert rest.count(b'"content":"An"') == 2
    assert rest.count(b'"content":"An apple"') == 1


def test_a_failure_after_the_first_byte_is_an_event() -> None:
    with live_server(script=Script(error="it broke")) as (server, _):
        _, body = exchange(server.port, raw_chat_request(chat_body(stream=True)))
    events = check_stream(body)
    assert events[-1]["error"] == {
        "message": "it broke",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }
