"""The programs of the REST API's description, run as printed, on the default model.

Only the address is another. The server has the names by which they call their models, and a context
window that keeps a small model's ramblings short.
"""

from __future__ import annotations

import ast
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from support.seed_programs import (
    CHAT_MODEL,
    MODELS,
    STREAMED,
    STREAMED_WITH_TOOLS,
    TOOLS,
    TOOLS_MODEL,
    WHOLE,
    WHOLE_WITH_TOOLS,
    at,
)
from support.server_process import READY, Process, process
from support.waiting import wait_for

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

ATTEMPTS = 3
# The programs that set no max_tokens ramble on until it is full, if they are unlucky.
CONTEXT_WINDOW = "1024"
PARAMETERS: Any = ast.literal_eval(TOOLS.partition("=")[2].strip())[0]["function"]["parameters"]


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    flags = ("--tool-call-style", "mlc", "--context-window-size", CONTEXT_WINDOW)
    names = ("--served-model-name", CHAT_MODEL, "--served-model-name", TOOLS_MODEL)
    with process("--port", "0", *flags, *names, module="mlc_server") as running:
        running.url = running.wait_for(READY, timeout_s=240)
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.output


def log_lines(server: Process) -> list[str]:
    """Of requests that ran the model: the line of a listing may come after the listing's test."""
    return [
        line for line in list(server.lines) if "mlc_server.requests" in line and " prompt=" in line
    ]


def printed(program: str, server: Process, capsys: pytest.CaptureFixture[str]) -> str:
    """What a program prints. None sets a seed and most no max_tokens: where the model rambled until
    the context window was full, it runs again."""
    logged = len(log_lines(server))
    for attempt in range(1, ATTEMPTS + 1):
        exec(compile(at(program, server.url), "program", "exec"), {})
        text = capsys.readouterr().out
        due = logged + attempt
        wait_for(lambda due=due: len(log_lines(server)) >= due, timeout_s=60)  # type: ignore[misc]
        if " 200 length" not in log_lines(server)[-1]:
            break
    return text


@pytest.mark.parametrize("program", [WHOLE, STREAMED], ids=["whole", "streamed"])
def test_a_program_prints_a_haiku(
    program: str, server: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or what a small model takes for one: words, over more than a moment."""
    text = printed(program, server, capsys)
    assert text.endswith("\n\n")
    words = [word for word in text.split() if word.strip(".,;:!?'\"").isalpha()]
    assert len(words) > 5, text
    assert " 200 " in log_lines(server)[-1]


def test_a_program_lists_the_models(server: Process, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(at(MODELS, server.url), "program", "exec"), {})
    title, _, answer = capsys.readouterr().out.partition("\n")
    assert title == "Response:"
    cards = ast.literal_eval(answer)["data"]
    assert [card["id"] for card in cards] == [CHAT_MODEL, TOOLS_MODEL]
    assert {card["object"] for card in cards} == {"model"}


def test_the_program_with_tools_prints_a_function(
    server: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(WHOLE_WITH_TOOLS, server, capsys)
    assert text.endswith("}\n\n")
    function = ast.literal_eval(text.strip())
    assert list(function) == ["name", "arguments"]
    assert function["name"] == "get_current_weather"
    jsonschema.validate(function["arguments"], PARAMETERS)


def test_the_streaming_program_with_tools_prints_a_list_of_calls(
    server: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ast.literal_eval(printed(STREAMED_WITH_TOOLS, server, capsys).strip())
    assert calls
    for call in calls:
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        assert node.func.id == "get_current_weather"
        arguments = {item.arg: ast.literal_eval(item.value) for item in node.keywords}
        jsonschema.validate(arguments, PARAMETERS)
