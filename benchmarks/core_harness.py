"""The core driven from one Python thread, without event loop or HTTP."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mlc_server import _core

CHUNK_TOKENS = 512
STALL_S = 120.0


@dataclass(frozen=True)
class Timeline:
    """When requests were submitted, and when each token of each of them arrived; seconds."""

    start: float
    arrivals: list[list[float]]

    @property
    def first_token_s(self) -> float:
        return self.arrivals[0][0] - self.start

    @property
    def tokens_s(self) -> float:
        """Rate from submitting the first request to the last token."""
        tokens = sum(len(times) for times in self.arrivals)
        return tokens / (max(times[-1] for times in self.arrivals) - self.start)

    @property
    def decode_tokens_s(self) -> float:
        """Rate from when all requests have begun to when the first one ends."""
        begin = max(times[0] for times in self.arrivals)
        end = min(times[-1] for times in self.arrivals)
        tokens = sum(begin < moment <= end for times in self.arrivals for moment in times)
        return tokens / (end - begin)


class CoreDriver:
    """Drives a running engine whose output nobody else reads, with prompts never seen before.

    `first_id`: of its requests; those of others who use the engine in turn must be lower.
    """

    def __init__(self, engine: Any, vocab_size: int, *, first_id: int = 0) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._random = np.random.default_rng(0)
        self._next_id = first_id

    def generate(self, prompt_tokens: int, max_tokens: int, count: int = 1) -> Timeline:
        """Runs `count` requests at once and returns when each of their tokens arrived."""
        return self.closed_loop(prompt_tokens, max_tokens, streams=count, requests=count)

    def closed_loop(
        self, prompt_tokens: int, max_tokens: int, *, streams: int, requests: int
    ) -> Timeline:
        """Keeps `streams` requests in flight, the end of one beginning the next."""
        first_id = self._next_id
        self._next_id += requests
        sampling = _core.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        shape = (requests, prompt_tokens)
        prompts = self._random.integers(0, self._vocab_size, shape, dtype=np.int32)
        arrivals: list[list[float]] = [[] for _ in range(requests)]
        waiting = iter(range(requests))

        def submit(count: int) -> None:
            for index in islice(waiting, count):
                self._engine.submit(first_id + index, prompts[index].tobytes(), sampling)

        start = time.perf_counter()
        submit(streams)
        open_requests = requests
        while open_requests:
            for request_id, tokens, reason in self._news():
                arrivals[request_id - first_id] += [time.perf_counter()] * tokens
                if reason is not None:
                    open_requests -= 1
                    submit(1)
        return Timeline(start, arrivals)

    def _news(self) -> Iterator[tuple[int, int, str | None]]:
        """(request, number of tokens, finish reason) of the next outputs."""
        ready, _, _ = select.select([self._engine.wake_fd()], [], [], STALL_S)
        if not ready:
            raise RuntimeError(f"no output for {STALL_S} s; engine: {self._engine.health()}")
        for item in self._engine.drain():
            request_id, token_ids, reason, error = item[0], item[3], item[5], item[9]
            if reason not in {None, "length"}:
                raise RuntimeError(f"request {request_id} ended with {reason}: {error}")
            yield request_id, len(token_ids), reason


class Harness(CoreDriver):
    """A driver with an engine of its own."""

    def __init__(
        self,
        runner: Any,
        *,
        num_pages: int,
        max_batch_size: int,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        vocab_size = runner.info.vocab_size
        engine = _core.Engine(
            runner,
            _core.Vocabulary([b"x"] * vocab_size, [False] * vocab_size),
            _core.EngineConfig(
                max_batch_size=max_batch_size,
                prefill_chunk_size=chunk_tokens,
                max_sequence_length=runner.info.context_window,
                num_pages=num_pages,
                vocab_size=vocab_size,
            ),
        )
        super().__init__(engine, vocab_size)
        self.num_pages = num_pages
        engine.start()

    def stop(self) -> None:
        self._engine.stop()
