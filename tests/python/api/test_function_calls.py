"""`functions` and `function_call`, the older names of tools, over HTTP with the official client."""

from __future__ import annotations

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

FUNCTIONS: Any = [
    {"name": "get_weather", "description": "d", "parameters": {"properties": {"city": {}}}},
    {"name": "clock"},
]
USER: Any = {"role": "user", "content": "Weather?"}
CALLS = (
    'Well.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ås"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock"}\n</tool_call>'
)


@contextmanager
def talking(text: str, size: int = 4, style: Any = "openai") -> Iterator[tuple[Any, FakeEngine]]:
    """A client's create() of a model that answers `text`."""
    tokens = [text[start : start + size] for start in range(0, len(text), size)]
    with (
        live_server(ServerSettings(tool_call_style=style), Script(tokens=tokens)) as (
            server,
            engine,
        ),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):

        def create(**fields: Any) -> Any:
            fields = {"messages": [USER], "functions": FUNCTIONS, **fields}
            return client.chat.completions.create(model=MODEL_ID, **fields)

        yield create, engine


@pytest.mark.parametrize("style", ["openai", "mlc"])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_one_call_is_told_in_the_older_way_whole_and_streamed(size: int, style: str) -> None:
    with talking(CALLS, size, style) as (create, _):
        choice = create().choices[0]
        content, name, arguments, reasons = "", "", "", []
        for chunk in create(stream=True):
            delta = chunk.choices[0].delta
            content += delta.content or ""
            assert delta.tool_calls is None
            if delta.function_call is not None:
                name += delta.function_call.name or ""
                arguments += delta.function_call.arguments
            reasons += [reason] if (reason := chunk.choices[0].finish_reason) else []
    assert choice.message.tool_calls is None
    assert choice.message.content == content == "Well."
    assert choice.message.function_call.name == name == "get_weather"
    assert choice.message.function_call.arguments == arguments == '{"city": "Ås"}'
    assert [choice.finish_reason] == reasons == ["function_call"]


def test_the_choice_decides_the_grammar_and_the_reason() -> None:
    with talking(CALLS) as (create, engine):

        def grammar() -> str:
            spec = engine.requests[-1].grammar
            assert isinstance(spec, GrammarSpec)
            assert spec.param == "functions"
            return spec.source

        create(function_call="auto")
        assert "TEXT" in grammar()
        assert create(function_call={"name": "get_weather"}).choices[0].finish_reason == "stop"
        assert "TEXT" not in grammar()
        assert "clock" not in grammar()
        none = create(function_call="none").choices[0]
        assert (none.message.content, none.finish_reason) == (CALLS, "stop")
        assert engine.requests[-1].grammar is None
        assert b"get_weather" not in bytes(engine.requests[-1].prompt_ids)


def test_a_round_trip_shows_the_call_and_its_result() -> None:
    with talking(CALLS) as (create, engine):
        message = create().choices[0].message
        result = {"role": "function", "name": "get_weather", "content": "rain"}
        create(messages=[USER, message.to_dict(), result])
        prompt = bytes(engine.requests[-1].prompt_ids).decode()
    assert prompt.endswith(
        'assistant: Well.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ås"}}\n'
        "</tool_call>\nuser: <tool_response>\nrain\n</tool_response>\nassistant: "
    )


CALL: Any = {"role": "assistant", "function_call": {"name": "clock", "arguments": "{}"}}
RESULT: Any = {"role": "function", "name": "clock", "content": None}
TOOL: Any = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"functions": FUNCTIONS * 2}, "functions[2].name"),
        ({"functions": FUNCTIONS, "tools": [TOOL]}, "functions"),
        ({"functions": FUNCTIONS, "tool_choice": "auto"}, "functions"),
        ({"functions": FUNCTIONS, "function_call": "required"}, "function_call"),
        ({"functions": FUNCTIONS, "function_call": {"name": 1}}, "function_call.name"),
        ({"functions": FUNCTIONS, "function_call": {"name": "f"}}, "function_call.name"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"messages": [USER, RESULT]}, "messages[1].role"),
        ({"messages": [USER, CALL, {**RESULT, "name": None}]}, "messages[2].name"),
        (
            {"messages": [{**USER, "function_call": CALL["function_call"]}]},
            "messages[0].function_call",
        ),
        (
            {"functions": [{"name": "f", "strict": True, "parameters": {"type": "array"}}]},
            "functions[0].parameters.type",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with live_server() as (server, _):
        body = chat_body() | fields
        answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [], "function_call": "auto"},
        {"functions": None, "function_call": None, "tools": [TOOL], "tool_choice": "auto"},
        {"messages": [USER, CALL, RESULT]},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    with live_server() as (server, _):
        body = chat_body() | fields
        answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.text)["choices"][0]["finish_reason"] == "stop"
