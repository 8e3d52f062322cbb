"""Tool calls of the default model, which has no tools in its template and was not trained for any:
the grammar makes its calls right, not the model."""

from __future__ import annotations

import ast
import json
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from support.seed_programs import TOOLS
from support.server_process import READY, Process, process

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

MODEL_ID = "SmolLM2-135M-Instruct"
WEATHER: Any = ast.literal_eval(TOOLS.partition("=")[2].strip())[0]
CLOCK: Any = {"type": "function", "function": {"name": "clock", "strict": True}}
COMPLICATED: Any = {
    "type": "function",
    "function": {
        "name": "plan_trip",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "stops": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": {"$ref": "#/$defs/stop"},
                },
                "travellers": {"type": "integer", "minimum": 1, "maximum": 12},
                "day": {"type": "string", "format": "date"},
                "budget": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            },
            "required": ["stops", "travellers", "day"],
            "additionalProperties": False,
            "$defs": {
                "stop": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 20}},
                    "required": ["city"],
                    "additionalProperties": False,
                }
            },
        },
    },
}
USER: Any = {"role": "user", "content": "What is the current weather in Pittsburgh, PA?"}


def serve(*argv: str) -> Iterator[Process]:
    with process("--port", "0", *argv, module="mlc_server") as running:
        running.url = running.wait_for(READY, timeout_s=240)
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.output


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    for server in serve():
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def check_calls(message: Any, tools: list[Any]) -> None:
    """There are calls, and all are whole and valid."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    assert message.tool_calls
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, schemas[call.function.name] or {"maxProperties": 0})


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_required_calls_are_valid_at_any_temperature(
    client: openai.OpenAI, temperature: float
) -> None:
    tools = [CLOCK, COMPLICATED]
    answer = client.chat.completions.create(
        model=MODEL_ID,
        messages=[USER],
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=temperature,
        seed=5,
        n=4,
        max_tokens=600,
    )
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        check_calls(choice.message, tools)


def test_a_named_function_is_called(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "plan_trip"}}
    answer = client.chat.completions.create(
        model=MODEL_ID,
        messages=[USER],
        tools=[WEATHER, CLOCK, COMPLICATED],
        tool_choice=named,
        seed=1,
        max_tokens=400,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert [call.function.name for call in choice.message.tool_calls or ()] == ["plan_trip"]
    check_calls(choice.message, [COMPLICATED])


@pytest.mark.parametrize("tool_choice", ["required", "auto"])
def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI, tool_choice: Any) -> None:
    fields: Any = {
        "model": MODEL_ID,
        "messages": [USER],
        "tools": [WEATHER, CLOCK],
        "tool_choice": tool_choice,
        "seed": 3,
        "max_tokens": 120,
    }
    choice = client.chat.completions.create(**fields).choices[0]
    content, calls, reason = "", {}, None  # type: str, dict[int, list[str]], str | None
    for chunk in client.chat.completions.create(stream=True, **fields):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for piece in delta.tool_calls or ():
            calls.setdefault(piece.index, [piece.function.name, ""])
            calls[piece.index][1] += piece.function.arguments
        reason = chunk.choices[0].finish_reason or reason
    assert content == (choice.message.content or "")
    assert list(calls.values()) == [
        [call.function.name, call.function.arguments] for call in choice.message.tool_calls or ()
    ]
    assert reason == choice.finish_reason
    assert bool(calls) or tool_choice == "auto"


def test_results_are_read_and_answered(client: openai.OpenAI) -> None:
    """A whole round: the prompt grows by the calls and their results, and text comes back."""
    fields: Any = {"model": MODEL_ID, "tools": [CLOCK], "seed": 2, "max_tokens": 60}
    first = client.chat.completions.create(
        messages=[USER], tool_choice="required", parallel_tool_calls=False, **fields
    )
    message = first.choices[0].message
    assert message.tool_calls
    result = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": "It is a quarter past nine.",
    }
    second = client.chat.completions.create(
        messages=[USER, message, result], tool_choice="none", temperature=0, **fields
    )
    assert second.choices[0].message.content
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens > 40
