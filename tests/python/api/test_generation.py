"""Who gets the engine's news: a listener while the consumer waits, else the consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from mlc_server.api.generation import Generation
from mlc_server.api.service import EnginePort
from mlc_server.engine import Delta, GenerationRequest


class SilentEngine:
    """Accepts everything; the test calls the sink."""

    def submit(self, request: GenerationRequest, sink: Callable[[list[Delta]], None]) -> int:
        return 0

    def listen(self, handle: object, event_sink: Callable[[Delta], bool]) -> None:
        pass

    def cancel(self, handle: object) -> None:
        pass


def run(scenario: Callable[[Generation, list[Delta]], Awaitable[None]], *, takes: bool) -> None:
    """With a generation of one choice and a listener that notes what it takes, if it `takes`."""

    async def start() -> None:
        engine = cast(EnginePort, SilentEngine())
        generation = Generation(engine, [GenerationRequest([1])], on_close=lambda _: None)
        heard: list[Delta] = []

        def listen(delta: Delta) -> bool:
            if takes:
                heard.append(delta)
            return takes

        generation.listen(listen)
        await scenario(generation, heard)

    asyncio.run(start())


def news(text: str, **fields: Any) -> Delta:
    return Delta(0, text, [1], **fields)


def test_a_waiting_consumer_hears_only_of_the_end() -> None:
    async def scenario(generation: Generation, heard: list[Delta]) -> None:
        waiting = asyncio.ensure_future(generation.next())
        await asyncio.sleep(0)
        for text in "abc":
            generation.receive([news(text)])
        await asyncio.sleep(0)
        assert not waiting.done()
        end = news("d", finish_reason="stop")
        generation.receive([end])
        assert await waiting == [end]
        assert [delta.text for delta in heard] == ["a", "b", "c"]

    run(scenario, takes=True)


def test_news_never_overtakes_what_the_consumer_has_not_fetched() -> None:
    async def scenario(generation: Generation, heard: list[Delta]) -> None:
        generation.receive([news("a")])  # nobody waits yet
        assert await generation.next() == [news("a")]
        generation.receive([news("b")])  # the consumer is busy with a
        waiting = asyncio.ensure_future(generation.next())
        generation.receive([news("c")])
        assert await waiting == [news("b"), news("c")]
        assert heard == []

    run(scenario, takes=True)


def test_what_the_listener_refuses_wakes_the_consumer() -> None:
    async def scenario(generation: Generation, heard: list[Delta]) -> None:
        waiting = asyncio.ensure_future(generation.next())
        await asyncio.sleep(0)
        generation.receive([news("a")])
        generation.receive([news("b")])
        assert await waiting == [news("a"), news("b")]

    run(scenario, takes=False)


def test_what_the_listener_raises_is_the_consumers_to_handle() -> None:
    async def scenario(generation: Generation, heard: list[Delta]) -> None:
        def broken(delta: Delta) -> bool:
            raise ValueError("broken listener")

        generation.listen(broken)
        waiting = asyncio.ensure_future(generation.next())
        await asyncio.sleep(0)
        generation.receive([news("a")])
        with pytest.raises(ValueError, match="broken listener"):
            await waiting

    run(scenario, takes=True)


def test_silence_is_counted_from_what_was_heard_last() -> None:
    async def scenario(generation: Generation, heard: list[Delta]) -> None:
        begin_s = time.perf_counter()
        waiting = asyncio.ensure_future(generation.next(0.2))
        await asyncio.sleep(0.15)
        generation.receive([news("a")])
        assert await waiting == []
        assert time.perf_counter() - begin_s >= 0.34
        assert [delta.text for delta in heard] == ["a"]

    run(scenario, takes=True)
