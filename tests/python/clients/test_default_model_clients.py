"""Each client against the real server and the default model: what a user would try first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from support.server_process import READY, Process, process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("default_model"),
]
MODEL_ID = "SmolLM2-135M-Instruct"
QUESTION = "Name a fruit and how many of it are in a basket."


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str = Field(max_length=20)
    count: int = Field(ge=0, le=99)


def basket(fruit: str) -> str:
    """How many of a fruit are in the basket."""
    return f"There are 12 of {fruit[:20]}."


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with process("--port", "0", module="mlc_server") as running:
        running.url = running.wait_for(READY, timeout_s=240)
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.output
        assert "Traceback" not in running.output


@pytest.fixture
def plain(server: Process) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai(plain: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL_ID, "seed": 1, "max_tokens": 60}
    user: Any = {"role": "user", "content": QUESTION}
    chats = plain.chat.completions
    whole = chats.create(messages=[user], **fields).choices[0].message.content
    with chats.stream(messages=[user], **fields) as stream:
        assert stream.get_final_completion().choices[0].message.content == whole
    parsed = chats.parse(messages=[user], response_format=Fruit, **fields)
    assert isinstance(parsed.choices[0].message.parsed, Fruit)
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "basket",
                "parameters": {
                    "type": "object",
                    "properties": {"fruit": {"type": "string", "maxLength": 20}},
                    "required": ["fruit"],
                },
            },
        }
    ]
    required: Any = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    message = chats.create(messages=[user], **required, **fields).choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.function.name == "basket"
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": basket("apple")}
    answer = chats.create(messages=[user, message, result], **fields)
    assert answer.choices[0].message.content


def test_litellm(server: Process) -> None:
    litellm = pytest.importorskip("litellm")
    fields: dict[str, Any] = {
        "model": f"openai/{MODEL_ID}",
        "messages": [{"role": "user", "content": QUESTION}],
        "api_base": f"{server.url}/v1",
        "api_key": "none",
        "max_tokens": 60,
        "seed": 2,
    }
    whole = litellm.completion(**fields).choices[0].message.content
    chunks = list(litellm.completion(stream=True, **fields))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    content = litellm.completion(response_format=Fruit, **fields).choices[0].message.content
    Fruit.model_validate_json(content)


def test_langchain(server: Process) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(
        model=MODEL_ID, base_url=f"{server.url}/v1", api_key="none", max_tokens=60, seed=3
    )
    whole = model.invoke(QUESTION).content
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == whole
    assert isinstance(model.with_structured_output(Fruit).invoke(QUESTION), Fruit)


def test_instructor(plain: openai.OpenAI) -> None:
    instructor = pytest.importorskip("instructor")
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        client = instructor.from_openai(plain, mode=mode)
        fruit = client.chat.completions.create(
            model=MODEL_ID,
            response_model=Fruit,
            messages=[{"role": "user", "content": QUESTION}],
            seed=4,
            max_tokens=80,
            max_retries=0,
        )
        assert 0 <= fruit.count <= 99


def test_pydantic_ai(server: Process) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415

    provider = OpenAIProvider(base_url=f"{server.url}/v1", api_key="none")
    model = OpenAIChatModel(MODEL_ID, provider=provider)
    settings: Any = {"max_tokens": 80, "seed": 5}
    text = asyncio.run(pydantic_ai.Agent(model, model_settings=settings).run(QUESTION)).output
    assert text
    agent = pydantic_ai.Agent(model, output_type=Fruit, model_settings=settings)
    assert isinstance(asyncio.run(agent.run(QUESTION)).output, Fruit)
