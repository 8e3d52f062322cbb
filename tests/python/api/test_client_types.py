"""Answers against the types of OpenAI's own client, without any leniency, and what those types do
not say: which keys every chunk has, and what stays the same over a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from support.http_server import MODEL_ID, LiveServer, Script, chat_body, live_server

TOOL: Any = {"type": "function", "function": {"name": "f"}}
CALL = 'So: <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "choices": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "no alternatives": {"logprobs": True},
    "tools": {"tools": [TOOL]},
    "tools and logprobs": {"tools": [TOOL], "logprobs": True},
    "named tool": {"tools": [TOOL], "tool_choice": TOOL},
    "functions": {"functions": [TOOL["function"]]},
    "length": {"max_tokens": 1},
    "ids": {"return_token_ids": True},
}
each_request = pytest.mark.parametrize("name", REQUESTS)


def post(server: LiveServer, **fields: Any) -> requests.Response:
    body = chat_body(model=MODEL_ID, **fields)
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer


def script_of(name: str) -> Script:
    called = any(word in name for word in ("tool", "function"))
    return Script(tokens=[CALL[i : i + 9] for i in range(0, len(CALL), 9)]) if called else Script()


@each_request
def test_whole_answers_fit(name: str) -> None:
    with live_server(script=script_of(name)) as (server, _):
        body = post(server, **REQUESTS[name]).json()
    ChatCompletion.model_validate(body, strict=True)
    assert body["object"] == "chat.completion"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    for index, choice in enumerate(body["choices"]):
        assert choice["index"] == index
        assert choice["message"].keys() >= {"role", "content", "refusal"}
        assert (choice["logprobs"] is None) == ("logprobs" not in REQUESTS[name])


@each_request
@pytest.mark.parametrize("with_usage", [False, True])
def test_streams_fit(name: str, with_usage: bool) -> None:
    fields = {**REQUESTS[name], "stream": True}
    if with_usage:
        fields["stream_options"] = {"include_usage": True}
    with live_server(script=script_of(name)) as (server, _):
        events = post(server, **fields).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert ("usage" in chunk) == with_usage
    for key in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({chunk[key] for chunk in chunks}) == 1
    if with_usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks)
    check_choices([chunk["choices"] for chunk in chunks], REQUESTS[name].get("n", 1))


def check_choices(chunks: list[list[dict[str, Any]]], count: int) -> None:
    """Each choice begins with its role, ends with its reason, and says neither again."""
    assert all(len(choices) == 1 for choices in chunks)
    for index in range(count):
        own = [choices[0] for choices in chunks if choices[0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in choice["delta"] for choice in own[1:])
        assert own[-1]["delta"] == {}
        reasons = [choice["finish_reason"] for choice in own]
        assert reasons[:-1] == [None] * (len(own) - 1)
        assert isinstance(reasons[-1], str)
        assert all("logprobs" in choice for choice in own)
