"""The first answers, without an event loop: what they leave behind, and what a broken model is."""

from __future__ import annotations

import asyncio

import pytest

from mlc_server.cli.warm_up import warm_up
from mlc_server.engine import AsyncEngine, GenerationRequest, SamplingOptions
from mlc_server.errors import UserError
from support.byte_model import byte_prompts
from support.fake_server import fake_core


def test_every_number_of_rows_down_to_one_is_run() -> None:
    core = fake_core()
    note = warm_up(core, byte_prompts(), 16)
    assert note.startswith("32 + 36 tokens in ")
    stats = core.stats()
    assert (stats.prefill_tokens, stats.generated_tokens) == (32, 36)
    assert (stats.finished_length, stats.num_open) == (8, 0)
    core.stop()


def test_an_event_loop_takes_over_the_engine() -> None:
    core = fake_core()
    warm_up(core, byte_prompts(), 16)

    async def scenario() -> int:
        engine = AsyncEngine(core)
        engine.start()
        sampling = SamplingOptions(max_tokens=3, ignore_eos=True)
        [choice] = await engine.collect(GenerationRequest(prompt_ids=[1], sampling=sampling))
        engine.close()
        return choice.completion_tokens

    assert asyncio.run(scenario()) == 3


def test_a_short_queue_takes_fewer() -> None:
    core = fake_core()
    assert warm_up(core, byte_prompts(), 2).startswith("8 + 3 tokens in ")
    core.stop()


def test_a_model_that_cannot_answer_is_an_error_for_the_user() -> None:
    core = fake_core(throw_at_step=1)
    with pytest.raises(UserError, match="the model cannot answer"):
        warm_up(core, byte_prompts(), 16)
    assert not core.stats().alive
