"""From a chat request to what the engine is asked to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_server.api.sampling import generation_request, sampling_options
from mlc_server.errors import ContextOverflow, InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.parsing import parse_request
from mlc_server.text.prompt import StopRules

NO_STOPS = StopRules(token_ids=(), strings=())


def chat(**fields: Any) -> ChatCompletionRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_request(json.dumps(body).encode(), ChatCompletionRequest)


def test_the_models_stop_strings_join_the_requests() -> None:
    rules = StopRules(token_ids=(), strings=("###",))
    assert sampling_options(chat(stop=["a"]), rules).stop == ("###", "a")
    assert len(sampling_options(chat(stop=["a"] * 15), rules).stop) == 16
    with pytest.raises(InvalidRequest, match="at most 15 strings") as refused:
        sampling_options(chat(stop=["a"] * 16), rules)
    assert refused.value.param == "stop"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, -1),
        ({"logprobs": False}, -1),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"top_logprobs": 0}, -1),
    ],
)
def test_logprobs(fields: dict[str, Any], expected: int) -> None:
    assert sampling_options(chat(**fields), NO_STOPS).top_logprobs == expected


@pytest.mark.parametrize(
    ("fields", "top_p", "top_k"),
    [
        ({}, 1.0, 0),
        ({"top_p": 0.5, "top_k": 3}, 0.5, 3),
        ({"top_k": -1}, 1.0, 0),
        ({"top_p": 0}, 1.0, 1),
        ({"top_p": 0, "top_k": 9}, 1.0, 1),
    ],
)
def test_nucleus(fields: dict[str, Any], top_p: float, top_k: int) -> None:
    options = sampling_options(chat(**fields), NO_STOPS)
    assert (options.top_p, options.top_k) == (top_p, top_k)


@pytest.mark.parametrize(("seed", "expected"), [(0, 0), (-1, 2**64 - 1), (2**63 - 1, 2**63 - 1)])
def test_seeds_are_taken_modulo_two_to_the_64(seed: int, expected: int) -> None:
    assert sampling_options(chat(seed=seed), NO_STOPS).seed == expected


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert generation_request(chat(n=2), [1] * 9, NO_STOPS, 10).num_choices == 2
    with pytest.raises(ContextOverflow, match="maximum context length is 10 tokens") as refused:
        generation_request(chat(), [1] * 10, NO_STOPS, 10)
    assert refused.value.param == "messages"
    assert refused.value.code == "context_length_exceeded"
