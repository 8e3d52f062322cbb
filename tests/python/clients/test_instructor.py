"""instructor against the server: typed answers through JSON schemas and through tools."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, field_validator

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, tool_call

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
instructor = pytest.importorskip("instructor")

Server = tuple[LiveServer, FakeEngine]
USER: Any = {"role": "user", "content": "hi"}


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


class ManyFruit(BaseModel):
    """A fruit of which there are many."""

    count: int

    @field_validator("count")
    @classmethod
    def _many(cls, count: int) -> int:
        if count < 10:
            raise ValueError("there must be at least ten")
        return count


ARGUMENTS = '{"name": "apple", "count": 3}'
MODES = ["JSON_SCHEMA", "JSON", "TOOLS"]


@pytest.fixture
def plain(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


def script(mode: str, name: str = "Fruit", arguments: str = ARGUMENTS) -> Script:
    """The answer that a mode of instructor reads; `name` is what it calls the function."""
    return tool_call(name, arguments) if mode == "TOOLS" else Script(tokens=list(arguments))


@pytest.mark.parametrize("mode", MODES)
def test_typed_answers(server: Server, plain: openai.OpenAI, mode: str) -> None:
    server[1].script = script(mode)
    client = instructor.from_openai(plain, mode=instructor.Mode[mode])
    fruit, raw = client.chat.completions.create_with_completion(
        model=MODEL_ID, response_model=Fruit, messages=[USER], max_retries=0
    )
    assert fruit.model_dump() == {"name": "apple", "count": 3}
    assert raw.usage.completion_tokens > 0
    # The engine was told to let nothing else pass.
    assert server[1].requests[-1].grammar is not None


@pytest.mark.parametrize("mode", MODES)
def test_partial_answers_are_streamed(server: Server, plain: openai.OpenAI, mode: str) -> None:
    server[1].script = script(mode, "PartialFruit")
    client = instructor.from_openai(plain, mode=instructor.Mode[mode])
    parts = list(
        client.chat.completions.create_partial(
            model=MODEL_ID, response_model=Fruit, messages=[USER], max_retries=0
        )
    )
    assert len(parts) > 1
    assert parts[-1].model_dump() == {"name": "apple", "count": 3}


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_does_not_validate_is_asked_for_again(
    server: Server, plain: openai.OpenAI, mode: str
) -> None:
    """The second request has the first answer, its call too, and what is wrong with it."""
    server[1].next_scripts = [
        script(mode, "ManyFruit", '{"count": 3}'),
        script(mode, "ManyFruit", '{"count": 30}'),
    ]
    client = instructor.from_openai(plain, mode=instructor.Mode[mode])
    fruit = client.chat.completions.create(
        model=MODEL_ID, response_model=ManyFruit, messages=[USER], max_retries=2
    )
    assert fruit.count == 30
    assert "at least ten" in bytes(server[1].requests[-1].prompt_ids).decode()


def test_the_async_client(server: Server) -> None:
    server[1].script = script("TOOLS")

    async def ask() -> Fruit:
        url = f"{server[0].url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as plain:
            client = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
            return await client.chat.completions.create(
                model=MODEL_ID, response_model=Fruit, messages=[USER], max_retries=0
            )

    assert asyncio.run(ask()).model_dump() == {"name": "apple", "count": 3}


def test_without_a_model_it_is_a_chat(plain: openai.OpenAI) -> None:
    client = instructor.from_openai(plain)
    answer = client.chat.completions.create(model=MODEL_ID, response_model=None, messages=[USER])
    assert answer.choices[0].message.content == "An apple a day"
