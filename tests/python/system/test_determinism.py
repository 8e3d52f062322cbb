"""Same prompt and seed, same tokens: alone, in a crowd, in small chunks, and after preemption."""

from __future__ import annotations

import random
import select
from collections.abc import Sequence
from typing import Any

import pytest

from mlc_server import _core
from support.default_model import DefaultModel
from support.golden import load_golden

pytestmark = pytest.mark.model

PROMPTS = [case.prompt_ids for case in load_golden()][:16]
MAX_TOKENS = 40
# Long enough that the attention of late tokens is cut into several splits.
LONG_PROMPT = [token for case in load_golden() for token in case.prompt_ids][:600]


def sampling(index: int) -> Any:
    params = _core.SamplingParams()
    params.temperature = 0.0 if index % 4 == 0 else 0.9
    params.top_p = 0.95 if index % 2 else 1.0
    params.seed = 1000 + index
    params.max_tokens = MAX_TOKENS
    params.ignore_eos = index % 3 == 0
    return params


class Run:
    """A fresh engine over the default model, driven from this thread."""

    def __init__(self, model: DefaultModel, *, num_pages: int, chunk: int) -> None:
        runner = model.runner()
        vocab_size = runner.info.vocab_size
        self.engine = _core.Engine(
            runner,
            _core.Vocabulary([b"x"] * vocab_size, [False] * vocab_size),
            _core.EngineConfig(
                max_batch_size=17,
                prefill_chunk_size=chunk,
                max_sequence_length=num_pages * 16,
                num_pages=num_pages,
                vocab_size=vocab_size,
                eos_token_ids=[2],
                check_every_step=True,
            ),
        )
        self.engine.start()

    def generate(
        self,
        prompts: Sequence[tuple[int, Sequence[int]]],
        urgent: Sequence[tuple[int, Sequence[int]]] = (),
    ) -> dict[int, list[int]]:
        """Tokens of each (index, prompt), all submitted at once.

        Each `urgent` one arrives after a few more outputs and goes before the others.
        """
        for index, prompt in prompts:
            self.engine.submit(index, list(prompt), sampling(index), priority=1)
        tokens: dict[int, list[int]] = {index: [] for index, _ in [*prompts, *urgent]}
        open_requests = set(tokens)
        waiting = list(urgent)
        drains = 0
        while open_requests:
            drains += 1
            if waiting and drains % 8 == 0:
                index, prompt = waiting.pop()
                self.engine.submit(index, list(prompt), sampling(index), priority=0)
            ready, _, _ = select.select([self.engine.wake_fd()], [], [], 60)
            assert ready, "the engine stalled"
            for output in self.engine.drain():
                index, token_ids, finish_reason = output[0], output[3], output[5]
                tokens[index] += token_ids
                if finish_reason is not None:
                    assert finish_reason in {"stop", "length"}
                    open_requests.discard(index)
        return tokens

    def close(self) -> None:
        assert self.engine.stop()


@pytest.fixture(scope="module")
def requests() -> list[tuple[int, list[int]]]:
    return [*enumerate(PROMPTS), (16, LONG_PROMPT)]


@pytest.fixture(scope="module")
def alone(model: DefaultModel, requests: list[tuple[int, list[int]]]) -> dict[int, list[int]]:
    run = Run(model, num_pages=512, chunk=2048)
    tokens = {}
    for request in requests:
        tokens |= run.generate([request])
    run.close()
    return tokens


def test_all_at_once_gives_the_tokens_of_each_alone(
    model: DefaultModel, requests: list[tuple[int, list[int]]], alone: dict[int, list[int]]
) -> None:
    run = Run(model, num_pages=512, chunk=2048)
    assert run.generate(requests) == alone
    run.close()


def test_shuffled_in_small_chunks_with_preemption_gives_the_same_tokens(
    model: DefaultModel, requests: list[tuple[int, list[int]]], alone: dict[int, list[int]]
) -> None:
    # 48 pages hold the long prompt and little else: sequences must give way to one another.
    run = Run(model, num_pages=48, chunk=19)
    shuffled = list(requests)
    random.Random(7).shuffle(shuffled)
    assert run.generate(shuffled[:11], urgent=shuffled[11:]) == alone
    assert run.engine.stats().preemptions > 0
    run.close()
