"""What a client may do to a connection before it has sent a whole request."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from mlc_server import limits
from support.http_server import FakeEngine, LiveServer, chat_body, live_server, raw_chat_request
from support.waiting import wait_for

Server = tuple[LiveServer, FakeEngine]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Deadlines of one second, so that the test need not wait for the real ones."""
    for name in ("HEADER_TIMEOUT_S", "BODY_TIMEOUT_S", "KEEP_ALIVE_S"):
        monkeypatch.setattr(limits, name, replace(getattr(limits, name), default=1))
    with live_server() as running:
        yield running


def until_closed(sock: socket.socket) -> bytes:
    """What the server sends before it closes; fails if it does not within 5 seconds."""
    sock.settimeout(5)
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            answer += data
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/chat/compl",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-long: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: [::1]\r\ntransfer-encoding: chunked\r\n\r\n1",
    ],
    ids=["silent", "half line", "half header", "no body", "half body", "half chunk"],
)
def test_half_a_request_is_cut_off(server: Server, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        begin_s = time.perf_counter()
        sock.sendall(sent)
        until_closed(sock)
        assert time.perf_counter() - begin_s < 4


def test_half_a_request_behind_a_whole_one_is_cut_off(server: Server) -> None:
    """The first is answered, although that takes longer than the second's deadline."""
    server[1].script.step_s = 0.5
    whole = raw_chat_request(chat_body(stream=True)).replace(b"connection: close\r\n", b"")
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(whole + raw_chat_request(chat_body("x" * 200))[:200])
        answer = until_closed(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"data: [DONE]" in answer


def test_a_drip_of_header_bytes_does_not_extend_the_deadline(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        begin_s = time.perf_counter()
        sock.sendall(b"GET /health HTTP/1.1\r\nx-drip: ")
        with contextlib.suppress(ConnectionError):
            while time.perf_counter() - begin_s < 4:
                sock.sendall(b"a")
                time.sleep(0.05)
        assert time.perf_counter() - begin_s < 4


def test_hundreds_of_half_requests_do_not_keep_good_ones_out(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(300):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server[0].port)))
            sock.sendall(raw_chat_request(chat_body())[: 20 + number])
        begin_s = time.perf_counter()
        answer = requests.post(f"{server[0].url}/v1/chat/completions", json=chat_body(), timeout=10)
        assert answer.status_code == 200
        assert time.perf_counter() - begin_s < 2


@pytest.mark.parametrize(
    "head",
    [
        b"x-long: " + b"a" * 70_000,
        b"\r\n".join(b"x-%d: %s" % (i, b"a" * 1000) for i in range(70)),
        b"cookie: " + b"a" * 2_000_000,
    ],
    ids=["one", "many", "huge"],
)
def test_large_headers_are_refused(server: Server, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n")
        answer = until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"200 OK" not in answer


def test_headers_below_the_limit_pass(server: Server) -> None:
    answer = requests.get(f"{server[0].url}/health", headers={"x-long": "a" * 60_000}, timeout=10)
    assert answer.status_code == 200


def test_a_large_url_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 431 ")


BIG = b"x" * 8_000_000  # more than the system's buffers take


@pytest.mark.parametrize("extra", [{}, {"Connection": "close"}], ids=["kept", "closed"])
@pytest.mark.parametrize(
    ("path", "status"), [("/v1/chat/completions", 413), ("/nope", 404)], ids=["413", "404"]
)
def test_who_sends_a_body_before_reading_gets_the_refusal(
    server: Server, path: str, status: int, extra: dict[str, str]
) -> None:
    """http.client and others lose the answer if the connection is reset while they send."""
    connection = http.client.HTTPConnection("127.0.0.1", server[0].port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", path, BIG, extra)
        answer = connection.getresponse()
        assert answer.status == status
        assert b'{"error":{' in answer.read()


def test_a_body_that_goes_on_after_its_refusal_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        begin_s = time.perf_counter()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        sock.sendall(b"content-length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while time.perf_counter() - begin_s < 4:
                sock.sendall(b"a")
                time.sleep(0.05)
        assert time.perf_counter() - begin_s < 4


def test_what_is_no_http_gets_the_error_shape(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(b"\x16\x03\x01 what\r\n\r\n")
        answer = until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":{"message":"Invalid HTTP request received."' in answer


def test_a_slow_answer_is_not_cut_off_by_the_request_deadlines(server: Server) -> None:
    server[1].script.step_s = 0.7
    answer = requests.post(f"{server[0].url}/v1/chat/completions", json=chat_body(), timeout=20)
    assert answer.json()["choices"][0]["message"]["content"] == "An apple a day"


def test_an_upload_within_the_deadline_passes(server: Server) -> None:
    request = raw_chat_request(chat_body())
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        for part in range(5):
            step = len(request) // 5 + 1
            sock.sendall(request[part * step : (part + 1) * step])
            time.sleep(0.05)
        assert b"An apple a day" in until_closed(sock)


def statuses(answer: bytes) -> list[int]:
    return [int(line.split()[1]) for line in re.findall(rb"HTTP/1.1 \d+", answer)]


KEPT = raw_chat_request(chat_body()).replace(b"connection: close\r\n", b"")
STREAMED = raw_chat_request(chat_body(stream=True)).replace(b"connection: close\r\n", b"")
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (KEPT + b"garbage\r\n\r\n", [200, 400]),
        (STREAMED + KEPT + b"garbage\r\n\r\n" + KEPT, [200, 200, 400]),
        (KEPT + CHUNKED + b"zz\r\n", [200, 400]),
        (CHUNKED + b"zz\r\n", [400]),
        (CHUNKED + b"1\r\n{\r\nzz\r\n" + KEPT, [400]),
        (KEPT + b"GET /health HTTP/1.1\r\nx-long: " + b"a" * 100_000, [200, 431]),
        (STREAMED + STREAMED + raw_chat_request(chat_body()) + KEPT, [200, 200, 200]),
    ],
    ids=["garbage", "more", "chunk", "first", "body", "header", "whole"],
)
def test_pipelined_requests_are_answered_in_order(
    server: Server, sent: bytes, expected: list[int]
) -> None:
    """The answers to those before what is refused come first and whole."""
    server[1].script.step_s = 0.02
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(sent)
        answer = until_closed(sock)
    assert statuses(answer) == expected
    assert answer.count(b"data: [DONE]") == sent.count(b'"stream": true')
    assert server[0].on_loop(lambda: server[0].service.num_open) == 0


@pytest.mark.parametrize("first", [KEPT, STREAMED], ids=["whole", "stream"])
@pytest.mark.parametrize("abort", [True, False])
def test_leaving_with_requests_in_the_pipeline_cancels_them_all(
    server: Server, first: bytes, abort: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server[1].script.hang_after = 2
    with socket.create_connection(("127.0.0.1", server[0].port)) as sock:
        sock.sendall(first + KEPT + STREAMED)
        wait_for(lambda: len(server[1].requests) == 1, 5.0)
        if abort:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: server[0].on_loop(lambda: server[0].service.num_open) == 0, 5.0)
    assert server[1].cancelled == [0]
    assert len(server[1].requests) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
