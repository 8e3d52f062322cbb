"""Tools over the compiled engine and its FakeRunner, whose model writes noise: what comes out right
is the grammar's doing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import requests

from mlc_server.api import chat as chat_module
from mlc_server.api.tools import tool_use
from mlc_server.engine import AsyncEngine
from mlc_server.limits import TOOLS_INLINE
from mlc_server.settings import ServerSettings
from mlc_server.text.tools.support import ToolSupport
from support.byte_model import byte_prompts
from support.fake_server import fake_core, fake_grammars
from support.http_server import LiveServer, chat_body

PARAMETERS: Any = {
    "type": "object",
    "description": "x" * 1000,
    "properties": {
        "description": {"type": "string", "maxLength": 4, "description": "y"},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["description", "count"],
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "f", "parameters": PARAMETERS, "strict": True}},
    {"type": "function", "function": {"name": "g"}},
]
# llguidance does not enforce uniqueItems.
UNIQUE: Any = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}


@contextmanager
def running(settings: ServerSettings, format_: str | None = None) -> Iterator[LiveServer]:
    """A server whose model writes calls in `format_`, if its template asks for one."""
    live = LiveServer(settings)
    live.start()
    engine = AsyncEngine(fake_core(), fake_grammars())
    tools = ToolSupport() if format_ is None else ToolSupport(format=format_, native=True)
    try:
        live.on_loop(engine.start)
        live.set_ready(engine, replace(byte_prompts(), tools=tools))
        yield live
    finally:
        live.on_loop(engine.close)
        live.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running(ServerSettings()) as live:
        yield live


@pytest.fixture(scope="module")
def pythonic() -> Iterator[LiveServer]:
    with running(ServerSettings(), "pythonic") as live:
        yield live


def post(server: LiveServer, **fields: Any) -> requests.Response:
    body = chat_body(**fields)
    return requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def tool(**function: Any) -> Any:
    return {"type": "function", "function": {"name": "h", **function}}


@pytest.mark.parametrize("seed", range(4))
def test_required_calls_are_valid_whatever_the_model_wants(server: LiveServer, seed: int) -> None:
    answer = post(
        server, tools=TOOLS, tool_choice="required", seed=seed, n=4, parallel_tool_calls=False
    )
    assert answer.status_code == 200, answer.text
    for choice in answer.json()["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        schema = PARAMETERS if call["function"]["name"] == "f" else {"maxProperties": 0}
        jsonschema.validate(arguments, schema)


def test_calls_written_in_python_are_valid_too(pythonic: LiveServer) -> None:
    fields: Any = {"tools": TOOLS, "tool_choice": "required", "seed": 3, "temperature": 1.5}
    answer = post(pythonic, n=8, parallel_tool_calls=False, **fields)
    assert answer.status_code == 200, answer.text
    called = set()
    for choice in answer.json()["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        called.add(call["function"]["name"])
        schema = PARAMETERS if call["function"]["name"] == "f" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert "f" in called


def test_mlc_style_streams_calls_written_in_python() -> None:
    fields: Any = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}
    with running(ServerSettings(tool_call_style="mlc"), "pythonic") as live:
        whole = post(live, **fields, seed=1).json()["choices"][0]
        events = post(live, **fields, seed=1, stream=True).text.split("\n\n")
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    content = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    (call,) = json.loads(content)
    arguments = whole["message"]["tool_calls"][0]["function"]["arguments"]
    jsonschema.validate(arguments, PARAMETERS)
    assert call == f"f(description={arguments['description']!r},count={arguments['count']})"


def test_strict_functions_of_models_that_write_python(pythonic: LiveServer) -> None:
    assert post(pythonic, tools=TOOLS, max_tokens=5).status_code == 200
    dashed = tool(parameters={"properties": {"a-b": {}}})
    # JSON between tags can hold what Python cannot, but nothing tells it from text.
    required = post(pythonic, tools=[*TOOLS, dashed], tool_choice="required", max_tokens=5)
    assert required.status_code == 200
    refused = post(pythonic, tools=[*TOOLS, dashed], max_tokens=5)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools[0].function.strict"
    assert 'h: argument "a-b" is no Python name' in refused.json()["error"]["message"]


def test_a_strict_function_that_cannot_be_enforced_is_named(server: LiveServer) -> None:
    tools = [*TOOLS, tool(parameters=UNIQUE, strict=True)]
    for choice in ("auto", "required"):
        answer = post(server, tools=tools, tool_choice=choice, max_tokens=5)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "tools[2].function.parameters"
        assert "uniqueItems" in error["message"]


def test_a_function_that_need_not_be_enforced_is_not_refused(server: LiveServer) -> None:
    huge = {"properties": {"a": {"type": "string", "pattern": "a" * 2100}}}
    for parameters in (UNIQUE, huge):
        tools = [tool(parameters=parameters)]
        assert post(server, tools=tools, max_tokens=5).status_code == 200
    answer = post(server, tools=[tool(parameters=huge)], tool_choice="required", max_tokens=5)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].function.parameters"


@pytest.mark.parametrize("more", [0, 1])
def test_grammars_of_many_tools_are_written_off_the_event_loop(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    threads = []

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return tool_use(*arguments)

    monkeypatch.setattr(chat_module, "tool_use", noted)
    names = [f"f{index}" for index in range(TOOLS_INLINE.default + more)]
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    answer = post(server, tools=tools, tool_choice="required", max_tokens=2000).json()
    [call, *_] = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] in names
    loop_thread = server.on_loop(threading.current_thread)
    assert [thread is loop_thread for thread in threads] == [not more]
