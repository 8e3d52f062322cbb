"""Grammars made to hurt: each is answered in time, and nothing else is slowed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from mlc_server import limits
from mlc_server.engine import AsyncEngine, Delta, GenerationRequest, GrammarSpec, SamplingOptions
from mlc_server.errors import GenerationFailed, InvalidRequest
from support.fake_server import fake_core, fake_grammars
from support.hostile_grammars import HOSTILE
from support.waiting import wait_for

# Those whose masks, not whose compiling, take long; they are within every limit.
EXPENSIVE = ["ambiguous and empty", "nullable stars", "nested counts"]
PATIENCE_S = limits.GRAMMAR_WALL_MS.default / 1e3


def test_there_are_fifty_and_each_is_another() -> None:
    assert len({spec.source for spec in HOSTILE.values()}) == len(HOSTILE) >= 50


def test_each_is_compiled_or_refused_by_name_in_time() -> None:
    async def scenario() -> dict[str, str]:
        grammars = fake_grammars()
        await grammars.compile(GrammarSpec("json_object"))
        refused = {}
        for name, spec in HOSTILE.items():
            begin_s = time.perf_counter()
            try:
                await grammars.compile(spec)
            except InvalidRequest as error:
                refused[name] = f"{error.param}: {error.message}"
            assert time.perf_counter() - begin_s < PATIENCE_S, name
        return refused

    refused = asyncio.run(scenario())
    for name, message in refused.items():
        assert message.startswith(f"{HOSTILE[name].param}: ")
        assert len(message) <= 400
    for name, said in [
        ("deep references", "recursion"),
        ("reference abroad", "example.com"),
        ("oneOf patterns", "oneOf"),
        ("5000 constants", "65536 bytes"),
        ("150 pattern properties", "to compile"),
        ("deep parentheses", "invalid regex"),
    ]:
        assert said in refused[name], refused[name]
    assert len(refused) < len(HOSTILE)


@pytest.mark.parametrize("names", [EXPENSIVE, list(HOSTILE)[::9]])
def test_a_stream_beside_them_goes_on(names: list[str]) -> None:
    """What it gets while they work, and not how fast, is what holds on a busy machine, too."""

    async def scenario() -> None:
        engine = AsyncEngine(fake_core(step_ns=1_000_000), fake_grammars())
        engine.start()
        beside: list[Delta] = []

        async def follow(name: str) -> None:
            asked = GenerationRequest(
                [65],
                SamplingOptions(max_tokens=60, logit_bias=((ord("x"), 100.0),)),
                num_choices=4,
                grammar=HOSTILE[name],
            )
            with contextlib.suppress(InvalidRequest, GenerationFailed):
                await engine.collect(asked)

        try:
            free = GenerationRequest([65], SamplingOptions(max_tokens=3000, ignore_eos=True))
            engine.submit(free, beside.extend)
            await asyncio.wait_for(asyncio.gather(*map(follow, names)), 240)
            while not (beside and beside[-1].finish_reason):
                await asyncio.sleep(0.01)
            assert beside[-1].completion_tokens == 3000
            assert engine.health() == "ok"
            wait_for(lambda: engine.stats().free_pages == engine.stats().total_pages, 5.0)
        finally:
            engine.close()

    asyncio.run(scenario())
