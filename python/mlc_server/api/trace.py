"""The latest requests' events in memory, as a Chrome trace that Perfetto and chrome://tracing open.

Format: "Trace Event Format", JSON object form; `ph` B and E begin and end a slice, i is an instant.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal

import orjson

MAX_EVENTS = 100_000
_PROCESS = 1  # no track has this number: viewers take that for the main thread

Phase = Literal["B", "E", "i"]
# (phase, name, request, microseconds, arguments)
_Event = tuple[Phase, str, str, int, dict[str, Any]]


class EventTrace:
    """A ring of events: the oldest give way. Lives on the event loop."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: deque[_Event] = deque(maxlen=max_events)

    def add(
        self,
        phase: Phase,
        name: str,
        request_id: str,
        *,
        at_s: float | None = None,
        **arguments: Any,
    ) -> None:
        """Something that happens to a request, now or when time.perf_counter() said `at_s`."""
        at_us = time.perf_counter_ns() // 1000 if at_s is None else int(at_s * 1e6)
        self._events.append((phase, name, request_id, at_us, arguments))

    def to_json(self) -> bytes:
        """The trace, each request a track; one whose beginning is lost is left out."""
        tracks: dict[str, int] = {}
        rows = [_name("process_name", _PROCESS, "mlc_server")]
        for phase, name, request_id, at_us, arguments in self._events:
            if phase == "B" and name == "request":
                tracks[request_id] = _PROCESS + 1 + len(tracks)
                rows.append(_name("thread_name", tracks[request_id], request_id))
            if request_id not in tracks:
                continue
            row: dict[str, Any] = {
                "name": name,
                "cat": "request",
                "ph": phase,
                "ts": at_us,
                "pid": _PROCESS,
                "tid": tracks[request_id],
            }
            if phase == "i":
                row["s"] = "t"  # an instant of this track only
            if arguments:
                row["args"] = arguments
            rows.append(row)
        return orjson.dumps({"traceEvents": rows, "displayTimeUnit": "ms"})


def _name(kind: str, track: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": track, "args": {"name": name}}
