"""What pages of other origins may do."""

from __future__ import annotations

import requests

from mlc_server.settings import CorsSettings, ServerSettings
from support.http_server import chat_body, live_server


def test_cors_defaults_allow_every_origin() -> None:
    with live_server() as (server, _):
        answer = requests.get(f"{server.url}/health", headers={"origin": "http://a.b"}, timeout=20)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_cors_settings_are_kept() -> None:
    cors = CorsSettings(
        allow_credentials=True,
        allowed_origins=("http://good.example",),
        allowed_methods=("POST",),
        allowed_headers=("x-mine",),
    )
    with live_server(ServerSettings(cors=cors)) as (server, _):

        def preflight(origin: str, method: str) -> requests.Response:
            return requests.options(
                f"{server.url}/v1/chat/completions",
                headers={
                    "origin": origin,
                    "access-control-request-method": method,
                    "access-control-request-headers": "x-mine",
                },
                timeout=20,
            )

        good = preflight("http://good.example", "POST")
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == "http://good.example"
        assert good.headers["access-control-allow-credentials"] == "true"
        for refused in (
            preflight("http://evil.example", "POST"),
            preflight("http://good.example", "PUT"),
            preflight("http://good.example", "a" * 5000),
        ):
            error = refused.json()["error"]
            assert refused.status_code == 400
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith("Disallowed CORS")
            assert refused.headers["x-request-id"]


def test_errors_can_be_read_by_pages_of_other_origins() -> None:
    """Refusals of the guard too, and the headers that say more."""
    with live_server(ServerSettings(api_keys=("k",))) as (server, _):
        url, origin = f"{server.url}/v1/chat/completions", {"origin": "http://a.b"}
        refused = requests.post(url, json={}, headers=origin, timeout=20)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "*"
        body = chat_body(temprature=1)
        headers = origin | {"authorization": "Bearer k"}
        answer = requests.post(url, json=body, headers=headers, timeout=20)
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert answer.headers["x-ignored-fields"] == "temprature"
        for name in ("x-request-id", "x-ignored-fields", "x-field-hints", "retry-after"):
            assert name in exposed
        # A preflight carries no key.
        asks = {"access-control-request-method": "POST"}
        assert requests.options(url, headers=origin | asks, timeout=20).status_code == 200
