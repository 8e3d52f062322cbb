"""The official client's helpers on top of plain answers: parse, event streams, tool rounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, tool_call

Server = tuple[LiveServer, FakeEngine]
USER: Any = {"role": "user", "content": "hi"}


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


class Weather(BaseModel):
    """The weather of a city."""

    city: str


FRUIT = '{"name": "apple", "count": 3}'
WEATHER = openai.pydantic_function_tool(Weather, name="weather")


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_parse_gives_the_model(client: openai.OpenAI, server: Server) -> None:
    server[1].script = Script(tokens=list(FRUIT))
    answer = client.chat.completions.parse(model=MODEL_ID, messages=[USER], response_format=Fruit)
    assert answer.choices[0].message.parsed == Fruit(name="apple", count=3)
    grammar = server[1].requests[-1].grammar
    assert grammar is not None
    assert json.loads(grammar.source)["required"] == ["name", "count"]


def test_parse_gives_the_arguments_of_calls(client: openai.OpenAI, server: Server) -> None:
    server[1].script = tool_call("weather", '{"city": "Oslo"}')
    answer = client.chat.completions.parse(model=MODEL_ID, messages=[USER], tools=[WEATHER])
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.parsed_arguments for call in calls] == [Weather(city="Oslo")]


def test_parse_tells_of_an_answer_cut_short(client: openai.OpenAI, server: Server) -> None:
    server[1].script = Script(tokens=list(FRUIT))
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=MODEL_ID, messages=[USER], response_format=Fruit, max_tokens=4
        )


def test_a_stream_has_events_and_a_final_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL_ID, messages=[USER], stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    assert deltas == ["", "An", " apple", " a", " day"]  # the first chunk has the role
    assert [event.content for event in events if event.type == "content.done"] == ["An apple a day"]
    assert final.choices[0].message.content == "An apple a day"
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert final.usage.completion_tokens == 5


def test_a_stream_parses_what_it_brings(client: openai.OpenAI, server: Server) -> None:
    server[1].script = Script(tokens=list(FRUIT))
    with client.chat.completions.stream(
        model=MODEL_ID, messages=[USER], response_format=Fruit
    ) as stream:
        done = [event.parsed for event in stream if event.type == "content.done"]
    assert done == [Fruit(name="apple", count=3)]


def test_a_stream_of_log_probabilities_and_calls(client: openai.OpenAI, server: Server) -> None:
    with client.chat.completions.stream(
        model=MODEL_ID, messages=[USER], logprobs=True, top_logprobs=2
    ) as stream:
        done = [event for event in stream if event.type == "logprobs.content.done"]
    assert len(done[0].content) == 4
    server[1].script = tool_call("weather", '{"city": "Oslo"}')
    with client.chat.completions.stream(model=MODEL_ID, messages=[USER], tools=[WEATHER]) as stream:
        calls = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion().choices[0]
    assert [(call.name, call.parsed_arguments) for call in calls] == [
        ("weather", Weather(city="Oslo"))
    ]
    assert final.finish_reason == "tool_calls"


def test_a_round_with_a_tool(client: openai.OpenAI, server: Server) -> None:
    """The message of the call goes back as the client holds it."""
    server[1].next_scripts = [tool_call("weather", '{"city": "Oslo"}')]
    fields: Any = {"model": MODEL_ID, "tools": [WEATHER]}
    message = client.chat.completions.create(messages=[USER], **fields).choices[0].message
    assert message.tool_calls
    result: Any = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": "It snows.",
    }
    answer = client.chat.completions.create(messages=[USER, message, result], **fields)
    assert answer.choices[0].message.content == "An apple a day"
    prompt = bytes(server[1].requests[-1].prompt_ids).decode()
    assert '"city": "Oslo"' in prompt
    assert prompt.index("Oslo") < prompt.index("It snows.")


def test_the_async_client_does_the_same(server: Server) -> None:
    async def everything() -> None:
        url = f"{server[0].url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            chats = client.chat.completions
            whole = await chats.create(model=MODEL_ID, messages=[USER])
            assert whole.choices[0].message.content == "An apple a day"
            async with chats.stream(model=MODEL_ID, messages=[USER]) as stream:
                deltas = [event.delta async for event in stream if event.type == "content.delta"]
            assert "".join(deltas) == "An apple a day"
            server[1].next_scripts = [
                Script(tokens=list(FRUIT)),
                tool_call("weather", '{"city": "Oslo"}'),
            ]
            parsed = await chats.parse(model=MODEL_ID, messages=[USER], response_format=Fruit)
            assert parsed.choices[0].message.parsed == Fruit(name="apple", count=3)
            called = await chats.parse(model=MODEL_ID, messages=[USER], tools=[WEATHER])
            message = called.choices[0].message
            assert message.tool_calls
            assert message.tool_calls[0].function.parsed_arguments == Weather(city="Oslo")
            with pytest.raises(openai.BadRequestError, match="temperature"):
                await chats.create(model=MODEL_ID, messages=[USER], temperature=3)

    asyncio.run(everything())


def test_completions_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL_ID, prompt=["a", "b"], logprobs=2)
    assert [choice.text for choice in whole.choices] == ["An apple a day"] * 2
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.tokens or ()) == 4
    stream = client.completions.create(model=MODEL_ID, prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "An apple a day"


def test_raw_answers_have_ids_and_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL_ID, messages=[USER], extra_headers={"x-request-id": "mine"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "mine"
    assert raw.parse().choices[0].message.content == "An apple a day"
    with client.chat.completions.with_streaming_response.create(
        model=MODEL_ID, messages=[USER], stream=True
    ) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
