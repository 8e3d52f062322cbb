"""The load generator against a small server of its own: loops, counts, connections that close."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from loadgen.client import Endpoint
from loadgen.load import Load, LoadGenerator, ServerError
from loadgen.metrics import Summary
from loadgen.prompts import WORDS, PromptMaker, PromptShape

TEMPLATE_TOKENS = 3
TOKEN_S = 0.002


class WordServer:
    """Counts words as tokens; `closes` ends each connection after its response, unannounced."""

    def __init__(self, *, closes: bool = False, fails: bool = False) -> None:
        self.closes, self.fails = closes, fails
        self.prompts: list[str] = []
        self.formats: list[object] = []
        self.in_flight = self.most_in_flight = self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                await self._answer(head.split(b" ", 2)[1].decode(), body, writer)
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        payload = json.loads(body or b"{}")
        if path == "/v1/models":
            self._json(writer, 200, {"data": [{"id": "words"}]})
        elif path != "/v1/completions" or (self.fails and payload.get("stream")):
            self._json(writer, 404, {"error": {"message": "not here"}})
        elif payload.get("stream"):
            await self._stream(payload, writer)
        else:
            self._json(writer, 200, {"choices": [], "usage": self._usage(payload, 1)})
        await writer.drain()

    def _usage(self, payload: dict, tokens: int) -> dict:
        prompt_tokens = len(payload["prompt"].split()) + TEMPLATE_TOKENS
        return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}

    @staticmethod
    def _json(writer: asyncio.StreamWriter, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    async def _stream(self, payload: dict, writer: asyncio.StreamWriter) -> None:
        self.prompts.append(payload["prompt"])
        self.formats.append(payload.get("response_format"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        count = payload["max_tokens"]
        for index in range(count):
            await asyncio.sleep(TOKEN_S)
            reason = "length" if index == count - 1 else None
            self._event(writer, {"choices": [{"text": "x", "finish_reason": reason}]})
        self._event(writer, {"choices": [], "usage": self._usage(payload, count)})
        self.in_flight -= 1
        writer.write(b"0\r\n\r\n")

    @staticmethod
    def _event(writer: asyncio.StreamWriter, value: object) -> None:
        data = b"data: %s\n\n" % json.dumps(value).encode()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@asynccontextmanager
async def generator_for(words: WordServer) -> AsyncIterator[LoadGenerator]:
    server = await asyncio.start_server(words.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    generator = await LoadGenerator.connect(Endpoint.of(f"http://127.0.0.1:{port}/v1"))
    try:
        yield generator
    finally:
        generator.close()
        server.close()


def run(words: WordServer, use: Callable[[LoadGenerator], Awaitable[Summary]]) -> Summary:
    async def main() -> Summary:
        async with generator_for(words) as generator:
            return await use(generator)

    return asyncio.run(main())


# The client and its server share a process here, so lag and CPU would be theirs together.
def load(**fields) -> Load:
    return Load(PromptShape(20), 5, **({"max_lag_ms": 1e6} | fields))


@pytest.mark.parametrize("closes", [False, True])
def test_a_closed_loop_keeps_so_many_streams_in_flight(closes: bool):
    words = WordServer(closes=closes)
    summary = run(words, lambda generator: generator.run(load(requests=12, concurrency=3)))
    assert (summary.requests, summary.failed, summary.warnings) == (12, 0, [])
    assert words.most_in_flight == 3
    assert summary.prompt_tokens_mean == 20
    assert summary.output_tokens_mean == 5
    assert summary.tokens_per_frame == 1
    assert len(set(words.prompts)) == 13  # the warm-up's too: all different
    assert closes or words.connections <= 4
    if summary.invalid is None:
        assert summary.latency_ms["ttft"].p50 >= 1000 * TOKEN_S * 0.9
        assert summary.latency_ms["e2el"].p50 >= 5 * 1000 * TOKEN_S * 0.9


def test_an_open_loop_sends_on_schedule_whatever_the_server_does():
    words = WordServer()
    summary = run(words, lambda generator: generator.run(load(requests=20, request_rate=200.0)))
    assert summary.failed == 0
    assert summary.client_lag_p99_ms is not None
    assert summary.duration_s >= 20 / 200 * 0.9


def test_outputs_are_held_to_a_schema_if_asked_for():
    words = WordServer()
    schema = {"type": "array", "minItems": 100}
    summary = run(words, lambda generator: generator.run(load(requests=2, json_schema=schema)))
    named = {"name": "benchmark", "schema": schema}
    assert words.formats == [{"type": "json_schema", "json_schema": named}] * 3
    assert summary.label == "1 stream, schema"


def test_failures_are_counted_and_said():
    words = WordServer(fails=True)
    summary = run(words, lambda generator: generator.run(load(requests=3)))
    assert summary.failed == 3
    assert "status 404: not here" in (summary.invalid or "")


def test_a_server_that_is_not_there_is_an_error():
    with pytest.raises(ServerError):
        asyncio.run(LoadGenerator.connect(Endpoint.of("127.0.0.1:9")))


def test_prefixes_are_shared_and_the_rest_is_not():
    shape = PromptShape(input_len=30, prefix_len=20, num_prefixes=2)
    maker = PromptMaker(list(WORDS), overhead=4, seed=3)
    texts = [maker.text(shape).split() for _ in range(40)]
    assert {len(words) for words in texts} == {26}
    assert len({tuple(words[:20]) for words in texts}) == 2
    assert len({tuple(words[20:]) for words in texts}) == 40
    with pytest.raises(ValueError, match="too short"):
        maker.text(PromptShape(input_len=4))
