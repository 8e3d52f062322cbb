"""The default model says the same with and without guesses, in fewer steps where it copies."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mlc_server import _core
from mlc_server.text.prompt import PromptBuilder
from support.default_model import DefaultModel

pytestmark = pytest.mark.model

TEXT = (
    "The quick brown fox jumps over the lazy dog. Paris is the capital of France, and the Seine "
    "runs through it. In 1889 the tower was finished; it is 330 metres tall. Water boils at 100 "
    "degrees at sea level, and at 71 degrees on Mount Everest."
)
COPY = f"Repeat the following text word for word.\n\n{TEXT}"
ORDINARY = "Write a short story about a robot who learns to paint."
# Prompt and text end beyond 256 tokens, where attention may be cut into splits.
LONG_COPY = f"{COPY}\n\n{TEXT}\n\n{TEXT}\n\n{TEXT}\n\n{TEXT}\n\nRepeat only the first paragraph."


class Run:
    """An engine over the default model, driven from this thread."""

    def __init__(self, model: DefaultModel, **fields: Any) -> None:
        runner = model.runner()
        vocab_size = runner.info.vocab_size
        self.engine = _core.Engine(
            runner,
            _core.Vocabulary([b"x"] * vocab_size, [False] * vocab_size),
            _core.EngineConfig(
                max_sequence_length=1024,
                num_pages=256,
                vocab_size=vocab_size,
                eos_token_ids=[2],
                check_every_step=True,
                **fields,
            ),
        )
        self.engine.start()

    def generate(self, prompts: Sequence[Sequence[int]], temperature: float) -> list[list[int]]:
        """Tokens of each prompt, all submitted at once."""
        for index, prompt in enumerate(prompts):
            sampling = _core.SamplingParams(temperature=temperature, seed=index, max_tokens=80)
            self.engine.submit(index, list(prompt), sampling)
        tokens: list[list[int]] = [[] for _ in prompts]
        num_open = len(prompts)
        while num_open:
            ready, _, _ = select.select([self.engine.wake_fd()], [], [], 60)
            assert ready, "the engine stalled"
            for output in self.engine.drain():
                tokens[output[0]] += output[3]
                num_open -= output[5] is not None
        return tokens


@pytest.fixture(scope="module")
def prompts(model: DefaultModel) -> list[list[int]]:
    manifest = model.manifest
    builder = PromptBuilder.from_folder(manifest.folder, manifest.chat_config, chat_template=None)
    return [
        builder.build([{"role": "user", "content": text}]) for text in (COPY, ORDINARY, LONG_COPY)
    ]


@pytest.fixture(scope="module")
def plain(model: DefaultModel) -> Iterator[Run]:
    run = Run(model)
    yield run
    assert run.engine.stop()


@pytest.mark.parametrize("draft_tokens_max", [1, 3, 6])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_guesses_change_no_token(
    model: DefaultModel,
    prompts: list[list[int]],
    plain: Run,
    temperature: float,
    draft_tokens_max: int,
) -> None:
    guessing = Run(model, speculative_mode="ngram", ngram_min=2, draft_tokens_max=draft_tokens_max)
    for prompt in prompts:
        assert guessing.generate([prompt], temperature) == plain.generate([prompt], temperature)
    assert guessing.generate(prompts, temperature) == plain.generate(prompts, temperature)
    assert guessing.engine.stats().accepted_tokens > 0
    assert guessing.engine.stop()


def test_copying_takes_fewer_steps(model: DefaultModel, prompts: list[list[int]]) -> None:
    runs = [Run(model), Run(model, speculative_mode="ngram")]
    tokens, guessed = (run.generate(prompts[:1], 0.0)[0] for run in runs)
    assert guessed == tokens
    assert all(run.engine.stop() for run in runs)  # the counters are final now
    plain, guessing = (run.engine.stats() for run in runs)
    # How many it dares depends on what steps were seen to cost, which no test can know.
    assert guessing.accepted_tokens > 1
    # A guess that ends the answer saves no step.
    saved = plain.num_steps - guessing.num_steps
    assert guessing.accepted_tokens - 1 <= saved <= guessing.accepted_tokens
