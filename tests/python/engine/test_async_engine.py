"""The engine on an event loop: streams, cancellation, refusal, death."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlc_server.engine import AsyncEngine, Delta, GenerationRequest, SamplingOptions, async_engine
from mlc_server.errors import (
    ContextOverflow,
    GenerationFailed,
    InvalidRequest,
    QueueFull,
    Unavailable,
)
from support.fake_core import MakeCore, build_core


@asynccontextmanager
async def running(core: Any, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(core, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def request(prompt: str = "hello", *, num_choices: int = 1, **sampling: Any) -> GenerationRequest:
    options = SamplingOptions(**{"temperature": 0.8, "max_tokens": 20, "seed": 5, **sampling})
    return GenerationRequest([ord(c) for c in prompt], options, num_choices)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.002)


class Recorder:
    """A sink that keeps what it gets, one list per call."""

    def __init__(self) -> None:
        self.calls: list[list[Delta]] = []

    def __call__(self, deltas: list[Delta]) -> None:
        self.calls.append(deltas)

    @property
    def deltas(self) -> list[Delta]:
        return [delta for call in self.calls for delta in call]

    @property
    def ends(self) -> list[str]:
        return [delta.finish_reason for delta in self.deltas if delta.finish_reason]


def test_64_streams_complete_and_equal_each_alone(make_core: MakeCore) -> None:
    requests = [
        request(f"prompt {i}", seed=i, num_choices=1 + i % 3, max_tokens=10 + i) for i in range(64)
    ]

    async def scenario() -> None:
        async with running(make_core(num_pages=160)) as engine:
            together = await asyncio.gather(*(engine.collect(r) for r in requests))
            assert engine.num_open == 0
            assert engine.stats().free_pages == engine.stats().total_pages
            alone = [await engine.collect(r) for r in requests]
        assert together == alone
        for asked, choices in zip(requests, together, strict=True):
            assert len(choices) == asked.num_choices
            for choice in choices:
                assert choice.completion_tokens == len(choice.token_ids)
                assert choice.prompt_tokens == len(asked.prompt_ids)

    asyncio.run(scenario())


def test_sinks_get_every_token_in_order_on_the_loop_thread(make_core: MakeCore) -> None:
    async def scenario() -> None:
        async with running(make_core(runner={"step_ns": 1_000_000})) as engine:
            recorder = Recorder()
            threads = set()

            def sink(deltas: list[Delta]) -> None:
                threads.add(threading.get_ident())
                recorder(deltas)

            engine.submit(request(max_tokens=30, ignore_eos=True), sink)
            await until(lambda: bool(recorder.ends))
            whole = (await engine.collect(request(max_tokens=30, ignore_eos=True)))[0]
        assert threads == {threading.get_ident()}
        assert [i for delta in recorder.deltas for i in delta.token_ids] == whole.token_ids
        assert "".join(delta.text for delta in recorder.deltas) == whole.text
        counts = [delta.completion_tokens for delta in recorder.deltas]
        assert counts == sorted(counts)
        assert recorder.ends == ["length"]

    asyncio.run(scenario())


def test_a_lower_priority_runs_first(make_core: MakeCore) -> None:
    async def work() -> None:
        core = make_core(max_batch_size=1, runner={"step_ns": 1_000_000})
        async with running(core) as engine:
            ended: list[int] = []

            def sink(priority: int, deltas: list[Delta]) -> None:
                ended.extend(priority for delta in deltas if delta.finish_reason)

            for priority in (5, 7, -1, 0):
                urgent = replace(request(ignore_eos=True), priority=priority)
                engine.submit(urgent, partial(sink, priority))
            await until(lambda: len(ended) == 4)
            assert ended == [-1, 0, 5, 7]

    asyncio.run(work())


def test_logprobs_are_aligned_with_tokens(make_core: MakeCore) -> None:
    async def scenario() -> None:
        async with running(make_core()) as engine:
            choice = (await engine.collect(request(top_logprobs=4)))[0]
        assert choice.logprobs is not None
        assert [entry.token_id for entry in choice.logprobs] == choice.token_ids
        assert all(len(entry.alternatives) == 4 for entry in choice.logprobs)

    asyncio.run(scenario())


def test_cancel_frees_pages_and_silences_the_sink(make_core: MakeCore) -> None:
    async def scenario() -> None:
        core = make_core(runner={"step_ns": 2_000_000})
        async with running(core) as engine:
            recorders = [Recorder() for _ in range(40)]
            handles = [
                engine.submit(request(f"prompt {i}", max_tokens=-1, ignore_eos=True), recorder)
                for i, recorder in enumerate(recorders)
            ]
            await until(lambda: all(recorder.calls for recorder in recorders[:8]))
            for handle in handles:
                engine.cancel(handle)
            calls = [len(recorder.calls) for recorder in recorders]
            await until(lambda: engine.stats().free_pages == engine.stats().total_pages, 1)
            engine.cancel(handles[0])  # ended: nothing happens
            await asyncio.sleep(0.02)
            assert [len(recorder.calls) for recorder in recorders] == calls
            assert engine.num_open == 0
            assert engine.stats().finished_cancelled == 40

    asyncio.run(scenario())


def test_cancelled_collect_cancels_the_request(make_core: MakeCore) -> None:
    async def scenario() -> None:
        async with running(make_core(runner={"step_ns": 1_000_000})) as engine:
            task = asyncio.ensure_future(engine.collect(request(max_tokens=-1, ignore_eos=True)))
            await until(lambda: engine.stats().num_running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: engine.stats().finished_cancelled == 1, 1)

    asyncio.run(scenario())


def test_refusals_are_typed(make_core: MakeCore) -> None:
    async def scenario() -> None:
        core = make_core(runner={"step_ns": 20_000_000}, max_queue_size=2, max_batch_size=1)
        unstarted = AsyncEngine(core)
        with pytest.raises(Unavailable):
            unstarted.submit(request(), Recorder())
        async with running(core) as engine:
            with pytest.raises(InvalidRequest) as invalid:
                engine.submit(request(temperature=9.0), Recorder())
            assert invalid.value.param == "temperature"
            assert "9" in invalid.value.message
            with pytest.raises(InvalidRequest) as invalid:
                engine.submit(request(max_tokens=2**40), Recorder())
            assert invalid.value.param == "max_tokens"
            with pytest.raises(ContextOverflow) as overflow:
                engine.submit(request("x" * 256), Recorder())
            assert overflow.value.code == "context_length_exceeded"
            endless = request(max_tokens=-1, ignore_eos=True)
            engine.submit(endless, Recorder())
            await until(lambda: engine.stats().num_running == 1)
            engine.submit(endless, Recorder())
            engine.submit(endless, Recorder())
            with pytest.raises(QueueFull) as full:
                engine.submit(endless, Recorder())
            assert full.value.retry_after_s >= 1
            assert engine.num_open == 3  # the refused one is not among them

    asyncio.run(scenario())


def test_a_dead_engine_ends_every_stream(make_core: MakeCore) -> None:
    async def scenario() -> None:
        async with running(make_core(runner={"throw_at_step": 5, "step_ns": 20_000_000})) as engine:
            recorders = [Recorder() for _ in range(30)]
            for recorder in recorders:
                engine.submit(request(max_tokens=50, ignore_eos=True, num_choices=2), recorder)
            await until(lambda: all(len(recorder.ends) == 2 for recorder in recorders))
            assert all(recorder.ends == ["error", "error"] for recorder in recorders)
            assert engine.health() == "dead: injected fault at step 5"
            with pytest.raises(Unavailable):
                engine.submit(request(), Recorder())

    asyncio.run(scenario())


def test_collect_reports_failure(make_core: MakeCore) -> None:
    async def scenario() -> None:
        async with running(make_core(runner={"poison_token_id": 7})) as engine:
            with pytest.raises(GenerationFailed, match="not finite"):
                await engine.collect(request("a\x07"))
            assert engine.health() == "ok"

    asyncio.run(scenario())


def test_a_hung_step_is_a_dead_engine(make_core: MakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_engine, "_WATCH_INTERVAL_S", 0.05)

    async def scenario() -> None:
        core = make_core(runner={"step_ns": 1_500_000_000})
        async with running(core, stall_after_s=0.5) as engine:
            await asyncio.sleep(0.8)
            assert engine.health() == "ok"  # idle is not hung
            recorder = Recorder()
            engine.submit(request(num_choices=2), recorder)
            await until(lambda: bool(recorder.ends), 1.4)
            assert recorder.ends == ["error", "error"]
            assert {delta.prompt_tokens for delta in recorder.deltas} == {5}
            assert engine.health().startswith("dead: the engine has not stepped for")
            with pytest.raises(Unavailable):
                engine.submit(request(), Recorder())
            await asyncio.sleep(1)  # the step ends after all: nobody is told twice
            assert len(recorder.ends) == 2

    asyncio.run(scenario())


def test_close_ends_open_streams_and_is_idempotent(make_core: MakeCore) -> None:
    async def scenario() -> None:
        engine = AsyncEngine(make_core(runner={"step_ns": 1_000_000}))
        engine.start()
        recorder = Recorder()
        engine.submit(request(max_tokens=-1, ignore_eos=True), recorder)
        await until(lambda: bool(recorder.calls))
        engine.close()
        engine.close()
        assert recorder.ends == ["error"]
        assert engine.health() == "stopped"
        with pytest.raises(Unavailable):
            engine.submit(request(), Recorder())

    asyncio.run(scenario())


def test_a_failing_sink_harms_only_its_own_request(
    make_core: MakeCore, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(deltas: list[Delta]) -> None:
        raise ValueError("broken sink")

    async def scenario() -> None:
        async with running(make_core(runner={"step_ns": 1_000_000})) as engine:
            engine.submit(request(max_tokens=-1, ignore_eos=True), broken)
            choice = (await engine.collect(request(max_tokens=50, ignore_eos=True)))[0]
            assert choice.completion_tokens == 50
            await until(lambda: engine.stats().finished_cancelled == 1)

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert "the sink of request 1 failed" in caplog.text


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_file_descriptors_are_left_behind() -> None:
    async def scenario() -> None:
        async with running(build_core()) as engine:
            await engine.collect(request())

    asyncio.run(scenario())
    before = num_open_files()
    for _ in range(10):
        asyncio.run(scenario())
    assert num_open_files() <= before
