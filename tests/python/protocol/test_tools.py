"""What a chat request may say of tools, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_server.errors import InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.parsing import parse_request
from mlc_server.protocol.tools import ToolChoice

USER = {"role": "user", "content": "hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def parse(messages: list[Any] | None = None, **fields: Any) -> ChatCompletionRequest:
    body = {"messages": [USER] if messages is None else messages, **fields}
    return parse_request(json.dumps(body).encode(), ChatCompletionRequest)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def allowed_tools(*tools: Any, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


def allowed(mode: str, *names: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return allowed_tools(*tools, mode=mode)


def nested(levels: int) -> dict[str, Any]:
    """A schema of objects in objects."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_definitions_are_kept() -> None:
    parse(tools=[function(parameters=nested(100))])
    tools = [TOOL, function(description="does f", strict=True), function(name="g-2")]
    parsed = parse(tools=tools).tools
    assert parsed is not None
    assert parsed[0].function.parameters == PARAMETERS
    assert parsed[1].function.strict
    assert [tool.function.parameters for tool in parsed[1:]] == [None, None]


def test_calls_and_results_are_messages() -> None:
    second = {**CALL, "id": "call_2", "index": 1}
    calling = {**CALLING, "tool_calls": [CALL, second]}
    answers = [RESULT, {**RESULT, "tool_call_id": "call_2", "name": "get_weather"}]
    messages = parse([USER, calling, *answers]).messages
    calls = messages[1].tool_calls
    assert messages[1].content is None
    assert calls is not None
    assert [call.id for call in calls] == ["call_1", "call_2"]
    assert calls[0].function.arguments == '{"city": "Oslo"}'
    assert [message.tool_call_id for message in messages[2:]] == ["call_1", "call_2"]


def test_results_may_come_in_parts_and_arguments_as_an_object() -> None:
    call = {**CALL, "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    parts = [{"type": "text", "text": "ra"}, {"type": "text", "text": "in"}]
    messages = parse(
        [USER, {"role": "assistant", "tool_calls": [call]}, {**RESULT, "content": parts}]
    ).messages
    assert messages[1].tool_calls is not None
    assert messages[1].tool_calls[0].function.arguments == {"city": "Oslo"}
    assert messages[2].content == "ra\nin"


def test_a_result_may_be_nothing() -> None:
    assert parse([USER, CALLING, {**RESULT, "content": None}]).messages[2].content is None


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("none", ToolChoice(mode="none")),
        ("auto", ToolChoice(mode="auto")),
        ("required", ToolChoice(mode="required")),
        (
            {"type": "function", "function": {"name": "get_weather"}},
            ToolChoice(mode="required", allowed=("get_weather",), named=True),
        ),
        (allowed("auto", "get_weather"), ToolChoice(mode="auto", allowed=("get_weather",))),
        (allowed("required", "get_weather"), ToolChoice(mode="required", allowed=("get_weather",))),
    ],
)
def test_choices(choice: Any, expected: ToolChoice | None) -> None:
    parsed = parse(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert parsed.tool_choice == expected
    assert parsed.parallel_tool_calls is False


@pytest.mark.parametrize("choice", [None, "none", "auto"])
@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_without_tools_that_asks_for_nothing_is_accepted(choice: Any, tools: Any) -> None:
    parse(tools=tools, tool_choice=choice, parallel_tool_calls=None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [function(name="")]}, "tools[0].function.name"),
        ({"tools": [function(name="get weather")]}, "tools[0].function.name"),
        ({"tools": [function(name="f" * 65)]}, "tools[0].function.name"),
        ({"tools": [function(name="f\n")]}, "tools[0].function.name"),
        ({"tools": [function(), function()]}, "tools[1].function.name"),
        ({"tools": [function(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [function(parameters="{}")]}, "tools[0].function.parameters"),
        (
            {"tools": [function(parameters={"type": "string"})]},
            "tools[0].function.parameters.type",
        ),
        ({"tools": [function(parameters=nested(101))]}, "tools[0].function.parameters"),
        ({"tools": [function(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [function(name=f"f{i}") for i in range(129)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 1}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {"tools": [TOOL], "tool_choice": allowed("none", "get_weather")},
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": [TOOL], "tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        (
            {"tools": [TOOL], "tool_choice": allowed("auto", *["get_weather"] * 129)},
            "tool_choice.allowed_tools.tools",
        ),
        (
            {"tools": [TOOL], "tool_choice": allowed("auto", "get_weather", "f")},
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
        (
            {"tools": [TOOL], "tool_choice": allowed("auto", 5)},
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        (
            {"tools": [TOOL], "tool_choice": allowed_tools({"type": "mcp"})},
            "tool_choice.allowed_tools.tools[0].type",
        ),
        ({"tool_choice": allowed("auto", "f")}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_broken_tools_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, RESULT], "messages[1].tool_call_id"),
        ([USER, {**RESULT, "tool_call_id": None}], "messages[1].tool_call_id"),
        ([USER, CALLING, {**RESULT, "tool_call_id": "call_2"}], "messages[2].tool_call_id"),
        ([USER, RESULT, CALLING], "messages[1].tool_call_id"),
        ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([{**USER, "tool_call_id": "call_1"}], "messages[0].tool_call_id"),
        ([{**CALLING, "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
        ([{**CALLING, "tool_calls": {}}], "messages[0].tool_calls"),
        (
            [{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": None}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_broken_histories_are_refused_by_name(messages: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(messages)
    assert caught.value.param == param
