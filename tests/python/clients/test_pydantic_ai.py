"""pydantic-ai against the server: text, streams, tools, typed output in each of its ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, tool_call

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pydantic_ai = pytest.importorskip("pydantic_ai")
pytest.importorskip("pydantic_ai.models.openai")

from pydantic_ai.models.openai import OpenAIChatModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

Server = tuple[LiveServer, FakeEngine]


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


ARGUMENTS = '{"name": "apple", "count": 3}'


def agent(server: Server, **fields: Any) -> Any:
    provider = OpenAIProvider(base_url=f"{server[0].url}/v1", api_key="none")
    return pydantic_ai.Agent(OpenAIChatModel(MODEL_ID, provider=provider), **fields)


def test_text_whole_and_streamed(server: Server) -> None:
    async def both() -> tuple[str, str]:
        whole = (await agent(server).run("hi")).output
        async with agent(server).run_stream("hi") as stream:
            return whole, await stream.get_output()

    assert asyncio.run(both()) == ("An apple a day", "An apple a day")


def test_a_conversation_goes_on(server: Server) -> None:
    async def twice() -> int:
        first = await agent(server).run("hi")
        second = await agent(server).run("more", message_history=first.all_messages())
        return len(second.all_messages())

    assert asyncio.run(twice()) == 4
    prompt = bytes(server[1].requests[-1].prompt_ids).decode()
    assert prompt == "user: hi\nassistant: An apple a day\nuser: more\nassistant: "


def test_typed_output_through_a_tool(server: Server) -> None:
    server[1].script = tool_call("final_result", ARGUMENTS)
    result = asyncio.run(agent(server, output_type=Fruit).run("hi"))
    assert result.output == Fruit(name="apple", count=3)


def test_typed_output_through_a_schema(server: Server) -> None:
    server[1].script = Script(tokens=list(ARGUMENTS))
    native = pydantic_ai.NativeOutput(Fruit)
    result = asyncio.run(agent(server, output_type=native).run("hi"))
    assert result.output == Fruit(name="apple", count=3)
    grammar = server[1].requests[-1].grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_with_a_tool(server: Server, stream: bool) -> None:
    """The agent calls the function and answers with what it said."""
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"It snows in {city}."

    async def run() -> str:
        helper = agent(server, tools=[weather])
        if not stream:
            return str((await helper.run("How is Oslo?")).output)
        async with helper.run_stream("How is Oslo?") as answer:
            return str(await answer.get_output())

    server[1].next_scripts = [tool_call("weather", '{"city": "Oslo"}')]
    assert asyncio.run(run()) == "An apple a day"
    assert asked == ["Oslo"]
    assert "It snows in Oslo." in bytes(server[1].requests[-1].prompt_ids).decode()
