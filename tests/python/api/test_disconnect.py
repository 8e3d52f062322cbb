"""A client that leaves takes its request with it: streamed or not, at any phase."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest

from mlc_server import limits
from support.http_server import Script, chat_body, live_server, raw_chat_request
from support.waiting import wait_for


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hang_after", [0, 2])
@pytest.mark.parametrize("abort", [True, False])
def test_leaving_cancels_the_request(stream: bool, hang_after: int, abort: bool) -> None:
    """Before the first token and after some, by FIN and by RST."""
    with live_server(script=Script(hang_after=hang_after)) as (server, engine):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(raw_chat_request(chat_body(stream=stream, n=2)))
        wait_for(lambda: len(engine.requests) == 1, 5.0)
        if abort:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        wait_for(lambda: engine.cancelled == [0])
        wait_for(lambda: server.on_loop(lambda: server.service.num_open) == 0)
        assert engine.open == {}


def test_a_storm_of_disconnects_leaves_nothing_behind() -> None:
    """Half of them streamed, cut at different times, while one stream goes on undisturbed."""
    tokens = [f"{i} " for i in range(200)]
    with live_server(script=Script(tokens=tokens, step_s=0.005)) as (server, engine):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as survivor:
            survivor.sendall(raw_chat_request(chat_body(stream=True)))
            for number in range(100):
                sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
                request = raw_chat_request(chat_body(stream=number % 2 == 0))
                sock.sendall(request[: len(request) - (number % 5 == 4)])
                if number % 3 == 0:
                    time.sleep(0.01)
                sock.close()
            answer = b""
            while data := survivor.recv(65536):
                answer += data
        assert answer.count(b'"content":"') == len(tokens) + 1
        wait_for(lambda: server.on_loop(lambda: server.service.num_open) == 0)
        assert engine.open == {}
        # Whoever got in and was cut off was cancelled; nobody was cancelled twice.
        assert len(engine.cancelled) == len(set(engine.cancelled))


@pytest.mark.parametrize("missing", [1, 60])
def test_leaving_before_the_body_is_complete_is_a_line_in_the_log(
    missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a failure of the server, whose log is for those."""
    caplog.set_level("INFO")
    with live_server() as (server, engine):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.sendall(raw_chat_request(chat_body("x" * 100))[:-missing])
        wait_for(lambda: "499 refused: client_left" in caplog.text, 5.0)
        assert engine.requests == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_request_that_ended_is_not_cancelled() -> None:
    with live_server() as (server, engine):
        for stream in (True, False):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
                sock.sendall(raw_chat_request(chat_body(stream=stream)))
                while sock.recv(65536):
                    pass
        assert len(engine.requests) == 2
        assert engine.cancelled == []


def test_a_client_that_stops_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is cancelled, and what waits for it stays bounded by the socket's buffers."""
    monkeypatch.setattr(limits, "WRITE_STALL_S", replace(limits.WRITE_STALL_S, default=1))
    script = Script(tokens=["x" * 10_000] * 10_000, step_s=0.0)
    with live_server(script=script) as (server, engine):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(raw_chat_request(chat_body(stream=True)))
        wait_for(lambda: engine.cancelled == [0] or not engine.open, 15.0)
        wait_for(lambda: server.on_loop(lambda: server.service.num_open) == 0, 5.0)
        sock.close()
