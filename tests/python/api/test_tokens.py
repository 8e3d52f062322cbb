"""Text to tokens and back; embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mlc_server.api import prompts
from mlc_server.limits import MAX_TOKENIZED
from support.http_server import CONTEXT_WINDOW, MODEL_ID, FakeEngine, LiveServer, live_server

Server = tuple[LiveServer, FakeEngine]
CHAT = [{"role": "user", "content": "hé"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with live_server() as running:
        yield running


def post(server: Server, path: str, **body: Any) -> requests.Response:
    return requests.post(server[0].url + path, json=body, timeout=20)


def test_a_text_as_tokens(server: Server) -> None:
    answer = post(server, "/tokenize", prompt="hé<eos>", return_token_strs=True).json()
    assert answer["tokens"] == [104, 0xC3, 0xA9, 256]
    assert answer["count"] == 4
    assert answer["max_model_len"] == CONTEXT_WINDOW
    assert answer["token_strs"][0] == "h"
    assert answer["token_strs"][-1] == "<eos>"
    assert post(server, "/tokenize", content="h").json()["tokens"] == [104]
    assert post(server, "/tokenize", prompt="").json()["tokens"] == []


def test_a_chat_as_text_and_tokens_is_what_the_engine_gets(server: Server) -> None:
    prompt = post(server, "/apply-template", messages=CHAT).json()["prompt"]
    assert prompt == "user: hé\nassistant: "
    tokens = post(server, "/tokenize", messages=CHAT).json()["tokens"]
    assert bytes(tokens).decode() == prompt
    post(server, "/v1/chat/completions", messages=CHAT)
    assert list(server[1].requests[-1].prompt_ids) == tokens


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"add_generation_prompt": False}, "user: hé\nassistant: "),  # this template always asks
        ({"tools": [{"type": "function", "function": {"name": "look_up"}}]}, "look_up"),
        ({"functions": [{"name": "look_up"}]}, "look_up"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "user: hé"),
    ],
)
def test_a_chats_tools_and_options_are_in_its_prompt(
    server: Server, fields: dict[str, Any], shown: str
) -> None:
    prompt = post(server, "/apply-template", messages=CHAT, **fields).json()["prompt"]
    assert shown in prompt
    answer = post(server, "/tokenize", messages=CHAT, **fields)
    assert bytes(answer.json()["tokens"]).decode() == prompt
    post(server, "/v1/chat/completions", messages=CHAT, **fields)
    assert list(server[1].requests[-1].prompt_ids) == answer.json()["tokens"]
    unread = "chat_template_kwargs.enable_thinking" if "chat_template_kwargs" in fields else None
    assert answer.headers.get("x-ignored-fields") == unread


def test_a_final_message_is_left_open(server: Server) -> None:
    messages = [*CHAT, {"role": "assistant", "content": "Well,"}]
    fields: dict[str, Any] = {"messages": messages, "continue_final_message": True}
    prompt = post(server, "/apply-template", **fields).json()["prompt"]
    assert prompt == "user: hé\nassistant: Well,"
    refused = post(server, "/tokenize", messages=CHAT, continue_final_message=True)
    assert refused.json()["error"]["param"] == "continue_final_message"
    assert post(server, "/tokenize", prompt="a", continue_final_message=True).status_code == 400


def test_detokenizing_undoes_tokenizing(server: Server) -> None:
    @given(st.text(max_size=40))
    def check(text: str) -> None:
        tokens = post(server, "/tokenize", prompt=text).json()["tokens"]
        answer = post(server, "/detokenize", tokens=tokens).json()
        assert answer == {"prompt": text, "content": text}

    check()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/apply-template", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/apply-template", {"messages": [{"role": "user", "content": "refuse me"}]}, "messages"),
        ("/v1/embeddings", {"input": "a"}, "model"),
    ],
)
def test_refusals(server: Server, path: str, body: dict[str, Any], param: str) -> None:
    answer = post(server, path, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "path", ["/tokenize", "/detokenize", "/apply-template", "/v1/embeddings", "/v1/completions"]
)
def test_other_models_are_not_found(server: Server, path: str) -> None:
    body = {"prompt": "a"} if path in {"/tokenize", "/v1/completions"} else {}
    full = {"model": "other", "tokens": [1], "messages": CHAT, "input": "a"}
    wanted = {"/detokenize": ["tokens"], "/apply-template": ["messages"]}.get(path, ["input"])
    answer = post(server, path, model="other", **body, **{k: full[k] for k in wanted})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_the_official_client_understands_that_there_are_no_embeddings(server: Server) -> None:
    url = f"{server[0].url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="not an embedding model"),
    ):
        client.embeddings.create(model=MODEL_ID, input="a")


def test_texts_far_too_long_are_refused_with_both_numbers(server: Server) -> None:
    """They are counted in pieces only: the numbers are a limit and what was counted by then."""
    text = "x" * 60_000
    for body in ({"prompt": text}, {"prompt": text, "suffix": ""}, {"prompt": ["a", text]}):
        error = post(server, "/v1/completions", **body).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert re.search(
            rf"is {CONTEXT_WINDOW} tokens, but prompt makes at least \d+", error["message"]
        )
    chat = [{"role": "user", "content": text}]
    error = post(server, "/v1/chat/completions", messages=chat).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "messages makes at least" in error["message"]
    assert post(server, "/tokenize", messages=chat).json()["count"] > 60_000
    assert post(server, "/tokenize", prompt=text).json()["count"] == 60_000


def test_a_huge_text_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MAX_TOKENIZED", replace(MAX_TOKENIZED, default=20_000))
    with live_server() as server:
        error = post(server, "/tokenize", prompt="x" * 60_000).json()["error"]
        assert error["param"] == "prompt"
        assert "at most 20000 tokens can be tokenized; got at least" in error["message"]
