"""Text completions: kinds of prompts, numbering, echo, log-probabilities, streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests

from mlc_server.engine import AsyncEngine
from mlc_server.errors import QueueFull
from mlc_server.settings import ServerSettings
from mlc_server.text.fill_in_middle import FillInMiddle
from support.byte_model import EOS_ID, byte_prompts
from support.fake_server import NUM_PAGES, fake_core
from support.http_server import MODEL_ID, FakeEngine, LiveServer, Script, live_server
from support.waiting import wait_for

Server = tuple[LiveServer, FakeEngine]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with live_server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(server: Server, **body: Any) -> requests.Response:
    return requests.post(f"{server[0].url}/v1/completions", json=body, timeout=20)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("hi", [[104, 105]]),
        (["a", "bc"], [[97], [98, 99]]),
        ([104, 105], [[104, 105]]),
        ([[104], [105, 256]], [[104], [105, 256]]),
    ],
)
def test_prompts_reach_the_engine_as_they_are(
    client: openai.OpenAI, server: Server, prompt: Any, ids: list[list[int]]
) -> None:
    answer = client.completions.create(model=MODEL_ID, prompt=prompt)
    sent = server[1].requests[-len(ids) :]
    assert [list(request.prompt_ids) for request in sent] == ids
    assert all(request.sampling.max_tokens == 16 for request in sent)
    assert [choice.index for choice in answer.choices] == list(range(len(ids)))
    assert {choice.text for choice in answer.choices} == {"An apple a day"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.completion_tokens == 5 * len(ids)


def test_a_stream_of_several_prompts_and_choices_adds_up_to_the_whole(
    client: openai.OpenAI,
) -> None:
    request: Any = {"model": MODEL_ID, "prompt": ["a", "b"], "n": 2, "echo": True}
    whole = client.completions.create(**request)
    assert [choice.text[0] for choice in whole.choices] == ["a", "a", "b", "b"]
    texts, reasons, usage = [""] * 4, [None] * 4, None
    options = {"include_usage": True}
    for chunk in client.completions.create(**request, stream=True, stream_options=options):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = reasons[choice.index] or choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == ["stop"] * 4
    assert usage == whole.usage


def test_continuous_usage_counts_up(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.completions.create(
        model=MODEL_ID, prompt="a", stream=True, stream_options=options
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None]
    assert counts == [1, 2, 3, 4, 5, 5]


def test_token_ids_are_returned_when_asked(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL_ID, "prompt": ["a", "bc"]}
    asked: Any = {"return_token_ids": True}
    whole = client.completions.create(**request, extra_body=asked)
    found = [choice.model_extra for choice in whole.choices]
    assert [extra["prompt_token_ids"] for extra in found if extra] == [[97], [98, 99]]
    assert [extra["token_ids"] for extra in found if extra] == [[65, 66, 67, 68, 256]] * 2
    ids: dict[int, list[int]] = {0: [], 1: []}
    prompts = []
    for chunk in client.completions.create(**request, extra_body=asked, stream=True):
        for choice in chunk.choices:
            extra = choice.model_extra or {}
            ids[choice.index] += extra["token_ids"]
            prompts += [extra["prompt_token_ids"]] if extra["prompt_token_ids"] else []
    assert list(ids.values()) == [[65, 66, 67, 68, 256]] * 2
    assert prompts == [[97], [98, 99]]
    plain = client.completions.create(**request)
    assert "token_ids" not in (plain.choices[0].model_extra or {})


def test_logprobs_are_parallel_lists_with_offsets(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL_ID, "prompt": "a", "logprobs": 2}
    whole = client.completions.create(**request).choices[0].logprobs
    assert whole is not None
    assert whole.tokens == ["A", "B", "C", "D"]
    assert whole.token_logprobs == [-0.5] * 4
    assert whole.text_offset == [0, 1, 2, 3]
    assert whole.top_logprobs is not None
    assert whole.top_logprobs[0] == {"A": -0.5, "B": -1.5}
    tokens, offsets = [], []
    for chunk in client.completions.create(**request, stream=True):
        logprobs = chunk.choices[0].logprobs
        tokens += logprobs.tokens or [] if logprobs else []
        offsets += logprobs.text_offset or [] if logprobs else []
    assert (tokens, offsets) == (whole.tokens, whole.text_offset)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),  # this tokenizer puts nothing before a text
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [10**40]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "n": 17}, "n"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    server: Server, body: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        answer = post(server, **body, stream=stream)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == param
        assert error["message"].isprintable()
    assert server[0].on_loop(lambda: server[0].service.num_open) == 0


def test_a_prompt_that_asks_for_nothing_special(server: Server) -> None:
    answer = post(server, prompt="a", suffix="", best_of=2, n=2, echo=False, foo=1)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "foo"


@contextmanager
def filling_in(fill: FillInMiddle) -> Iterator[Server]:
    with live_server() as (live, engine):
        live.set_ready(engine, replace(byte_prompts(), fill=fill))
        yield live, engine


def test_a_suffix_asks_for_what_comes_before_it() -> None:
    with filling_in(FillInMiddle(1, 2, 3, end_ids=(4, EOS_ID, 9999))) as server:
        assert post(server, prompt=["ab", "c"], suffix="é").status_code == 200
        assert post(server, prompt=[97, 98], suffix="d", stop_token_ids=[4, 7]).status_code == 200
        assert post(server, prompt="a", suffix="d", ignore_eos=True).status_code == 200
        assert post(server, prompt="a").status_code == 200
        sent = [(bytes(r.prompt_ids), tuple(r.sampling.stop_token_ids)) for r in server[1].requests]
        refused = post(server, prompt="a", suffix="b", echo=True)
        assert refused.json()["error"]["param"] == "echo"
        too_long = post(server, prompt="a", suffix="b" * 5000)
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
    assert sent == [
        (b"\x01ab\x02\xc3\xa9\x03", (4,)),
        (b"\x01c\x02\xc3\xa9\x03", (4,)),
        (b"\x01ab\x02d\x03", (4, 7)),
        (b"\x01a\x02d\x03", ()),
        (b"a", ()),
    ]


def test_some_models_want_the_suffix_first() -> None:
    with filling_in(FillInMiddle(1, 2, None)) as server:
        assert post(server, prompt="ab", suffix="cd", stream=True).status_code == 200
        assert bytes(server[1].requests[0].prompt_ids) == b"\x02cd\x01ab"


def test_a_model_that_cannot_fill_in_says_so(server: Server) -> None:
    error = post(server, prompt="a", suffix="b").json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["message"].startswith("suffix: this model has no tokens")


def test_a_refusal_of_a_later_prompt_leaves_nothing_behind(server: Server) -> None:
    with live_server() as (live, engine):
        submit = engine.submit

        def refuse_third(request: Any, sink: Any) -> int:
            if len(engine.requests) == 2:
                raise QueueFull("the queue is full")
            return submit(request, sink)

        engine.submit = refuse_third  # type: ignore[method-assign]
        answer = requests.post(
            f"{live.url}/v1/completions", json={"prompt": ["a", "b", "c"]}, timeout=20
        )
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert engine.open == {}
        assert live.on_loop(lambda: live.service.num_open) == 0


def test_a_failure_in_the_stream_is_an_error_event() -> None:
    with live_server(script=Script(error="logits are not finite")) as server:
        answer = post(server, prompt="a", stream=True)
        assert b'"error":{"message":"logits are not finite"' in answer.content
        assert answer.content.endswith(b"data: [DONE]\n\n")
        assert post(server, prompt="a").status_code == 500


def test_the_compiled_engine_answers_a_batch_as_it_does_each_alone() -> None:
    live = LiveServer(ServerSettings())
    live.start()
    engine = AsyncEngine(fake_core())
    try:
        live.on_loop(engine.start)
        live.set_ready(engine)
        prompts = [f"number {i}" for i in range(20)]
        common: Any = {"seed": 3, "max_tokens": 12, "n": 2, "ignore_eos": True}

        def ask(prompt: Any) -> list[str]:
            answer = requests.post(
                f"{live.url}/v1/completions", json={"prompt": prompt, **common}, timeout=30
            ).json()
            return [choice["text"] for choice in answer["choices"]]

        alone = [text for prompt in prompts for text in ask(prompt)]
        assert ask(prompts) == alone
        assert len(set(alone)) > 20
        wait_for(lambda: engine.stats().free_pages == NUM_PAGES, 10.0)
    finally:
        live.on_loop(engine.close)
        live.stop()
