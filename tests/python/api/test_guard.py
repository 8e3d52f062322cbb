"""Keys and hosts: every route asks, in one way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from starlette.routing import Route

from mlc_server.api.app import create_app
from mlc_server.api.guard import OPEN_PATHS
from mlc_server.api.service import Service
from mlc_server.settings import ServerSettings
from support.http_server import FakeEngine, LiveServer, chat_body, live_server

Server = tuple[LiveServer, FakeEngine]
KEYS = ("first-key", "second-key")
WRONG = [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic first-key", "first-key",
         "Bearer first-key-and-more", "Bearer \xe9"]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with live_server(ServerSettings(api_keys=KEYS, enable_debug=True)) as running:
        yield running


def routes() -> list[tuple[str, str]]:
    """(method, path) of every route there is."""
    app = create_app(ServerSettings(api_keys=KEYS, enable_debug=True), Service())
    found: list[tuple[str, str]] = []
    pending = list(app.routes)
    while pending:
        route = pending.pop()
        inner = getattr(route, "original_router", None)
        if inner is not None:
            pending.extend(inner.routes)
        elif isinstance(route, Route):
            path = route.path.replace("{model_id:path}", "test-model")
            found.extend((method, path) for method in sorted(route.methods or ()))
    return found


def test_the_list_of_routes_is_complete() -> None:
    assert {"/v1/chat/completions", "/v1/models", "/health", "/docs"} <= {p for _, p in routes()}


@pytest.mark.parametrize(("method", "path"), [*routes(), ("GET", "/nope"), ("PUT", "//health")])
def test_every_route_but_the_health_checks_needs_a_key(
    server: Server, method: str, path: str
) -> None:
    for wrong in WRONG:
        headers = {} if wrong is None else {"authorization": wrong.encode("latin-1")}
        answer = requests.request(method, server[0].url + path, headers=headers, timeout=20)
        if path in OPEN_PATHS:
            assert answer.status_code != 401
            continue
        assert answer.status_code == 401, (path, wrong)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        if method != "HEAD":
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    for key in KEYS:
        headers = {"authorization": f"Bearer {key}"}
        answer = requests.request(method, server[0].url + path, headers=headers, timeout=20)
        assert answer.status_code != 401


def test_a_preflight_needs_no_key_and_a_refusal_is_readable_by_the_page(server: Server) -> None:
    url = f"{server[0].url}/v1/chat/completions"
    preflight = requests.options(
        url,
        headers={"origin": "http://a.b", "access-control-request-method": "POST"},
        timeout=20,
    )
    assert preflight.status_code == 200
    refused = requests.post(url, json=chat_body(), headers={"origin": "http://a.b"}, timeout=20)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("settings", "host", "allowed"),
    [
        ({}, "localhost:8000", True),
        ({}, "127.0.0.1", True),
        ({}, "[::1]:80", True),
        ({}, "LOCALHOST", True),
        ({}, "evil.example", False),
        ({}, "127.0.0.1.evil.example", False),
        ({}, "localhost.evil.example:8000", False),
        ({}, "", False),
        ({"allowed_hosts": ("my.box",)}, "MY.box:1", True),
        ({"allowed_hosts": ("my.box",)}, "evil.example", False),
        ({"allowed_hosts": ("*",)}, "evil.example", True),
        ({"host": "0.0.0.0"}, "evil.example", True),
        ({"host": "0.0.0.0", "allowed_hosts": ("my.box",)}, "evil.example", False),
        ({"host": "0.0.0.0", "allowed_hosts": ("my.box",)}, "localhost", True),
    ],
)
def test_hosts(settings: dict[str, object], host: str, allowed: bool) -> None:
    with live_server(ServerSettings(**settings)) as (server, _):  # type: ignore[arg-type]
        answer = requests.get(f"{server.url}/version", headers={"host": host}, timeout=20)
    assert answer.status_code == (200 if allowed else 403)
    if not allowed:
        assert answer.json()["error"]["code"] == "host_not_allowed"
