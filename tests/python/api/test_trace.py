"""The event trace: slices that nest, one track a request."""

from __future__ import annotations

import json
import socket
from typing import Any

import requests

from mlc_server.api.trace import EventTrace
from mlc_server.settings import ServerSettings
from support.http_server import Script, chat_body, live_server, raw_chat_request
from support.waiting import wait_for


def test_requests_become_nested_slices() -> None:
    settings = ServerSettings(enable_tracing=True, enable_debug=True)
    with live_server(settings) as (server, _):
        for name, fields in (("one", {"n": 2}), ("two", {}), ("refused", {"n": 99})):
            requests.post(
                f"{server.url}/v1/chat/completions",
                json=chat_body(**fields),
                headers={"x-request-id": name},
                timeout=20,
            )
        dump = requests.post(f"{server.url}/debug/dump_event_trace", timeout=20).json()
    events = dump["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["mlc_server"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert not names.keys() & {e["pid"] for e in events}
    assert sorted(names.values()) == ["one", "refused", "two"]
    for track, name in names.items():
        of_track = [e for e in events if e["tid"] == track and e["ph"] != "M"]
        times_us = [e["ts"] for e in of_track]
        assert times_us == sorted(times_us)
        opened: list[str] = []
        slices = []
        for event in of_track:
            if event["ph"] == "B":
                opened.append(event["name"])
                slices.append("/".join(opened))
            elif event["ph"] == "E":
                assert opened.pop() == event["name"]
        assert opened == []
        whole = ["request", "request/queue", "request/prompt", "request/decode"]
        assert slices == (["request"] if name == "refused" else whole)
        instants = [e["name"] for e in of_track if e["ph"] == "i"]
        assert instants[-1] == "ended"
        assert instants.count("choice_finished") == {"one": 2, "two": 1, "refused": 0}[name]


def check_trace_format(trace: Any) -> None:
    """What Perfetto's and Chrome's importers of the Trace Event Format ask of a file's events."""
    assert isinstance(trace["traceEvents"], list)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    open_slices: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["name"]
        track = (event["pid"], event["tid"])
        assert all(type(number) is int and 0 < number < 2**31 for number in track)
        assert isinstance(event.get("args", {}), dict)
        if event["ph"] == "M":
            assert event["name"] in ("thread_name", "process_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert type(event["ts"]) is int
        assert 0 <= event["ts"] < 2**53
        opened = open_slices.setdefault(track, [])
        if event["ph"] == "B":
            opened.append((event["name"], event["ts"]))
        elif event["ph"] == "E":
            name, begin = opened.pop()
            assert name == event["name"]
            assert begin <= event["ts"]
        else:
            assert event["ph"] == "i"
            assert event["s"] in ("t", "p", "g")
    assert not any(open_slices.values())


def test_the_trace_is_one_that_its_viewers_open() -> None:
    """After chats and completions, streamed and whole, refused, failed, and left by the client."""
    settings = ServerSettings(enable_tracing=True, enable_debug=True)
    with live_server(settings, Script(step_s=0.002)) as (server, engine):
        for path, body in (
            ("chat/completions", chat_body()),
            ("chat/completions", chat_body(stream=True, n=3)),
            ("completions", {"prompt": ["a", "b"], "stream": True}),
            ("completions", {"prompt": "a", "max_tokens": -1}),
            ("chat/completions", chat_body(model="other")),
        ):
            requests.post(f"{server.url}/v1/{path}", json=body, timeout=20)
        engine.script = Script(error="logits are not finite")
        requests.post(f"{server.url}/v1/chat/completions", json=chat_body(stream=True), timeout=20)
        engine.script = Script(hang_after=1)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(raw_chat_request(chat_body(stream=True)))
            sock.recv(100)
        wait_for(lambda: len(engine.cancelled) > 0, 5.0)
        wait_for(lambda: server.on_loop(lambda: server.service.num_open) == 0, 5.0)
        dump = requests.post(f"{server.url}/debug/dump_event_trace", timeout=20)
    assert dump.headers["content-type"] == "application/json"
    trace = dump.json()
    check_trace_format(trace)
    assert len({event["tid"] for event in trace["traceEvents"] if event["ph"] != "M"}) == 7


def test_the_ring_is_bounded_and_drops_what_lost_its_beginning() -> None:
    trace = EventTrace(max_events=4)
    for number in range(3):
        trace.add("B", "request", f"r{number}")
        trace.add("i", "news", f"r{number}")
    trace.add("E", "request", "r0")
    rows = [e for e in json.loads(trace.to_json())["traceEvents"] if e["ph"] != "M"]
    assert [(e["ph"], e["tid"]) for e in rows] == [("B", 2), ("i", 2)]


def test_the_route_needs_both_flags() -> None:
    for settings, status in (
        (ServerSettings(enable_debug=True), 400),
        (ServerSettings(enable_tracing=True), 404),
    ):
        with live_server(settings) as (server, _):
            answer = requests.post(f"{server.url}/debug/dump_event_trace", timeout=20)
        assert answer.status_code == status
