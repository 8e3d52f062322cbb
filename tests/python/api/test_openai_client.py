"""The official client, sync and async, against a real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.http_server import (
    MODEL_ID,
    FakeEngine,
    LiveServer,
    Script,
    live_server,
)

Server = tuple[LiveServer, FakeEngine]
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with live_server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL_ID, messages=MESSAGES, n=2)
    assert [choice.message.content for choice in answer.choices] == ["An apple a day"] * 2
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 10
    assert answer.model == MODEL_ID


def test_streamed_answer_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL_ID,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "An apple a day"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 5 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_continuous_usage_counts_up(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.chat.completions.create(
        model=MODEL_ID, messages=MESSAGES, stream=True, stream_options=options
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None]
    assert counts == [0, 1, 2, 3, 4, 5, 5]  # the first says the role


def test_a_started_answer_is_continued(client: openai.OpenAI, server: Server) -> None:
    messages: Any = [*MESSAGES, {"role": "assistant", "content": "An"}]
    client.chat.completions.create(
        model=MODEL_ID,
        messages=messages,
        extra_body={
            "continue_final_message": True,
            "add_generation_prompt": False,
            "chat_template_kwargs": {"enable_thinking": False},
            "priority": -5,
            "cache_salt": "me",
        },
    )
    request = server[1].requests[-1]
    assert bytes(request.prompt_ids).decode() == "user: hi\nassistant: An"
    assert request.priority == -5


def test_streamed_and_whole_answers_agree(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL_ID, messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    stream = client.chat.completions.create(
        model=MODEL_ID, messages=MESSAGES, logprobs=True, top_logprobs=2, stream=True
    )
    text, entries = "", []
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        logprobs = chunk.choices[0].logprobs
        entries += logprobs.content or [] if logprobs else []
    assert text == whole.choices[0].message.content
    assert whole.choices[0].logprobs is not None
    assert entries == whole.choices[0].logprobs.content
    assert len(entries[0].top_logprobs) == 2


def test_every_sampling_field_reaches_the_engine(client: openai.OpenAI, server: Server) -> None:
    client.chat.completions.create(
        model=MODEL_ID,
        messages=MESSAGES,
        temperature=0.25,
        top_p=0.5,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"65": -100},
        seed=-1,
        max_tokens=3,
        stop=["END"],
        logprobs=True,
        extra_body={
            "top_k": 7,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "stop_token_ids": [9],
            "ignore_eos": True,
            "include_stop_str_in_output": True,
        },
    )
    sampling = server[1].requests[-1].sampling
    assert sampling.temperature == 0.25
    assert sampling.top_p == 0.5
    assert sampling.top_k == 7
    assert sampling.min_p == 0.1
    assert sampling.repetition_penalty == 1.1
    assert sampling.presence_penalty == 1
    assert sampling.frequency_penalty == -1
    assert list(sampling.logit_bias) == [(65, -100.0)]
    assert sampling.seed == 2**64 - 1
    assert sampling.max_tokens == 3
    assert sampling.min_tokens == 2
    assert list(sampling.stop) == ["END"]
    assert list(sampling.stop_token_ids) == [9]
    assert sampling.ignore_eos
    assert sampling.include_stop_str_in_output
    assert sampling.top_logprobs == 0


def test_defaults_are_the_documented_ones(client: openai.OpenAI, server: Server) -> None:
    for _ in range(2):
        client.chat.completions.create(model=MODEL_ID, messages=MESSAGES)
    first, second = (request.sampling for request in server[1].requests[-2:])
    assert (first.temperature, first.top_p, first.top_k) == (1.0, 1.0, 0)
    assert first.max_tokens == -1
    assert first.top_logprobs == -1
    assert first.seed != second.seed


def test_a_nucleus_of_nothing_is_the_best_token(client: openai.OpenAI, server: Server) -> None:
    client.chat.completions.create(model=MODEL_ID, messages=MESSAGES, top_p=0)
    sampling = server[1].requests[-1].sampling
    assert (sampling.top_p, sampling.top_k) == (1.0, 1)


def test_errors_arrive_as_the_clients_own_types(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    assert missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL_ID, messages=MESSAGES, temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as overflow:
        client.chat.completions.create(
            model=MODEL_ID, messages=[{"role": "user", "content": "x" * 5000}]
        )
    assert overflow.value.code == "context_length_exceeded"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL_ID]
    assert client.models.retrieve(MODEL_ID).owned_by == "mlc_server"


def test_a_failure_in_the_stream_raises() -> None:
    with (
        live_server(script=Script(error="logits are not finite")) as (server, _),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model=MODEL_ID, messages=MESSAGES, stream=True)
        texts = (chunk.choices[0].delta.content or "" for chunk in stream)
        assert "".join(itertools.islice(texts, 5)) == "An apple a day"
        with pytest.raises(openai.APIError, match="logits are not finite"):
            next(texts)
        with pytest.raises(openai.InternalServerError, match="logits are not finite"):
            client.chat.completions.create(model=MODEL_ID, messages=MESSAGES)


def test_64_streams_at_once() -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, int]:
        text, events = "", 0
        stream = await client.chat.completions.create(
            model=MODEL_ID,
            messages=[{"role": "user", "content": f"number {number}"}],
            stream=True,
            max_tokens=50,
        )
        async for chunk in stream:
            events += 1
            text += chunk.choices[0].delta.content or ""
        return text, events

    async def everyone(url: str) -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    tokens = [f" t{i}" for i in range(50)]
    with live_server(script=Script(tokens=tokens, step_s=0.002)) as (server, engine):
        answers = asyncio.run(everyone(f"{server.url}/v1"))
        assert server.on_loop(lambda: server.service.num_open) == 0
    assert answers == [("".join(tokens), 52)] * 64
    assert len(engine.requests) == 64
    assert engine.cancelled == []
