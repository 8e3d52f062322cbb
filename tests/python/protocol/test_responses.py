"""Response bytes against the OpenAI shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlc_server.errors import ContextOverflow, InvalidRequest, RequestError
from mlc_server.limits import MAX_ERROR_TEXT
from mlc_server.protocol.error_body import error_event, error_json
from mlc_server.protocol.responses import (
    DONE_EVENT,
    CalledTool,
    Choice,
    ChunkWriter,
    Logprob,
    ResponseHead,
    Usage,
    completion,
)

HEAD = ResponseHead(id="chatcmpl-1", created=5, model='a "model"', system_fingerprint="fp")
LOGPROB = Logprob(raw=b"\xc3", logprob=-0.5, alternatives=[(b"\xc3", -0.5), (b"b", -2.0)])


def event_json(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert b"\n" not in event[:-2]
    return json.loads(event[6:])


def test_a_whole_response_has_every_field_of_openai() -> None:
    choice = Choice(0, "text", "stop", stop_reason="END", logprobs=[LOGPROB])
    value = json.loads(completion(HEAD, [choice], Usage(3, 4)))
    parsed = ChatCompletion.model_validate(value, strict=False)
    assert parsed.choices[0].message.content == "text"
    assert parsed.choices[0].message.role == "assistant"
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 7
    assert value["object"] == "chat.completion"
    assert value["system_fingerprint"] == "fp"
    token = value["choices"][0]["logprobs"]["content"][0]
    assert token == {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -0.5,
        "bytes": [0xC3],
        "top_logprobs": [
            {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xC3]},
            {"token": "b", "logprob": -2.0, "bytes": [98]},
        ],
    }


@given(st.text(), st.booleans())
def test_text_chunks_are_one_line_of_json_for_any_text(text: str, include_usage: bool) -> None:
    text = text.encode("utf-8", "replace").decode()  # the core emits valid UTF-8 only
    value = event_json(ChunkWriter(HEAD, include_usage=include_usage).text(3, text))
    assert ChatCompletionChunk.model_validate(value).choices[0].delta.content == text
    assert value["choices"][0]["index"] == 3
    assert ("usage" in value) is include_usage
    assert value.get("usage") is None


def test_the_chunks_of_a_stream() -> None:
    writer = ChunkWriter(HEAD, include_usage=True)
    role = event_json(writer.role(1))
    assert role["choices"] == [
        {
            "index": 1,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    text = event_json(writer.text(0, "x", [LOGPROB]))
    assert text["choices"][0]["logprobs"]["content"][0]["bytes"] == [0xC3]
    last = event_json(writer.finish(0, "stop", 7))
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["stop_reason"] == 7
    usage = event_json(writer.usage(Usage(3, 4)))
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 7
    for value in (role, text, last, usage):
        ChatCompletionChunk.model_validate(value)
        assert value["id"] == HEAD.id
        assert value["object"] == "chat.completion.chunk"
    assert DONE_EVENT == b"data: [DONE]\n\n"


def test_an_impossible_token_has_a_finite_log_probability() -> None:
    entry = Logprob(raw=b"a", logprob=float("-inf"), alternatives=[(b"b", float("-inf"))])
    value = event_json(ChunkWriter(HEAD, include_usage=False).text(0, "a", [entry]))
    token = value["choices"][0]["logprobs"]["content"][0]
    assert token["logprob"] == token["top_logprobs"][0]["logprob"] == -9999.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            InvalidRequest("n: too big", param="n"),
            {
                "message": "n: too big",
                "type": "invalid_request_error",
                "param": "n",
                "code": None,
            },
        ),
        (
            ContextOverflow("too long", param="messages"),
            {
                "message": "too long",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            },
        ),
    ],
)
def test_errors_have_all_four_keys(error: RequestError, expected: dict[str, Any]) -> None:
    assert json.loads(error_json(error)) == {"error": expected}
    assert event_json(error_event(error)) == {"error": expected}


@given(st.text())
def test_error_text_is_bounded_and_printable(text: str) -> None:
    message = json.loads(error_json(InvalidRequest(text * 300)))["error"]["message"]
    assert len(message) <= MAX_ERROR_TEXT.default
    assert message.isprintable()


def test_a_choice_of_calls_has_no_content() -> None:
    call = CalledTool("call_1", "f", '{"a": 1}')
    choice = Choice(0, "", "tool_calls", tool_calls=[call])
    value = json.loads(completion(HEAD, [choice], Usage(3, 4)))
    parsed = ChatCompletion.model_validate(value, strict=False).choices[0]
    assert parsed.message.content is None
    assert parsed.message.tool_calls is not None
    assert parsed.message.tool_calls[0].to_dict() == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 1}'},
    }
    assert (
        "tool_calls"
        not in json.loads(completion(HEAD, [Choice(0, "", "stop")], Usage(3, 4)))["choices"][0][
            "message"
        ]
    )


def test_call_chunks_say_id_and_name_once() -> None:
    writer = ChunkWriter(HEAD, include_usage=False)
    begin = event_json(writer.tool_call(2, 1, CalledTool("call_1", "f", "")))
    more = event_json(writer.tool_arguments(2, 1, '{"é": "\n'))
    for value in (begin, more):
        assert ChatCompletionChunk.model_validate(value, strict=False).choices[0].index == 2
    assert begin["choices"][0]["delta"]["tool_calls"] == [
        {"index": 1, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert more["choices"][0]["delta"]["tool_calls"] == [
        {"index": 1, "function": {"arguments": '{"é": "\n'}}
    ]
