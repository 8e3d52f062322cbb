"""Comments on silent streams, only where asked for."""

from __future__ import annotations

import requests

from mlc_server.settings import ServerSettings
from support.http_server import Script, chat_body, live_server


def stream(settings: ServerSettings) -> bytes:
    with live_server(settings, Script(tokens=["a", "b"], step_s=1.3)) as (server, _):
        answer = requests.post(
            f"{server.url}/v1/chat/completions", json=chat_body(stream=True), timeout=20
        )
    assert answer.content.endswith(b"data: [DONE]\n\n")
    return answer.content


def test_a_silent_stream_gets_comments_when_asked() -> None:
    content = stream(ServerSettings(stream_ping_interval_s=1))
    assert content.count(b": ping\n\n") == 2
    assert content.count(b'"content":"') == 3


def test_no_comments_by_default() -> None:
    assert b": ping" not in stream(ServerSettings())
