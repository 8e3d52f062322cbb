"""The routes over the compiled engine and its FakeRunner."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from mlc_server.engine import AsyncEngine
from mlc_server.settings import ServerSettings
from support.fake_server import NUM_PAGES, fake_core
from support.http_server import LiveServer, chat_body, raw_chat_request
from support.waiting import wait_for

Server = tuple[LiveServer, AsyncEngine]


@pytest.fixture
def server() -> Iterator[Server]:
    """Steps of a millisecond at least, so that requests are caught under way."""
    live = LiveServer(ServerSettings())
    live.start()
    engine = AsyncEngine(fake_core(step_ns=1_000_000))
    try:
        live.on_loop(engine.start)
        live.set_ready(engine)
        yield live, engine
    finally:
        live.on_loop(engine.close)
        live.stop()


def free_pages(server: Server) -> int:
    return int(server[1].stats().free_pages)


def post(server: Server, **fields: Any) -> Any:
    answer = requests.post(
        f"{server[0].url}/v1/chat/completions", json=chat_body(**fields), timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_frees_the_pages_within_a_second(server: Server, stream: bool) -> None:
    socks = []
    for _ in range(8):
        sock = socket.create_connection(("127.0.0.1", server[0].port), timeout=20)
        body = chat_body("x" * 500, stream=stream, n=2, ignore_eos=True)
        sock.sendall(raw_chat_request(body))
        socks.append(sock)
    wait_for(lambda: server[1].stats().num_running == 16, 10.0)
    assert free_pages(server) < NUM_PAGES
    for sock in socks:
        sock.close()
    wait_for(lambda: free_pages(server) == NUM_PAGES, 10.0)
    assert server[1].stats().finished_cancelled == 16
    assert server[0].on_loop(lambda: server[0].service.num_open) == 0


def test_nothing_ends_an_answer_before_its_least_tokens(server: Server) -> None:
    """A token of this engine is a byte, so a stop string of one ends the answer with it."""
    fields: dict[str, Any] = {"seed": 5, "max_tokens": 60, "ignore_eos": True}
    written = post(server, **fields, return_token_ids=True)["choices"][0]["token_ids"]
    byte = next(token for token in written if token < 128)
    stop = chr(byte)
    ended = post(server, **fields, stop=stop)["usage"]["completion_tokens"]
    assert ended == written.index(byte) + 1 < 50
    later = post(server, **fields, stop=stop, min_tokens=ended + 5)
    assert later["usage"]["completion_tokens"] >= ended + 5
    assert stop in later["choices"][0]["message"]["content"]


def test_the_same_seed_gives_the_same_answer_alone_and_in_a_crowd(server: Server) -> None:
    fields: dict[str, Any] = {"seed": 42, "max_tokens": 40, "ignore_eos": True}
    alone = post(server, **fields)["choices"][0]["message"]["content"]

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        seed = 42 if number % 2 == 0 else number
        stream = await client.chat.completions.create(
            model="test-model",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            seed=seed,
            max_tokens=40,
            extra_body={"ignore_eos": True},
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def crowd() -> list[str]:
        url = f"{server[0].url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    texts = asyncio.run(crowd())
    assert set(texts[::2]) == {alone}
    assert len(set(texts[1::2])) == 32
    assert free_pages(server) == NUM_PAGES


def test_log_probabilities_line_up_with_the_text(server: Server) -> None:
    choice = post(
        server, logprobs=True, top_logprobs=5, max_tokens=20, ignore_eos=True, temperature=0
    )["choices"][0]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 20
    text = b"".join(bytes(entry["bytes"]) for entry in entries if entry["token"] != "<eos>")
    assert text.decode("utf-8", "replace") == choice["message"]["content"]
    for entry in entries:
        ranked = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(ranked) == 5
        assert ranked == sorted(ranked, reverse=True)
        assert entry["logprob"] == ranked[0]  # greedy


def test_usage_counts_every_choice(server: Server) -> None:
    answer = post(server, n=3, max_tokens=7, ignore_eos=True)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 3
    assert answer["usage"]["completion_tokens"] == 21
    assert answer["usage"]["prompt_tokens"] == len("user: hi\nassistant: ")


def test_bias_bans_and_forces_tokens(server: Server) -> None:
    forced = post(server, logit_bias={"65": 100}, max_tokens=5)
    assert forced["choices"][0]["message"]["content"] == "AAAAA"


def test_stops_end_the_text(server: Server) -> None:
    bias = {"65": 100}
    stopped = post(server, logit_bias=bias, stop="AAA", max_tokens=50)["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("", "stop")
    assert stopped["stop_reason"] == "AAA"
    kept = post(
        server, logit_bias=bias, stop=["AAA"], include_stop_str_in_output=True, max_tokens=50
    )["choices"][0]
    assert kept["message"]["content"] == "AAA"
    by_id = post(server, logit_bias=bias, stop_token_ids=[65], min_tokens=1, max_tokens=50)
    assert by_id["choices"][0]["stop_reason"] == 65


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"257": 1}}, "logit_bias"),
        ({"stop_token_ids": [257]}, "stop_token_ids"),
    ],
)
def test_token_ids_outside_the_vocabulary_are_refused(
    server: Server, fields: dict[str, Any], param: str
) -> None:
    answer = requests.post(
        f"{server[0].url}/v1/chat/completions", json=chat_body(**fields), timeout=30
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_context_that_fills_up_ends_by_length(server: Server) -> None:
    choice = post(server, content="x" * 4000, ignore_eos=True)["choices"][0]
    assert choice["finish_reason"] == "length"
