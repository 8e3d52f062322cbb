"""Guessing ahead as Python sees it: a field of the config, counters, and the same tokens."""

from __future__ import annotations

import select
from typing import Any

import pytest

from mlc_server import _core
from support.fake_core import MakeCore

PROMPT = [65, 66, 67, 68] * 4


def generate(core: _core.Engine, **sampling: Any) -> tuple[list[int], str]:
    core.start()
    fields = {"temperature": 0.0, "max_tokens": 60, "ignore_eos": True, **sampling}
    core.submit(1, PROMPT, _core.SamplingParams(**fields))
    tokens: list[int] = []
    text = ""
    while True:
        readable, _, _ = select.select([core.wake_fd()], [], [], 20)
        assert readable, f"no output; so far {tokens}"
        for item in core.drain():
            tokens += item[3]
            text += item[2]
            if item[5] is not None:
                return tokens, text


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "seed": 3}, {"stop": ["DAB"]}])
def test_the_tokens_are_those_without_guesses(make_core: MakeCore, sampling: Any) -> None:
    copying = {"copy_probability": 0.97}
    plain = make_core(runner=copying)
    guessing = make_core(runner=copying, speculative_mode="ngram")
    assert generate(guessing, **sampling) == generate(plain, **sampling)
    assert plain.stats().drafted_tokens == plain.stats().accepted_tokens == 0
    stats = guessing.stats()
    assert 0 < stats.accepted_tokens <= stats.drafted_tokens
    assert stats.num_steps < plain.stats().num_steps


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(_core.CoreError, match='must be "disable" or "ngram", got "eagle"') as error:
        _core.EngineConfig(speculative_mode="eagle")
    assert error.value.param == "speculative_mode"
