"""What chat templates get to see of a request's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_server.api.template_input import decoded_arguments, template_messages, template_tools
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.parsing import parse_request

USER: Any = {"role": "user", "content": "hi"}


def parsed(*messages: Any, **fields: Any) -> ChatCompletionRequest:
    body = {"messages": [USER, *messages], **fields}
    return parse_request(json.dumps(body).encode(), ChatCompletionRequest)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"a": [1, "é"]}', {"a": [1, "é"]}),
        ("", {}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
        # No object, or one that no text can show: as it stands.
        ("[1]", "[1]"),
        ('{"a": "cut sho', '{"a": "cut sho'),
        ('{"a": "\\ud83d"}', '{"a": "\\ud83d"}'),
        ('{"\\ude00": 1}', '{"\\ude00": 1}'),
        ('{"a": ' + "[" * 100_000, '{"a": ' + "[" * 100_000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_arguments_are_objects_where_they_can_be(arguments: str, shown: Any) -> None:
    assert decoded_arguments(arguments) == shown


def test_function_calls_become_tool_calls_with_ids() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "done"}
    messages = template_messages(parsed(call, result, call, result).messages)
    ids = [message["tool_calls"][0]["id"] for message in messages[1::2]]
    assert [message["tool_call_id"] for message in messages[2::2]] == ids
    assert len(set(ids)) == 2
    assert [message["role"] for message in messages] == ["user", *["assistant", "tool"] * 2]


def test_absent_keys_stay_absent() -> None:
    assert template_messages(parsed().messages) == [USER]
    assert template_tools(parsed(tools=[])) == []
