"""`return_token_ids` of chats: the same ids streamed and not, whatever becomes of the text."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from support.byte_model import EOS_ID
from support.http_server import MODEL_ID, Script, live_server

TOOLS: Any = [{"type": "function", "function": {"name": "clock"}}]
CALL = list('A.\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>')
PROMPT_IDS = list(b"user: hi\nassistant: ")


def ids_of(num_tokens: int) -> list[int]:
    """What the scripted engine calls that many tokens and the end."""
    return [*(65 + position % 26 for position in range(num_tokens)), EOS_ID]


@pytest.mark.parametrize(
    ("tokens", "fields"),
    [
        (["An", " apple"], {}),
        (["", "An", "", " apple"], {"n": 2}),
        (["An", " apple"], {"logprobs": True, "top_logprobs": 1}),
        (CALL, {"tools": TOOLS}),
        ([], {}),
    ],
)
def test_token_ids_come_whole_or_streamed(tokens: list[str], fields: dict[str, Any]) -> None:
    request: Any = {
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": "hi"}],
        "extra_body": {"return_token_ids": True},
        "tool_choice": "auto" if "tools" in fields else openai.omit,
        **fields,
    }
    count = fields.get("n", 1)
    expected = [ids_of(len(tokens))] * count
    with (
        live_server(script=Script(tokens=tokens)) as (server, engine),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole: Any = client.chat.completions.create(**request)
        chunks: list[Any] = list(client.chat.completions.create(stream=True, **request))
        prompt_ids = list(engine.requests[0].prompt_ids)
    if "tools" not in fields:
        assert prompt_ids == PROMPT_IDS
    assert whole.prompt_token_ids == prompt_ids
    assert [choice.token_ids for choice in whole.choices] == expected

    assert chunks[0].prompt_token_ids == prompt_ids
    assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])
    streamed: list[list[int]] = [[] for _ in range(count)]
    for chunk in chunks[count:]:  # after the chunks that name the role
        assert isinstance(chunk.choices[0].token_ids, list)
        streamed[chunk.choices[0].index] += chunk.choices[0].token_ids
    assert streamed == expected


def test_without_the_field_there_are_no_ids() -> None:
    request: Any = {"model": MODEL_ID, "messages": [{"role": "user", "content": "hi"}]}
    for asked in ({}, {"extra_body": {"return_token_ids": False}}):
        with (
            live_server() as (server, _),
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ):
            whole = client.chat.completions.create(**request, **asked)
            chunks = list(client.chat.completions.create(stream=True, **request, **asked))
        for part in (whole, *chunks):
            assert "token_ids" not in part.model_dump_json()
