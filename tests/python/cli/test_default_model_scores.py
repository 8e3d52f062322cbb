"""Scoring texts with the default model as evaluation harnesses do, through /v1/completions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

from support.golden import load_golden
from support.server_process import READY, Process, process

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with process("--port", "0", module="mlc_server") as running:
        running.url = running.wait_for(READY, timeout_s=240)
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.output


def complete(server: Process, **body: Any) -> list[Any]:
    answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    choices: list[Any] = answer.json()["choices"]
    return choices


def ids_of(server: Process, text: str) -> list[int]:
    answer = requests.post(f"{server.url}/tokenize", json={"prompt": text}, timeout=60)
    ids: list[int] = answer.json()["tokens"]
    return ids


def loglikelihoods(server: Process, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Of each continuation after its context, and whether greedy decoding would give it: what
    lm-eval's local-completions sends, and how it reads the answer."""
    contexts = [ids_of(server, context) for context, _ in pairs]
    prompts = [ids_of(server, context + more) for context, more in pairs]
    choices = complete(
        server, prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    )
    results = []
    for choice, context in zip(choices, contexts, strict=True):
        logprobs = choice["logprobs"]
        values = logprobs["token_logprobs"][len(context) : -1]
        tops = logprobs["top_logprobs"][len(context) : -1]
        greedy = all(v == max(top.values()) for v, top in zip(values, tops, strict=True))
        results.append((sum(values), greedy))
    return results


def test_the_right_continuation_is_the_likelier_one(server: Process) -> None:
    context = "The capital of France is"
    (paris, greedy), (rome, not_greedy), (long, _) = loglikelihoods(
        server, [(context, " Paris"), (context, " Rome"), (context, " Paris, as you may know.")]
    )
    assert 0 > paris > rome
    assert greedy
    assert not not_greedy
    assert long < paris


def test_a_generated_text_scores_bit_for_bit_as_it_was_generated(server: Process) -> None:
    """Generation ran it token by token; scoring runs it in chunks, beside other prompts."""
    common: Any = {"logprobs": 5, "return_token_ids": True, "ignore_eos": True}
    prompts = ["Once upon a time", "An é, a €, and 🍎🍏:"]
    drawn = complete(server, prompt=prompts, max_tokens=150, seed=3, **common)
    whole = [choice["prompt_token_ids"] + choice["token_ids"] for choice in drawn]
    scored = complete(server, prompt=whole, max_tokens=0, echo=True, **common)
    for choice, before in zip(scored, drawn, strict=True):
        start = len(before["prompt_token_ids"])
        for key in ("tokens", "token_logprobs", "top_logprobs"):
            assert choice["logprobs"][key][start:] == before["logprobs"][key]
        assert choice["text"].endswith(before["text"])
        assert choice["finish_reason"] == "length"


def test_scores_stay_close_to_llama_cpps(server: Process) -> None:
    cases = load_golden()[:8]
    choices = complete(
        server,
        prompt=[case.prompt_ids + case.ids for case in cases],
        max_tokens=0,
        echo=True,
        logprobs=0,
    )
    gaps = []
    for case, choice in zip(cases, choices, strict=True):
        ours = choice["logprobs"]["token_logprobs"][len(case.prompt_ids) + case.first_scored :]
        theirs = [row[0][1] for row in case.top]  # of the token that came
        assert len(ours) == len(theirs)
        gaps += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    print(f"mean absolute log-prob difference {np.mean(gaps):.4f} over {len(gaps)} tokens")
    assert np.mean(gaps) < 0.07
