"""Flags of the HTTP side, from the command line to the wire. No model is loaded."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from support.http_server import chat_body, raw_chat_request
from support.server_process import READY, Process, process

ORIGIN = "http://good.example"


def preflight(url: str, origin: str = ORIGIN, method: str = "POST") -> requests.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "x-mine",
    }
    return requests.options(f"{url}/v1/chat/completions", headers=headers, timeout=20)


def ask(url: str, key: str | None, **fields: Any) -> requests.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = chat_body(max_tokens=2, **fields)
    return requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20)


@pytest.mark.parametrize("prefix", ["--allowed", "--allow"])
def test_cross_origin_flags_in_both_spellings(prefix: str) -> None:
    """The first is the older one of MLC-LLM's documentation, the second what it has now."""
    flags = []
    for what, value in (("origins", ORIGIN), ("methods", "POST"), ("headers", "x-mine")):
        flags += [f"{prefix}-{what}", json.dumps([value])]
    with process("--port", "0", "--allow-credentials", *flags) as server:
        url = server.wait_for(READY)
        good = preflight(url)
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == ORIGIN
        assert good.headers["access-control-allow-credentials"] == "true"
        assert preflight(url, origin="http://evil.example").status_code == 400
        assert preflight(url, method="DELETE").status_code == 400


def test_keys_from_flags_and_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("three\nfour\n", encoding="utf-8")
    flags = ("--api-key", "one", "--api-key", "two", "--api-key-file", str(keys))
    with process("--port", "0", *flags) as server:
        url = server.wait_for(READY)
        for key in ("one", "two", "three", "four"):
            assert ask(url, key).status_code == 200
        for wrong in (None, "", "on", "onee", "One", "one two"):
            assert ask(url, wrong).status_code == 401
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/version", "/nope"):
            assert requests.get(url + path, timeout=20).status_code == 401
        for path in ("/health", "/ready"):
            assert requests.get(url + path, timeout=20).status_code == 200
    assert not any(key in server.output for key in ("three", "four"))


def test_a_key_from_the_environment() -> None:
    with process("--port", "0", MLC_SERVER_API_KEY="secret") as server:
        url = server.wait_for(READY)
        assert ask(url, None).status_code == 401
        assert ask(url, "secret").status_code == 200


def test_only_served_models_are_answered() -> None:
    with process("--port", "0") as strict:
        url = strict.wait_for(READY)
        refused = ask(url, None, model="other")
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "model_not_found"
        assert ask(url, None, model="fake").status_code == 200
    with process("--port", "0", "--allow-any-model") as lenient:
        assert ask(lenient.wait_for(READY), None, model="other").status_code == 200


def closes_within(sock: socket.socket, timeout_s: float) -> float:
    """Seconds until the server closes; what it says before is read."""
    begin_s = time.monotonic()
    sock.settimeout(timeout_s)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - begin_s


def streamed_body(server: Process, **fields: Any) -> bytes:
    answer = requests.post(
        f"{server.url}/v1/chat/completions",
        json=chat_body(stream=True, max_tokens=2, ignore_eos=True, **fields),
        timeout=30,
    )
    return answer.content


def test_silent_streams_get_comments() -> None:
    slow = {"FAKE_STEP_NS": "2500000000"}
    with process("--port", "0", "--stream-ping-interval", "1", **slow) as server:
        server.url = server.wait_for(READY)
        body = streamed_body(server)
    assert body.count(b": ping\n\n") >= 2
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.slow
def test_slow_senders_are_cut_off_and_others_served() -> None:
    """The deadlines as they are: 10 seconds for headers."""
    request = raw_chat_request(chat_body(max_tokens=2))
    with process("--port", "0") as server:
        url = server.wait_for(READY)
        port = int(url.rpartition(":")[2])
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        for number, sock in enumerate(socks):
            sock.sendall(request[: number % 60])  # from nothing to half of the headers
        assert ask(url, None).status_code == 200
        assert closes_within(socks[0], 15) > 5
        for sock in socks:
            assert closes_within(sock, 5) < 5
            sock.close()
        assert ask(url, None).status_code == 200
