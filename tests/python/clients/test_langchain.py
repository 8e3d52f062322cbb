"""langchain-openai against the server: invoke, stream, batch, tools."""

from __future__ import annotations

from typing import Any

import pytest

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, live_server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
langchain_openai = pytest.importorskip("langchain_openai")

Server = tuple[LiveServer, FakeEngine]


def chat_model(server: Server) -> Any:
    return langchain_openai.ChatOpenAI(
        model=MODEL_ID, base_url=f"{server[0].url}/v1", api_key="none", max_retries=0
    )


def test_invoke_stream_and_batch(server: Server) -> None:
    model = chat_model(server)
    answer = model.invoke([("system", "Be brief."), ("user", "hi")])
    assert answer.content == "An apple a day"
    assert answer.usage_metadata["output_tokens"] == 5
    assert "".join(chunk.content for chunk in model.stream("hi")) == "An apple a day"
    assert [one.content for one in model.batch(["a", "b"])] == ["An apple a day"] * 2


def test_completions(server: Server) -> None:
    model = langchain_openai.OpenAI(
        model=MODEL_ID, base_url=f"{server[0].url}/v1", api_key="none", max_retries=0
    )
    assert model.invoke("hi") == "An apple a day"
    assert "".join(model.stream("hi")) == "An apple a day"


def test_bound_tools_are_called() -> None:
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    with live_server(script=Script(tokens=list(call))) as server:
        answer = chat_model(server).bind_tools([weather]).invoke("hi")
    assert [(one["name"], one["args"]) for one in answer.tool_calls] == [
        ("weather", {"city": "Oslo"})
    ]
