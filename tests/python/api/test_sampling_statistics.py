"""What is drawn over HTTP follows the distribution that the request's fields describe: chi-squared
tests against the textbook formulas, worked out here from the model's own logits.

Seeds are fixed, so a pass is a pass for ever.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import requests

from mlc_server import _core
from support.byte_model import VOCAB_SIZE
from support.core_server import core_server
from support.fake_server import PAGE_SIZE
from support.http_server import LiveServer

PROMPT = b"The cat sat on the mat. abcabc"
# What the first token is drawn from: the bias makes it so, and puts all other tokens far below.
PROBABILITIES = dict(zip(b"abcdxyz", (0.05, 0.3, 0.02, 0.2, 0.1, 0.15, 0.18), strict=True))
BIAS = 60.0
SEEDS = 64
CHOICES = 16

Counts = dict[tuple[int, ...], Counter[int]]  # of the token after each beginning


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with core_server() as live:
        yield live


@cache
def logits(context: bytes) -> np.ndarray[Any, Any]:
    """What the model says after `context`."""
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE, page_size=PAGE_SIZE)
    num_pages = -(-len(context) // PAGE_SIZE)
    runner.allocate_kv(num_pages)
    positions = list(range(len(context)))
    row = runner.forward(
        token_ids=list(context),
        positions=positions,
        write_slots=positions,
        query_offsets=[0, len(context)],
        page_offsets=[0, num_pages],
        page_table=list(range(num_pages)),
        logit_rows=[len(context) - 1],
    )[0]
    return np.array(row, dtype=np.float64)


def expected(drawn: Sequence[int], fields: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Probabilities of the token after `drawn`, in the documented order of steps."""
    row = logits(PROMPT + bytes(drawn)).copy()
    for token, bias in fields["logit_bias"].items():
        row[int(token)] += bias
    penalty = fields.get("repetition_penalty", 1.0)
    for token in {*PROMPT, *drawn}:
        row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    for token, count in Counter(drawn).items():
        row[token] -= fields.get("presence_penalty", 0.0)
        row[token] -= fields.get("frequency_penalty", 0.0) * count
    row /= fields.get("temperature", 1.0)
    order = np.argsort(-row, kind="stable")
    weights = np.exp(row - row.max())
    if fields.get("top_k", 0) > 0:
        weights[order[fields["top_k"] :]] = 0.0
    weights /= weights.sum()
    if "top_p" in fields:
        reached = np.cumsum(weights[order]) >= fields["top_p"]
        weights[order[int(np.argmax(reached)) + 1 :]] = 0.0
    weights[weights < fields.get("min_p", 0.0) * weights.max()] = 0.0
    probabilities: np.ndarray[Any, Any] = weights / weights.sum()
    return probabilities


