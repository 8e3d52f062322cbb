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

from support.server_process import READY, Process, process
from support.waiting import wait_for

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

MODEL_ID = "SmolLM2-135M-Instruct"
# The printed programs name another model by its path.
MODEL_PATH = "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/"
ATTEMPTS = 3

TOOLS_OF_PROGRAMS = """
tools = [
   {
      "type": "function",
      "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
               "type": "object",
               "properties": {
                  "location": {
                        "type": "string",
                        "description": "The city and state, e.g. San Francisco, CA",
                  },
                  "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
               },
               "required": ["location"],
            },
      },
   }
]
"""
WHOLE = f"""
import requests
import json
{TOOLS_OF_PROGRAMS}
payload = {{
   "model": "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/",
   "messages": [
      {{
            "role": "user",
            "content": "What is the current weather in Pittsburgh, PA in fahrenheit?",
      }}
   ],
   "stream": False,
   "tools": tools,
}}

r = requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload)
print(f"{{r.json()['choices'][0]['message']['tool_calls'][0]['function']}}\\n")
"""
STREAMED = f"""
import requests
import json
{TOOLS_OF_PROGRAMS}
payload = {{
   "model": "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/",
   "messages": [
      {{
            "role": "user",
            "content": "What is the current weather in Pittsburgh, PA and Tokyo, JP in fahrenheit?",
      }}
   ],
   "stream": True,
   "tools": tools,
}}

with requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload, stream=True) as r:
 for chunk in r.iter_content(chunk_size=None):
     chunk = chunk.decode("utf-8")
     if "[DONE]" in chunk[6:]:
         break
     response = json.loads(chunk[6:])
     content = response["choices"][0]["delta"].get("content", "")
     print(f"{{content}}", end="", flush=True)
print("\\n")
"""
WEATHER: Any = ast.literal_eval(TOOLS_OF_PROGRAMS.partition("=")[2].strip())[0]
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
def mlc_style() -> Iterator[Process]:
    yield from serve(
        "--tool-call-style", "mlc", "--served-model-name", MODEL_PATH, "--log-level", "info"
    )


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    for server in serve():
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def log_lines(server: Process) -> list[str]:
    return [line for line in list(server.lines) if "mlc_server.requests" in line]


def printed(program: str, server: Process, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program prints. It sets neither seed nor max_tokens: where the model rambled until the
    context window was full, it runs again."""
    program = program.replace("http://127.0.0.1:8080", server.url)
    logged = len(log_lines(server))
    for attempt in range(1, ATTEMPTS + 1):
        exec(compile(program, "seed program", "exec"), {})
        text = capsys.readouterr().out
        due = logged + attempt
        wait_for(lambda due=due: len(log_lines(server)) == due, timeout_s=10)  # type: ignore[misc]
        if " 200 length" not in log_lines(server)[-1]:
            break
    return text


def test_the_program_with_tools_prints_a_function(
    mlc_style: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(WHOLE, mlc_style, capsys)
    assert text.endswith("}\n\n")
    function = ast.literal_eval(text.strip())
    assert function.keys() == {"name", "arguments"}
    assert function["name"] == "get_current_weather"
    jsonschema.validate(function["arguments"], WEATHER["function"]["parameters"])


def test_the_streaming_program_with_tools_prints_a_list_of_calls(
    mlc_style: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ast.literal_eval(printed(STREAMED, mlc_style, capsys).strip())
    assert calls
    for call in calls:
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        assert node.func.id == "get_current_weather"
        arguments = {item.arg: ast.literal_eval(item.value) for item in node.keywords}
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])


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
