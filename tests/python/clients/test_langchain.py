"""langchain-openai against the server: invoke, stream, batch, tools, structured output."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, tool_call

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
langchain_openai = pytest.importorskip("langchain_openai")

Server = tuple[LiveServer, FakeEngine]


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


ARGUMENTS = '{"name": "apple", "count": 3}'


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It snows in {city}."


def chat_model(server: Server, **fields: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model=MODEL_ID, base_url=f"{server[0].url}/v1", api_key="none", max_retries=0, **fields
    )


def test_invoke_stream_and_batch(server: Server) -> None:
    model = chat_model(server)
    answer = model.invoke([("system", "Be brief."), ("user", "hi")])
    assert answer.content == "An apple a day"
    assert answer.usage_metadata["output_tokens"] == 5
    assert "".join(chunk.content for chunk in model.stream("hi")) == "An apple a day"
    assert [one.content for one in model.batch(["a", "b"])] == ["An apple a day"] * 2


def test_the_async_methods(server: Server) -> None:
    async def both() -> tuple[str, str]:
        model = chat_model(server)
        whole = (await model.ainvoke("hi")).content
        return whole, "".join([chunk.content async for chunk in model.astream("hi")])

    assert asyncio.run(both()) == ("An apple a day", "An apple a day")


def test_streamed_usage_is_counted(server: Server) -> None:
    chunks = list(chat_model(server, stream_usage=True).stream("hi"))
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [one["output_tokens"] for one in usage] == [5]


def test_completions(server: Server) -> None:
    model = langchain_openai.OpenAI(
        model=MODEL_ID, base_url=f"{server[0].url}/v1", api_key="none", max_retries=0
    )
    assert model.invoke("hi") == "An apple a day"
    assert "".join(model.stream("hi")) == "An apple a day"


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_with_a_tool(server: Server, stream: bool) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage  # noqa: PLC0415

    model = chat_model(server).bind_tools([weather])
    server[1].next_scripts = [tool_call("weather", '{"city": "Oslo"}')]
    question = HumanMessage("How is Oslo?")
    if stream:
        first = None
        for chunk in model.stream([question]):
            first = chunk if first is None else first + chunk
    else:
        first = model.invoke([question])
    assert first is not None
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    assert model.invoke([question, first, result]).content == "An apple a day"
    assert "It snows in Oslo." in bytes(server[1].requests[-1].prompt_ids).decode()


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(server: Server, method: str) -> None:
    called = method == "function_calling"
    server[1].script = tool_call("Fruit", ARGUMENTS) if called else Script(tokens=list(ARGUMENTS))
    model = chat_model(server).with_structured_output(Fruit, method=method)
    assert model.invoke("Describe an apple as JSON.") == Fruit(name="apple", count=3)
    assert server[1].requests[-1].grammar is not None
    assert list(model.stream("Describe an apple as JSON."))[-1] == Fruit(name="apple", count=3)
