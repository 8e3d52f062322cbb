"""pydantic-ai against the server: text, streams, typed output through tools."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, live_server

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


def agent(server: Server, **fields: Any) -> Any:
    provider = OpenAIProvider(base_url=f"{server[0].url}/v1", api_key="none")
    return pydantic_ai.Agent(OpenAIChatModel(MODEL_ID, provider=provider), **fields)


def test_text_whole_and_streamed(server: Server) -> None:
    async def both() -> tuple[str, str]:
        whole = (await agent(server).run("hi")).output
        async with agent(server).run_stream("hi") as stream:
            return whole, await stream.get_output()

    assert asyncio.run(both()) == ("An apple a day", "An apple a day")


def test_typed_output_through_a_tool() -> None:
    arguments = '{"name": "apple", "count": 3}'
    call = f'<tool_call>\n{{"name": "final_result", "arguments": {arguments}}}\n</tool_call>'
    with live_server(script=Script(tokens=list(call))) as server:
        result = asyncio.run(agent(server, output_type=Fruit).run("hi"))
    assert result.output == Fruit(name="apple", count=3)
