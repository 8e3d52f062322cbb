"""The server as a process: phases, the ready line, signals, exit codes. No model is loaded."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import psutil
import pytest
import requests

from mlc_server.cli.ports import bind, free_port
from support.http_server import chat_body
from support.server_process import READY, process
from support.waiting import wait_for


def start_stream(url: str) -> requests.Response:
    """A stream whose first event has been read."""
    response = requests.post(
        f"{url}/v1/chat/completions",
        json=chat_body(stream=True, max_tokens=100, ignore_eos=True),
        stream=True,
        timeout=30,
    )
    assert response.status_code == 200
    return response


def test_start_answer_and_graceful_end() -> None:
    with process("--port", "0", "--enable-tracing") as server:
        url = server.wait_for(READY)
        assert requests.get(f"{url}/health", timeout=20).json() == {"status": "ok"}
        answer = requests.post(
            f"{url}/v1/chat/completions", json=chat_body(max_tokens=5, seed=1), timeout=20
        ).json()
        assert answer["usage"]["completion_tokens"] in range(1, 6)
        assert answer["model"] == "fake"
        server.popen.send_signal(signal.SIGTERM)
        assert server.end() == 0
    durations = re.findall(r"^  [A-Za-z ]+? +(\d+\.\d\d) s", server.output, re.MULTILINE)
    total = re.search(r"^ready in (\d+\.\d) s", server.output, re.MULTILINE)
    assert total is not None
    assert sum(map(float, durations)) == pytest.approx(float(total[1]), abs=1.0)
    for name in ("imports", "fake model", "warm up", "HTTP"):
        assert f"\n  {name} " in "\n" + server.output
    assert "curl" in server.output
    traced = [json.loads(line) for line in server.lines if line.startswith('{"event"')]
    assert [record["event"] for record in traced] == [
        "received",
        "submitted",
        "first_token",
        "choice_finished",
        "ended",
    ]
    assert len({record["request"] for record in traced}) == 1
    times_us = [record["at_us"] for record in traced]
    assert times_us == sorted(times_us)
    assert "Traceback" not in server.output


def test_grammars_are_made_ready_while_the_server_starts_and_outlive_their_process() -> None:
    with process("--port", "0") as server:
        url = server.wait_for(READY)
        host = psutil.Process(server.popen.pid)
        wait_for(lambda: len(host.children()) == 1, 30.0)
        [first] = host.children()
        wait_for(lambda: first.nice() > host.nice(), 5.0)

        def status(pattern: str) -> int:
            body = chat_body(structured_outputs={"regex": pattern}, max_tokens=5)
            return requests.post(f"{url}/v1/chat/completions", json=body, timeout=20).status_code

        assert status("[a-c]+") == 200
        assert host.children() == [first]
        first.kill()
        wait_for(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, 5.0)
        assert status("[d-f]+") == 200
        [second] = host.children()
        assert second != first
        server.popen.send_signal(signal.SIGTERM)
        assert server.end() == 0
    wait_for(lambda: not second.is_running(), 5.0)
    assert "Traceback" not in server.output


def test_a_key_is_asked_for_and_logs_are_json() -> None:
    with process("--port", "0", "--api-key", "k", "--log-json") as server:
        url = server.wait_for(READY)
        assert requests.get(f"{url}/health", timeout=20).status_code == 200
        ask = f"{url}/v1/chat/completions"
        assert requests.post(ask, json=chat_body(), timeout=20).status_code == 401
        answer = requests.post(
            ask, json=chat_body(max_tokens=2), headers={"authorization": "Bearer k"}, timeout=20
        )
        assert answer.status_code == 200
        server.popen.send_signal(signal.SIGTERM)
        assert server.end() == 0
    assert "-H 'Authorization: Bearer KEY'" in server.output
    logged = [json.loads(line) for line in server.lines if line.startswith('{"time"')]
    refused, access = [entry for entry in logged if entry["logger"] == "mlc_server.requests"]
    assert (refused["status"], refused["method"]) == (401, "POST")
    assert access["status"] == 200
    assert access["route"] == refused["route"] == "/v1/chat/completions"
    assert access["request"] == answer.headers["x-request-id"]
    assert (access["output"], access["outcome"]) == (2, "length")
    for key in ("prompt", "queue_ms", "ttft_ms", "tokens_per_s", "total_ms"):
        assert access[key] >= 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_streams_finish(number: signal.Signals) -> None:
    with process("--port", "0", FAKE_STEP_NS="10000000") as server:
        url = server.wait_for(READY)
        with start_stream(url) as stream:
            server.popen.send_signal(number)
            server.wait_for(re.compile(r"(finishing 1 request, up to 30 s)"))
            body = stream.content
        assert body.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in body
        assert server.end() == 0


def test_the_port_answers_503_while_open_streams_finish() -> None:
    with process("--port", "0", FAKE_STEP_NS="40000000") as server:
        url = server.wait_for(READY)
        with start_stream(url) as stream:
            server.popen.send_signal(signal.SIGTERM)
            server.wait_for(re.compile(r"(finishing 1 request, up to 30 s)"))
            time.sleep(0.5)  # uvicorn looks ten times a second whether to end
            answers = [
                requests.get(f"{url}/health", timeout=20),
                requests.get(f"{url}/ready", timeout=20),
                requests.post(f"{url}/v1/chat/completions", json=chat_body(), timeout=20),
            ]
            assert requests.get(f"{url}/metrics", timeout=20).status_code == 200
            body = stream.content
        assert body.endswith(b"data: [DONE]\n\n")
        assert server.end() == 0
    for answer in answers:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["message"] == "the server is shutting down"


def test_the_deadline_ends_open_streams_with_an_error() -> None:
    with process("--port", "0", "--shutdown-timeout", "1", FAKE_STEP_NS="200000000") as server:
        url = server.wait_for(READY)
        with start_stream(url) as stream:
            begin_s = time.monotonic()
            server.popen.send_signal(signal.SIGTERM)
            body = stream.content
        assert server.end() == 0
        assert time.monotonic() - begin_s < 8
    assert b'"error":{"message":"the server is shutting down"' in body
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_second_signal_ends_now() -> None:
    with process("--port", "0", FAKE_STEP_NS="200000000") as server:
        url = server.wait_for(READY)
        with start_stream(url) as stream:
            server.popen.send_signal(signal.SIGINT)
            server.wait_for(re.compile(r"(again to stop now)"))
            begin_s = time.monotonic()
            server.popen.send_signal(signal.SIGINT)
            assert b'"error":{"message":"the server was stopped"' in stream.content
        assert server.end() == 0
        assert time.monotonic() - begin_s < 8


def test_a_signal_while_loading_ends_the_process() -> None:
    with process("--port", str(free_port("127.0.0.1")), FAKE_LOAD_S="60") as server:
        port = int(server.popen.args[-1])  # type: ignore[index,arg-type]
        deadline_s = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline_s
            try:
                answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=20)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        assert answer.status_code == 503
        server.popen.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_a_dead_engine_ends_the_process() -> None:
    """The open request gets its error, then a supervisor sees a non-zero exit."""
    # The warm-up takes 16 steps at most.
    with process("--port", "0", FAKE_THROW_AT_STEP="40") as server:
        url = server.wait_for(READY)
        with start_stream(url) as stream:
            body = stream.content
        assert b'"error":{' in body
        assert requests.get(f"{url}/health", timeout=20).status_code == 503
        assert server.end() == 3


@pytest.mark.parametrize("load_s", ["0", "0.03", "0.1", "0.2", "0.3"])
def test_a_model_that_does_not_load_is_three_lines(load_s: str) -> None:
    """Wherever the thread that makes ready for grammars is by then."""
    with process("--port", "0", FAKE_LOAD_FAILS="1", FAKE_LOAD_S=load_s) as server:
        assert server.end() == 2
    assert [line for line in server.lines if not line.startswith("  ")] == [
        "error: the model is broken\n",
        "seen: nothing good\n",
        "try: another one\n",
    ]


@pytest.mark.parametrize("load_s", ["0", "0.1", "0.3"])
def test_a_traceback_does_not_wait_for_threads_either(load_s: str) -> None:
    with process("--port", "0", "--debug", FAKE_LOAD_FAILS="1", FAKE_LOAD_S=load_s) as server:
        assert server.end() == 1
    assert any(line.startswith("Traceback (most recent call last)") for line in server.lines)
    assert "mlc_server.errors.FormatError: the model is broken\n" in server.lines


def test_a_model_that_cannot_answer_never_becomes_ready() -> None:
    with process("--port", "0", FAKE_THROW_AT_STEP="0") as server:
        assert server.end() == 2
    assert "error: the model cannot answer\n" in server.lines
    assert "listening" not in server.output


def test_a_taken_port_is_told_before_the_model_loads() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with process("--port", str(port), FAKE_LOAD_S="60") as server:
            assert server.end() == 2
    lines = server.output.splitlines()
    assert len(lines) == 3
    assert lines[0] == f"error: port {port} on 127.0.0.1 is in use"
    assert f"process {os.getpid()} (" in lines[1]
