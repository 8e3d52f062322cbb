"""Every failure has OpenAI's shape and a declared status, and tells nothing internal."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from mlc_server.errors import ContextOverflow, InvalidRequest, QueueFull, Unavailable
from mlc_server.settings import ServerSettings
from support.http_server import (
    FakeEngine,
    LiveServer,
    Script,
    chat_body,
    live_server,
)

INTERNAL = re.compile(r"0x[0-9a-f]{4,}|Traceback|\.py\b|/site-packages/|/python/", re.IGNORECASE)
Server = tuple[LiveServer, FakeEngine]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with live_server(ServerSettings(max_body_size=100_000)) as running:
        yield running


def check_error(response: requests.Response, status: int) -> dict[str, Any]:
    """Asserts status, shape, headers and harmless text; returns the error object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable()
    assert len(response.content) <= 1024
    assert not INTERNAL.search(response.text)
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    return error


def post(server: Server, **kwargs: Any) -> requests.Response:
    return requests.post(f"{server[0].url}/v1/chat/completions", timeout=20, **kwargs)


@pytest.mark.parametrize(
    ("body", "status", "type_", "param", "code"),
    [
        (chat_body(n=17), 400, "invalid_request_error", "n", None),
        (chat_body(temperature="hot"), 400, "invalid_request_error", "temperature", None),
        ({}, 400, "invalid_request_error", "messages", "missing_required_parameter"),
        (
            chat_body(documents=[{}]),
            400,
            "invalid_request_error",
            "documents",
            "unsupported_parameter",
        ),
        (chat_body("refuse me"), 400, "invalid_request_error", "messages", None),
        (
            chat_body("x" * 5000),
            400,
            "invalid_request_error",
            "messages",
            "context_length_exceeded",
        ),
        (chat_body(model="m"), 404, "not_found_error", "model", "model_not_found"),
        (chat_body("x" * 200_000), 413, "invalid_request_error", None, "request_too_large"),
    ],
    ids=str,
)
def test_error_table(
    server: Server, body: Any, status: int, type_: str, param: str | None, code: str | None
) -> None:
    for stream in (False, True):
        error = check_error(post(server, json=body | {"stream": stream}), status)
        assert (error["type"], error["param"], error["code"]) == (type_, param, code)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 50_000])
def test_bodies_that_are_no_json(server: Server, body: bytes) -> None:
    check_error(post(server, data=body), 400)


def test_the_body_limit_holds_without_a_content_length(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 1000

    check_error(post(server, data=endless()), 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/%00%1b%0a", 404),
        ("GET", "/../../etc/passwd%0d%0a", 404),
    ],
)
def test_routes(server: Server, method: str, path: str, status: int) -> None:
    check_error(requests.request(method, server[0].url + path, timeout=20), status)


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (QueueFull("the queue holds 512 requests"), 503, "queue_full"),
        (Unavailable("engine is dead"), 503, "unavailable"),
        (ContextOverflow("too long", param="messages"), 400, "context_length_exceeded"),
        (InvalidRequest("logit_bias: no token 999999", param="logit_bias"), 400, None),
    ],
)
def test_refusals_of_the_engine(refusal: Exception, status: int, code: str | None) -> None:
    with live_server(script=Script(refuse=refusal)) as server:
        for stream in (False, True):
            error = check_error(post(server, json=chat_body(stream=stream)), status)
            assert error["code"] == code
        assert server[0].on_loop(lambda: server[0].service.num_open) == 0


def test_a_bug_is_a_500_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    secret = ValueError("secret /srv/model at 0xdeadbeef")
    with live_server(script=Script(refuse=secret)) as server:
        error = check_error(post(server, json=chat_body()), 500)
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    assert any("secret" in str(record.exc_info) for record in caplog.records)


def test_any_model_is_served_when_allowed() -> None:
    with live_server(ServerSettings(allow_any_model=True)) as server:
        assert post(server, json=chat_body(model="whatever")).json()["model"] == "test-model"


@pytest.mark.parametrize("chosen", ["my-id_7", "x" * 128])
def test_a_client_may_choose_the_request_id(server: Server, chosen: str) -> None:
    answer = post(server, json=chat_body(), headers={"x-request-id": chosen})
    assert answer.headers["x-request-id"] == chosen


@pytest.mark.parametrize("chosen", ["a b", "x" * 129, "<script>", "\xe9"])
def test_an_unfit_request_id_is_replaced(server: Server, chosen: str) -> None:
    answer = post(server, json=chat_body(), headers={"x-request-id": chosen})
    assert answer.headers["x-request-id"].startswith("req-")


def mutations(count: int) -> Iterator[bytes]:
    """Chat bodies with random values, keys, cuts and bytes."""
    chance = random.Random(7)
    odd: list[Any] = [None, True, -1, 0, 10**40, 1e308, float("nan"), "", "x" * 999, [], {}, [[]]]
    fields = [
        "n",
        "stop",
        "temperature",
        "messages",
        "logit_bias",
        "stream",
        "seed",
        "model",
        "user",
    ]
    for _ in range(count):
        body: dict[str, Any] = chat_body(max_tokens=2)
        for _ in range(chance.randint(1, 3)):
            field = chance.choice([*fields, "\x1b[31m\r\n", "tools"])
            body[field] = chance.choice(odd)
        text = json.dumps(body).encode()
        if chance.random() < 0.2:
            text = text[: chance.randint(0, len(text))]
        if chance.random() < 0.2:
            position = chance.randrange(len(text) + 1)
            text = text[:position] + chance.randbytes(2) + text[position:]
        yield text


def test_hostile_requests_never_disturb_the_others(server: Server) -> None:
    """500 mutated bodies: 200, 400 or 404 each, and valid requests between them are unchanged."""
    live, engine = server
    with requests.Session() as session:
        url = f"{live.url}/v1/chat/completions"
        for number, body in enumerate(mutations(500)):
            response = session.post(url, data=body, timeout=20)
            if response.status_code != 200:
                assert response.status_code in (400, 404), response.text
                check_error(response, response.status_code)
            if number % 10 == 0:
                answer = session.post(url, json=chat_body(), timeout=20).json()
                assert answer["choices"][0]["message"]["content"] == "An apple a day"
    assert live.on_loop(lambda: live.service.num_open) == 0
    assert engine.open == {}
