"""Tool calls over HTTP with the official client, against an engine that plays a script."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import requests

from mlc_server.engine import GrammarSpec
from mlc_server.settings import ServerSettings
from support.http_server import MODEL_ID, FakeEngine, Script, chat_body, live_server

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
TOOLS: Any = [WEATHER, CLOCK]
USER: Any = {"role": "user", "content": "Weather in Oslo, and the time?"}
TEXT = (
    'One moment.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ås \\"x\\" {"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "clock"}\n</tool_call>'
)
ARGUMENTS = ['{"city": "Ås \\"x\\" {"}', "{}"]


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@contextmanager
def talking(
    tokens: list[str], settings: ServerSettings | None = None, **script: Any
) -> Iterator[tuple[openai.OpenAI, FakeEngine]]:
    """A client of a model that answers `tokens`."""
    with (
        live_server(settings, Script(tokens=tokens, **script)) as (server, engine),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client, engine


def whole(client: openai.OpenAI, **fields: Any) -> Any:
    fields = {"model": MODEL_ID, "messages": [USER], "tools": TOOLS, **fields}
    return client.chat.completions.create(**fields).choices[0]


def streamed(client: openai.OpenAI, **fields: Any) -> tuple[str, list[Any], list[str]]:
    """(content, calls put together as clients do, finish reasons) of a stream."""
    fields = {"model": MODEL_ID, "messages": [USER], "tools": TOOLS, **fields}
    content, calls, reasons = "", [], []
    for chunk in client.chat.completions.create(stream=True, **fields):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or ():
            if piece.id is not None:
                assert piece.index == len(calls)
                assert piece.type == "function"
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            else:
                assert (piece.type, piece.function.name) == (None, None)
            assert piece.function.arguments is not None
            calls[piece.index]["arguments"] += piece.function.arguments
        reasons += [choice.finish_reason] if choice.finish_reason else []
    return content, calls, reasons


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_calls_are_the_same_whole_and_streamed(size: int) -> None:
    with talking(cut(TEXT, size)) as (client, _):
        choice = whole(client)
        content, calls, reasons = streamed(client)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == content == "One moment."
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather", "clock"]
    assert [call.function.arguments for call in choice.message.tool_calls] == ARGUMENTS
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call.function.name, call.function.arguments) for call in choice.message.tool_calls
    ]
    assert reasons == ["tool_calls"]
    ids = [call.id for call in choice.message.tool_calls] + [call["id"] for call in calls]
    assert len(set(ids)) == 4
    assert all(id_.startswith("call_") for id_ in ids)


def test_an_answer_without_calls_is_an_answer() -> None:
    with talking(["It is ", "<tool_", "late."]) as (client, _):
        choice = whole(client)
        assert streamed(client) == ("It is <tool_late.", [], ["stop"])
    assert choice.message.content == "It is <tool_late."
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


def test_a_broken_call_is_content() -> None:
    broken = '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'
    with talking(cut(broken, 5)) as (client, _):
        choice = whole(client)
        assert streamed(client) == (broken, [], ["stop"])
    assert (choice.message.content, choice.finish_reason) == (broken, "stop")


def test_several_choices_are_taken_apart_each_for_itself() -> None:
    with talking(cut(TEXT, 9)) as (client, _):
        fields: Any = {"model": MODEL_ID, "messages": [USER], "tools": TOOLS}
        answer = client.chat.completions.create(n=3, **fields)
    for choice in answer.choices:
        assert [c.function.arguments for c in choice.message.tool_calls or ()] == ARGUMENTS


def test_a_call_cut_short_ends_as_the_answer_does() -> None:
    with talking(cut(TEXT, 10)) as (client, _):
        choice = whole(client, max_tokens=8)
        content, calls, reasons = streamed(client, max_tokens=8)
    assert choice.finish_reason == "length"
    assert reasons == ["length"]
    assert content == choice.message.content
    arguments = [call.function.arguments for call in choice.message.tool_calls]
    assert arguments == [call["arguments"] for call in calls] == ['{"city": "Ås \\"x\\" ']


def test_logprobs_are_the_same_whole_and_streamed() -> None:
    with talking(cut(TEXT, 10)) as (client, _):
        choice = whole(client, logprobs=True)
        entries: list[Any] = []
        for chunk in client.chat.completions.create(
            model=MODEL_ID, messages=[USER], tools=TOOLS, logprobs=True, stream=True
        ):
            logprobs = chunk.choices[0].logprobs
            entries += (logprobs.content or []) if logprobs else []
    assert entries == choice.logprobs.content
    assert len(entries) == len(cut(TEXT, 10))


@pytest.mark.parametrize("tools", [None, [], TOOLS])
def test_tool_choice_none_leaves_the_text_alone(tools: Any) -> None:
    with talking([TEXT]) as (client, engine):
        choice = whole(client, tools=tools, tool_choice="none")
        assert engine.requests[0].grammar is None
        prompt = bytes(engine.requests[0].prompt_ids).decode()
    assert choice.message.content == TEXT
    assert choice.finish_reason == "stop"
    assert "get_weather" not in prompt


def grammar_of(engine: FakeEngine) -> str:
    grammar = engine.requests[-1].grammar
    assert isinstance(grammar, GrammarSpec)
    assert (grammar.kind, grammar.param) == ("calls", "tools")
    return grammar.source


def test_the_choice_decides_the_grammar() -> None:
    named: Any = {"type": "function", "function": {"name": "clock"}}
    with talking([TEXT]) as (client, engine):
        for choice in (None, "auto"):
            assert whole(client, tool_choice=choice).finish_reason == "tool_calls"
            assert "TEXT" in grammar_of(engine)
        assert whole(client, tool_choice="required").finish_reason == "tool_calls"
        assert "TEXT" not in grammar_of(engine)
        assert "get_weather" in grammar_of(engine)
        # As with OpenAI, the call that was asked for by name is no news.
        assert whole(client, tool_choice=named).finish_reason == "stop"
        assert "get_weather" not in grammar_of(engine)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tools_can_be_limited_to_those_allowed(mode: str) -> None:
    clock: Any = {"type": "function", "function": {"name": "clock"}}
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [clock]}}
    with talking([TEXT]) as (client, engine):
        answer = whole(client, tool_choice=choice)
        assert ("TEXT" in grammar_of(engine)) == (mode == "auto")
        assert "get_weather" not in grammar_of(engine)
        prompt = bytes(engine.requests[-1].prompt_ids).decode()
    assert '"name": "clock"' in prompt
    assert "get_weather" not in prompt
    assert [call.function.name for call in answer.message.tool_calls] == ["clock"]
    assert answer.finish_reason == "tool_calls"
    assert "get_weather" in answer.message.content


def test_one_call_at_most_without_parallel_calls() -> None:
    with talking(cut(TEXT, 4)) as (client, _):
        choice = whole(client, parallel_tool_calls=False)
        _, calls, _ = streamed(client, parallel_tool_calls=False)
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]
    assert [call["name"] for call in calls] == ["get_weather"]


def test_a_round_trip_shows_the_model_its_calls_and_their_results() -> None:
    with talking([TEXT]) as (client, engine):
        message = whole(client).message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": f"result of {call.function.name}"}
            for call in reversed(message.tool_calls)
        ]
        history = [USER, message.to_dict(), *results]
        whole(client, messages=history)
        prompt = bytes(engine.requests[-1].prompt_ids).decode()
    assert prompt.startswith("system: # Tools\n")
    for tool in TOOLS:
        assert f'"name": "{tool["function"]["name"]}"' in prompt
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ås' in prompt
    assert prompt.endswith(
        "user: <tool_response>\nresult of get_weather\n</tool_response>\n"
        "<tool_response>\nresult of clock\n</tool_response>\nassistant: "
    )


def test_a_format_of_the_answer_holds_where_no_call_is_made() -> None:
    format_: Any = {"type": "json_object"}
    with talking(['{"time": ', "9}"]) as (client, engine):
        choice = whole(client, response_format=format_)
        assert "answer: %json" in grammar_of(engine)
        assert (choice.message.content, choice.finish_reason) == ('{"time": 9}', "stop")
        whole(client, response_format=format_, tool_choice="required")
        assert "answer: %json" not in grammar_of(engine)
        with pytest.raises(openai.BadRequestError, match="only a JSON schema"):
            whole(client, extra_body={"structured_outputs": {"regex": "a+"}})


def test_mlc_style_has_objects_as_arguments_and_requires_a_call() -> None:
    settings = ServerSettings(tool_call_style="mlc")
    with live_server(settings, Script(tokens=cut(TEXT, 3))) as (server, engine):
        url = f"{server.url}/v1/chat/completions"
        answer = requests.post(url, json=chat_body(tools=TOOLS), timeout=20).json()
        assert "TEXT" not in grammar_of(engine)
        requests.post(url, json=chat_body(tools=TOOLS, tool_choice="auto"), timeout=20)
        assert "TEXT" in grammar_of(engine)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "get_weather", "arguments": {"city": 'Ås "x" {'}},
        {"name": "clock", "arguments": {}},
    ]


def test_mlc_style_streams_a_list_of_python_calls() -> None:
    text = TEXT.partition("\n")[2]
    with talking(cut(text, 3), ServerSettings(tool_call_style="mlc")) as (client, _):
        content, calls, reasons = streamed(client)
    assert content == """["get_weather(city='Ås \\"x\\" {')", "clock()"]"""
    assert [ast.parse(call).body for call in json.loads(content)]
    assert (calls, reasons) == ([], ["tool_calls"])


def test_the_template_route_shows_calls_and_results() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "nine"},
    ]
    with live_server() as (server, _):
        answer = requests.post(
            f"{server.url}/apply-template", json={"messages": messages}, timeout=20
        ).json()
        counted = requests.post(f"{server.url}/tokenize", json={"messages": messages}, timeout=20)
    assert answer["prompt"].endswith(
        'assistant: <tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
        "user: <tool_response>\nnine\n</tool_response>\nassistant: "
    )
    assert counted.json()["count"] == len(answer["prompt"].encode())
