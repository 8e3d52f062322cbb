"""litellm against the server: answers whole and streamed, tools, formats, errors by kind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, tool_call

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
litellm = pytest.importorskip("litellm")

Server = tuple[LiveServer, FakeEngine]
USER = {"role": "user", "content": "hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


def fields(server: Server, **more: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{more.pop('model', MODEL_ID)}",
        "messages": more.pop("messages", [USER]),
        "api_base": f"{server[0].url}/v1",
        "api_key": "none",
        "max_retries": 0,
        **more,
    }


def ask(server: Server, **more: Any) -> Any:
    return litellm.completion(**fields(server, **more))


def test_whole_answer(server: Server) -> None:
    answer = ask(server, temperature=0.5, max_tokens=9)
    assert answer.choices[0].message.content == "An apple a day"
    assert answer.usage.completion_tokens == 5
    assert server[1].requests[-1].sampling.temperature == 0.5


def test_streamed_answer_with_usage(server: Server) -> None:
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "An apple a day"
    assert chunks[-1].usage.completion_tokens == 5
    rebuilt = litellm.stream_chunk_builder(chunks, messages=[USER])
    assert rebuilt.choices[0].message.content == "An apple a day"


def test_the_async_functions(server: Server) -> None:
    async def both() -> tuple[str, str]:
        whole = await litellm.acompletion(**fields(server))
        stream = await litellm.acompletion(**fields(server, stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(both()) == ("An apple a day", "An apple a day")


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_with_a_tool(server: Server, stream: bool) -> None:
    server[1].next_scripts = [tool_call("weather", '{"city": "Oslo"}')]
    first = ask(server, tools=[WEATHER], stream=stream)
    if stream:
        first = litellm.stream_chunk_builder(list(first), messages=[USER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": "It snows."}
    second = ask(server, tools=[WEATHER], messages=[USER, message, result])
    assert second.choices[0].message.content == "An apple a day"
    assert "It snows." in bytes(server[1].requests[-1].prompt_ids).decode()


def test_an_answer_that_fits_a_pydantic_model(server: Server) -> None:
    server[1].script = Script(tokens=list('{"name": "apple", "count": 3}'))
    content = ask(server, response_format=Fruit).choices[0].message.content
    assert Fruit.model_validate_json(content) == Fruit(name="apple", count=3)
    grammar = server[1].requests[-1].grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"


def test_text_completions(server: Server) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL_ID}",
        prompt="hi",
        api_base=f"{server[0].url}/v1",
        api_key="none",
    )
    assert answer.choices[0].text == "An apple a day"


def test_errors_are_told_apart(server: Server) -> None:
    with pytest.raises(litellm.NotFoundError):
        ask(server, model="other")
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(server, temperature=3)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(server, messages=[{"role": "user", "content": "x" * 5000}])
