"""The core driven without HTTP, alone and in turn with who else uses the engine."""

from __future__ import annotations

import asyncio

from core_harness import CoreDriver, Harness
from mlc_server import _core
from mlc_server.engine import AsyncEngine, GenerationRequest, SamplingOptions

VOCAB_SIZE = 300


def make_harness() -> Harness:
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE)
    return Harness(runner, num_pages=64, max_batch_size=4)


def test_every_request_of_a_closed_loop_gets_all_its_tokens() -> None:
    harness = make_harness()
    try:
        timeline = harness.closed_loop(5, 7, streams=3, requests=8)
    finally:
        harness.stop()
    assert [len(times) for times in timeline.arrivals] == [7] * 8
    assert all(times == sorted(times) for times in timeline.arrivals)
    # The fourth begins when one of the first three has ended, not before.
    assert min(times[0] for times in timeline.arrivals[3:]) >= min(
        times[-1] for times in timeline.arrivals[:3]
    )
    assert timeline.tokens_s > 0
    assert timeline.first_token_s > 0


def test_a_driver_and_an_event_loop_take_turns() -> None:
    """As served_core.py does: the driver reads the output while the loop's thread is in it."""
    vocabulary = _core.Vocabulary([b"x"] * VOCAB_SIZE, [False] * VOCAB_SIZE)
    config = _core.EngineConfig(vocab_size=VOCAB_SIZE, num_pages=64, max_sequence_length=128)
    core = _core.Engine(_core.FakeRunner(vocab_size=VOCAB_SIZE), vocabulary, config)
    request = GenerationRequest([1, 2, 3], SamplingOptions(max_tokens=6, ignore_eos=True))

    async def take_turns() -> None:
        engine = AsyncEngine(core)
        engine.start()
        driver = CoreDriver(core, VOCAB_SIZE, first_id=1 << 40)
        try:
            for _ in range(3):
                (choice,) = await engine.collect(request)
                assert choice.completion_tokens == 6
                timeline = driver.closed_loop(4, 5, streams=2, requests=4)
                assert [len(times) for times in timeline.arrivals] == [5] * 4
        finally:
            engine.close()

    asyncio.run(take_turns())
