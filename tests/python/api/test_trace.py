"""The event trace: slices that nest, one track a request."""

from __future__ import annotations

import json

import requests

from mlc_server.api.trace import EventTrace
from mlc_server.settings import ServerSettings
from support.http_server import chat_body, live_server


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
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
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


def test_the_ring_is_bounded_and_drops_what_lost_its_beginning() -> None:
    trace = EventTrace(max_events=4)
    for number in range(3):
        trace.add("B", "request", f"r{number}")
        trace.add("i", "news", f"r{number}")
    trace.add("E", "request", "r0")
    rows = [e for e in json.loads(trace.to_json())["traceEvents"] if e["ph"] != "M"]
    assert [(e["ph"], e["tid"]) for e in rows] == [("B", 1), ("i", 1)]


def test_the_route_needs_both_flags() -> None:
    for settings, status in (
        (ServerSettings(enable_debug=True), 400),
        (ServerSettings(enable_tracing=True), 404),
    ):
        with live_server(settings) as (server, _):
            answer = requests.post(f"{server.url}/debug/dump_event_trace", timeout=20)
        assert answer.status_code == status
