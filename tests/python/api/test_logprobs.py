"""Log-probabilities of what is generated: those of the model's own distribution whatever shapes the
draw, one entry for each token, bytes that add up to the text, streamed as they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from support.core_server import core_server
from support.fake_server import fake_grammars
from support.http_server import MODEL_ID, LiveServer, chat_body

Body = dict[str, Any]

# Everything that shapes what is drawn, and must not shape what is reported.
SHAPED: list[Body] = [
    {},
    {"temperature": 0.2},
    {"temperature": 0},
    {"top_k": 2, "top_p": 0.5, "min_p": 0.1},
    {"repetition_penalty": 1.8},
    {"presence_penalty": 2.0, "frequency_penalty": -1.0},
    {"logit_bias": {"97": 100, "98": 99, "99": -100}},
    {"structured_outputs": {"regex": "(ñ|€|x){6}"}},
    {"min_tokens": 10, "stop_token_ids": list(range(40, 90))},
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with core_server(grammars=fake_grammars()) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(server: LiveServer, **fields: Any) -> Body:
    body = chat_body("go on", logprobs=True, return_token_ids=True, **fields)
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def scored(server: LiveServer, prompt_ids: list[int], output_ids: list[int]) -> list[float]:
    """What the model thinks of an output that it is given, without drawing anything."""
    body = {
        "prompt": prompt_ids + output_ids,
        "echo": True,
        "logprobs": 0,
        "max_tokens": 0,
    }
    answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    values: list[float] = answer["choices"][0]["logprobs"]["token_logprobs"]
    return values[len(prompt_ids) :]


@pytest.mark.parametrize("fields", SHAPED, ids=str)
def test_they_are_of_the_raw_distribution(server: LiveServer, fields: Body) -> None:
    answer = chat(server, max_tokens=30, seed=5, n=2, top_logprobs=3, **fields)
    for choice in answer["choices"]:
        content = choice["logprobs"]["content"]
        assert len(content) == len(choice["token_ids"]) > 0
        reported = [entry["logprob"] for entry in content]
        assert reported == scored(server, answer["prompt_token_ids"], choice["token_ids"])
        for entry, token_id in zip(content, choice["token_ids"], strict=True):
            raw = b"<eos>" if token_id == 256 else bytes([token_id])
            assert bytes(entry["bytes"]) == raw
            assert entry["token"] == raw.decode("utf-8", "replace")
            values = [rival["logprob"] for rival in entry["top_logprobs"]]
            assert values == sorted(values, reverse=True)
            assert len(values) == 3
            assert entry["logprob"] <= values[0]


def test_bytes_add_up_to_characters_split_over_tokens(server: LiveServer) -> None:
    regex = {"regex": "(ñ|€|😀){8}"}
    for choice in chat(server, structured_outputs=regex, n=3, seed=1)["choices"]:
        content = choice["logprobs"]["content"]
        raw = b"".join(bytes(entry["bytes"]) for entry in content if entry["token"] != "<eos>")
        assert raw.decode() == choice["message"]["content"]
        assert len(choice["message"]["content"]) == 8


@pytest.mark.parametrize("keep", [False, True])
def test_tokens_cut_by_a_stop_string_have_entries(server: LiveServer, keep: bool) -> None:
    """The entries are of what was drawn; the text ends before (or with) the stop string."""
    fields: Body = {
        "structured_outputs": {"regex": "ab€ENDS"},
        "stop": ["END"],
        "include_stop_str_in_output": keep,
    }
    (choice,) = chat(server, **fields)["choices"]
    assert choice["message"]["content"] == ("ab€END" if keep else "ab€")
    assert choice["stop_reason"] == "END"
    drawn = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
    assert drawn == "ab€END".encode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"structured_outputs": {"regex": "(ñ|€|x){20}"}},
        {"structured_outputs": {"regex": "ab€ENDS"}, "stop": ["END"]},
        {"stop": ["a", "b", "c", "0", "1"], "ignore_eos": True},
    ],
    ids=str,
)
def test_a_stream_reports_the_same(server: LiveServer, client: openai.OpenAI, fields: Body) -> None:
    extra = {key: fields[key] for key in fields if key != "stop"}
    common: Any = {
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": "go on"}],
        "logprobs": True,
        "top_logprobs": 2,
        "n": 3,
        "seed": 9,
        "max_tokens": 60,
        "stop": fields.get("stop"),
        "extra_body": extra,
    }
    whole = client.chat.completions.create(**common)
    texts, entries = [""] * 3, [[], [], []]  # type: ignore[var-annotated]
    for chunk in client.chat.completions.create(**common, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs is not None:
                entries[choice.index] += choice.logprobs.content or []
    assert texts == [choice.message.content for choice in whole.choices]
    for choice, found in zip(whole.choices, entries, strict=True):
        assert choice.logprobs is not None
        assert found == choice.logprobs.content


def test_completions_report_the_same_in_their_own_form(
    server: LiveServer, client: openai.OpenAI
) -> None:
    common: Any = {
        "model": MODEL_ID,
        "prompt": ["one", "two"],
        "logprobs": 3,
        "n": 2,
        "seed": 2,
        "max_tokens": 40,
        "extra_body": {"structured_outputs": {"regex": "(ñ|€|x){10}"}},
    }
    whole = client.completions.create(**common)
    parts: dict[int, Body] = {}
    for chunk in client.completions.create(**common, stream=True):
        for choice in chunk.choices:
            part = parts.setdefault(choice.index, {"text": ""})
            part["text"] += choice.text
            found = choice.logprobs.model_dump() if choice.logprobs else {}
            for key, values in found.items():
                part.setdefault(key, []).extend(values)
    for choice in whole.choices:
        assert choice.logprobs is not None
        logprobs = choice.logprobs.model_dump()
        assert parts[choice.index] == {"text": choice.text, **logprobs}
        # Each token says where the character that it belongs to begins.
        for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            if token == "x":
                assert choice.text[offset] == "x"
            elif token == "bytes:\\xc3":
                assert choice.text[offset] == "ñ"
            elif token == "bytes:\\xe2":
                assert choice.text[offset] == "€"
