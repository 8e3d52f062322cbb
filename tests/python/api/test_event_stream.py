"""Streams whose events the core writes say, byte for byte, what Python would have written."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from mlc_server.api.app import create_app
from mlc_server.api.service import Service
from mlc_server.engine import AsyncEngine, Delta, GenerationRequest
from mlc_server.settings import ServerSettings
from support.fake_server import fake_core
from support.http_server import (
    MODEL_ID,
    FakeEngine,
    LiveServer,
    Script,
    chat_body,
    http_chunks,
    live_server,
    raw_chat_request,
)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class WatchedEngine(AsyncEngine):
    """Counts the events that the core wrote; with `in_python` it is not asked to."""

    def __init__(self, *, in_python: bool) -> None:
        super().__init__(fake_core(step_ns=500_000))
        self._in_python = in_python
        self.events = 0

    def submit(self, request: GenerationRequest, sink: Any) -> Any:
        def watch(deltas: list[Delta]) -> None:
            self._count(deltas)
            sink(deltas)

        return super().submit(replace(request, events=None) if self._in_python else request, watch)

    def listen(self, handle: object, event_sink: Any) -> None:
        def watch(delta: Delta) -> bool:
            taken: bool = event_sink(delta)
            if taken:
                self._count([delta])
            return taken

        super().listen(handle, watch)

    def _count(self, deltas: list[Delta]) -> None:
        self.events += sum(delta.event_chunk is not None for delta in deltas)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[tuple[LiveServer, WatchedEngine]]]:
    """One whose core writes events, and one whose Python does."""
    running = []
    for in_python in (False, True):
        server = LiveServer(ServerSettings())
        server.start()
        engine = WatchedEngine(in_python=in_python)
        server.on_loop(engine.start)
        server.set_ready(engine)
        running.append((server, engine))
    yield running
    for server, engine in running:
        server.on_loop(engine.close)
        server.stop()


def streamed(server: LiveServer, path: str, body: dict[str, Any]) -> list[bytes]:
    """The events of an answer, each a chunk, without what differs by chance."""
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        while data := sock.recv(65536):
            answer += data
    chunks = list(http_chunks(answer.partition(b"\r\n\r\n")[2]))
    assert chunks[-2:] == [b"data: [DONE]\n\n", b""]
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks[:-1])
    return [re.sub(rb'"id":"[\w-]+"|"created":\d+', b'"x":0', chunk) for chunk in chunks[:-2]]


def merged(events: list[bytes]) -> tuple[set[bytes], dict[int, str]]:
    """What is around the texts, and the texts of each choice put together: which steps fall into
    one event is chance.

    The text must stand in the event as orjson writes it.
    """
    around: set[bytes] = set()
    texts: dict[int, str] = {}
    for event in events:
        text = ""
        for choice in orjson.loads(event[6:])["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            texts[choice["index"]] = texts.get(choice["index"], "") + text
        written = orjson.dumps(text)
        rest = event
        for key in (b'"text":', b'"content":'):
            rest = rest.replace(key + written, key + b"...", 1)
        assert not text or rest.count(b":...") == 1
        around.add(rest)
    return around, texts


@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}])
@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "n": 2}),
        (CHAT, {"messages": [{"role": "user", "content": "ho"}], "stop": ["a", '"']}),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2}),
        (COMPLETIONS, {"prompt": "a", "model": MODEL_ID, "echo": True}),
    ],
)
def test_events_equal_those_of_python(
    servers: list[tuple[LiveServer, WatchedEngine]], path: str, asks: Any, usage: Any
) -> None:
    """Half of the fake model's bytes are ASCII, control characters and quotes among them."""
    body = {"stream": True, "seed": 3, "max_tokens": 300, **asks, **usage}
    answers = []
    for server, engine in servers:
        engine.events = 0
        answers.append(merged(streamed(server, path, body)))
    assert answers[0] == answers[1]
    assert servers[0][1].events > 0
    assert servers[1][1].events == 0


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (CHAT, {"logprobs": True}),
        (CHAT, {"return_token_ids": True}),
        (CHAT, {"tools": [TOOL]}),
        (CHAT, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        (CHAT, {"stream": False}),
        (COMPLETIONS, {"logprobs": 1}),
        (COMPLETIONS, {"return_token_ids": True}),
        (COMPLETIONS, {"stream_options": {"continuous_usage_stats": True}}),
    ],
)
def test_events_that_say_more_than_text_are_pythons(
    servers: list[tuple[LiveServer, WatchedEngine]], path: str, asks: Any
) -> None:
    server, engine = servers[0]
    engine.events = 0
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "a"}
    body = {"stream": True, "max_tokens": 20, **prompt, **asks}
    answer = httpx.post(server.url + path, json=body, timeout=20)
    assert answer.status_code == 200
    assert len(answer.content) > 100
    assert engine.events == 0


def test_a_server_without_the_extension_sends_the_same() -> None:
    """Through ASGI alone, where each event is one message."""

    async def ask() -> list[bytes]:
        engine = WatchedEngine(in_python=False)
        engine.start()
        service = Service()
        service.set_ready(model_of(engine))
        transport = httpx.ASGITransport(create_app(ServerSettings(), service))
        body = {**chat_body(), "stream": True, "seed": 3, "max_tokens": 50}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(CHAT, json=body)
        engine.close()
        assert engine.events > 0
        return [event + b"\n\n" for event in answer.content.split(b"\n\n")[:-2]]

    def model_of(engine: AsyncEngine) -> Any:
        server.set_ready(engine)
        return server.service.model

    server = LiveServer(ServerSettings())
    server.start()
    try:
        events = [re.sub(rb'"id":"[\w-]+"|"created":\d+', b'"x":0', e) for e in asyncio.run(ask())]
    finally:
        server.stop()
    texts = [orjson.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events]
    assert texts[0] == ""
    assert len("".join(texts)) > 10
    assert events[-1].count(b'"finish_reason":"length"') == 1


def test_a_slow_reader_gets_everything_once_and_in_order() -> None:
    """The sockets fill, the stream waits, and what came meanwhile follows."""
    tokens = [f"{number:04d} " + "x" * 5_000 for number in range(2_000)]
    with (
        live_server(script=Script(tokens=tokens)) as (server, engine),
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock,
    ):
        sock.sendall(raw_chat_request(chat_body(stream=True)))
        deadline = time.monotonic() + 20
        while engine.generated < len(tokens):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answer = b""
        while data := sock.recv(1 << 20):
            answer += data
    chunks = list(http_chunks(answer.partition(b"\r\n\r\n")[2]))
    events = [orjson.loads(chunk[6:]) for chunk in chunks[:-2]]
    texts = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert texts == ["", *tokens, ""]


class FailingEngine(FakeEngine):
    """Its third token is no text, which no event can be made of."""

    def _delta(self, request: GenerationRequest, choice: int, position: int, text: str) -> Delta:
        delta = super()._delta(request, choice, position, text)
        return delta._replace(text=object()) if position == 2 else delta  # type: ignore[arg-type]


def test_a_fault_while_writing_ends_the_request() -> None:
    with live_server() as (server, _):
        engine = FailingEngine(Script(step_s=0.05))
        server.set_ready(engine)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.sendall(raw_chat_request(chat_body(stream=True)))
            answer = b""
            while data := sock.recv(65536):
                answer += data
        assert answer.count(b'"content":') == 3
        assert b"[DONE]" not in answer
        assert engine.cancelled == [0]
        assert server.on_loop(lambda: server.service.num_open) == 0