def draw(server: LiveServer, num_tokens: int, fields: dict[str, Any]) -> Counts:
    """SEEDS * CHOICES outputs of `num_tokens` tokens, as what came after what."""
    body = {
        "prompt": list(PROMPT),
        "max_tokens": num_tokens,
        "n": CHOICES,
        "ignore_eos": True,
        "return_token_ids": True,
        **fields,
    }

    def ask(seed: int) -> list[list[int]]:
        answer = requests.post(
            f"{server.url}/v1/completions", json={**body, "seed": seed}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return [choice["token_ids"] for choice in answer.json()["choices"]]

    counts: Counts = defaultdict(Counter)
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(ask, range(SEEDS)):
            for output in outputs:
                for position, token in enumerate(output):
                    counts[tuple(output[:position])][token] += 1
    return counts


def chi_squared_limit(degrees: int) -> float:
    """The 99.99 % point, by the Wilson-Hilferty approximation."""
    a = 2.0 / (9.0 * degrees)
    return float(degrees * (1.0 - a + 3.72 * math.sqrt(a)) ** 3)


@pytest.mark.parametrize(
    ("num_tokens", "fields"),
    [
        (1, {}),
        (1, {"temperature": 0.5}),
        (1, {"temperature": 2.0}),
        (1, {"top_k": 3}),
        (1, {"top_p": 0.6}),
        (1, {"min_p": 0.2}),
        (1, {"temperature": 1.7, "top_k": 5, "top_p": 0.8, "min_p": 0.2}),
        (1, {"more_bias": {"a": 2.0, "b": -1.0, "x": -60.0}}),
        (1, {"repetition_penalty": 1.02}),
        (3, {"repetition_penalty": 0.98, "top_k": 4}),
        (3, {"presence_penalty": 1.5, "temperature": 1.5, "top_k": 3}),
        (3, {"frequency_penalty": 1.5, "temperature": 1.5, "top_k": 3}),
        (3, {"presence_penalty": -1.0, "frequency_penalty": 0.5, "top_k": 3}),
    ],
    ids=str,
)
def test_draws_follow_the_fields(
    server: LiveServer, num_tokens: int, fields: dict[str, Any]
) -> None:
    fields = dict(fields)
    row = logits(PROMPT)
    bias = {
        token: BIAS + math.log(probability) - row[token]
        for token, probability in PROBABILITIES.items()
    }
    for token, more in fields.pop("more_bias", {}).items():
        bias[ord(token)] += more
    fields["logit_bias"] = {str(token): float(value) for token, value in bias.items()}
    chi_squared, degrees = 0.0, 0
    for before, counts in draw(server, num_tokens, fields).items():
        probabilities = expected(before, fields)
        total = sum(counts.values())
        for token, count in counts.items():
            assert probabilities[token] > 0.0, (before, token, count)
        hopes = [(counts[t], float(p) * total) for t, p in enumerate(probabilities) if p > 1e-9]
        # Cells too rare for the approximation are taken together.
        likely = [(seen, hope) for seen, hope in hopes if hope >= 5.0]
        rare = [(seen, hope) for seen, hope in hopes if hope < 5.0]
        if rare and sum(hope for _, hope in rare) >= 5.0:
            likely.append((sum(seen for seen, _ in rare), sum(hope for _, hope in rare)))
        if len(likely) > 1:
            chi_squared += sum((seen - hope) ** 2 / hope for seen, hope in likely)
            degrees += len(likely) - 1
    assert degrees > 1
    assert chi_squared < chi_squared_limit(degrees)


def test_the_same_seed_gives_the_same_tokens(server: LiveServer) -> None:
    body = {"prompt": list(PROMPT), "max_tokens": 12, "n": 8, "ignore_eos": True}

    def ask(seed: int, **fields: Any) -> list[str]:
        url = f"{server.url}/v1/completions"
        answer = requests.post(url, json={**body, "seed": seed, **fields}, timeout=60)
        assert answer.status_code == 200, answer.text
        return [choice["text"] for choice in answer.json()["choices"]]

    seeds = [0, 1, -1, 2**63 - 1, -(2**63)]
    first = [ask(seed) for seed in seeds]
    # Whatever else runs, in whatever order of priority.
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(ask, seed, priority=seed % 3, cache_salt="x")
            for seed in seeds
            for _ in "ab"
        ]
        assert [job.result() for job in jobs] == [texts for texts in first for _ in "ab"]
    # Neither choices nor seeds repeat one another.
    assert len({text for texts in first for text in texts}) == len(seeds) * 8
    # A choice does not depend on how many others there are.
    assert ask(1, n=3) == first[1][:3]


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**40, 1.5, True, "1"])
def test_seeds_outside_of_64_bits_are_refused(server: LiveServer, seed: Any) -> None:
    answer = requests.post(
        f"{server.url}/v1/completions", json={"prompt": "a", "seed": seed}, timeout=60
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "seed"


def test_minimum_length_and_stop_ids(server: LiveServer) -> None:
    """Where a stop id is certain, the output has min_tokens tokens and then it."""
    body = {
        "prompt": list(PROMPT),
        "logit_bias": {"122": 100.0},
        "stop_token_ids": [122],
        "max_tokens": 20,
        "return_token_ids": True,
        "ignore_eos": True,
    }
    for least in (0, 1, 7):
        answer = requests.post(
            f"{server.url}/v1/completions", json={**body, "min_tokens": least}, timeout=60
        ).json()
        (choice,) = answer["choices"]
        assert len(choice["token_ids"]) == least + 1
        assert choice["token_ids"].index(122) == least
        assert choice["finish_reason"] == "stop"
        assert choice["stop_reason"] == 122
