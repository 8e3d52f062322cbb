"""Conversations with tools put into text, for templates that know none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_server.errors import InvalidRequest
from mlc_server.text.tools.conversation import in_text
from mlc_server.text.tools.events import CallArguments, CallStarted
from mlc_server.text.tools.formats import HermesParser

USER = {"role": "user", "content": "Weather?"}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é"}}, {"name": "g"}]


def call(id_: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id_: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def test_without_tools_nothing_changes() -> None:
    messages = [{"role": "system", "content": "s"}, USER]
    assert in_text(messages, []) == messages


def test_tools_are_described_in_a_system_message() -> None:
    system, user = in_text([USER], TOOLS)
    assert system["role"] == "system"
    assert user == USER
    described = system["content"].split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    assert [json.loads(line) for line in described] == TOOLS
    assert "é" in system["content"]


def test_the_clients_system_message_goes_first() -> None:
    for role in ("system", "developer"):
        messages = in_text([{"role": role, "content": "Be brief."}, USER], TOOLS)
        assert [message["role"] for message in messages] == [role, "user"]
        assert messages[0]["content"].startswith("Be brief.\n\n# Tools")


def test_parallel_results_are_one_turn_in_the_order_of_their_calls() -> None:
    calls = [call("1", "f", {"a": "Oslo"}), call("2", "f", {"a": "Rome"})]
    messages = [
        USER,
        {"role": "assistant", "content": "Wait.", "tool_calls": calls},
        result("2", "sun"),
        result("1", "rain"),
        {"role": "assistant", "content": "Rain and sun."},
    ]
    _, calling, results, last = in_text(messages, [])
    assert [calling["role"], results["role"]] == ["assistant", "user"]
    assert calling["content"] == (
        'Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {"a": "Rome"}}\n</tool_call>'
    )
    assert results["content"] == (
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    )
    assert last == messages[-1]


def test_calls_in_the_history_read_as_the_calls_they_were() -> None:
    calls = [call("1", "f", {"a": "</tool_call>", "b": [1, None]}), call("2", "g", {})]
    messages = [{"role": "assistant", "content": "", "tool_calls": calls}]
    parser = HermesParser(["f", "g"])
    events = parser.feed(in_text(messages, [])[0]["content"]) + parser.finish()
    names = [event.name for event in events if isinstance(event, CallStarted)]
    arguments = [json.loads(event.text) for event in events if isinstance(event, CallArguments)]
    assert names == ["f", "g"]
    assert arguments == [{"a": "</tool_call>", "b": [1, None]}, {}]


def test_results_at_the_end_are_answered() -> None:
    calls = [call("1", "f", "{broken")]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, result("1", "x")]
    plain = in_text(messages, TOOLS)
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    assert '"arguments": "{broken"' in plain[2]["content"]


def test_arguments_too_deep_for_json_are_the_clients_fault() -> None:
    arguments: dict[str, Any] = {}
    for _ in range(100_000):
        arguments = {"a": arguments}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call("1", "f", arguments)]}]
    with pytest.raises(InvalidRequest, match="too deeply"):
        in_text(messages, [])
    while arguments:  # taken apart by hand: the interpreter would recurse
        arguments = arguments["a"]
