"""The latest requests' events in memory, as a Chrome trace that Perfetto and chrome://tracing open.

Format: "Trace Event Format", JSON object form; `ph` B and E begin and end a slice, i is an instant.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal

import orjson

MAX_EVENTS = 100_000

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
        rows: list[dict[str, Any]] = []
        for phase, name, request_id, at_us, arguments in self._events:
            if phase == "B" and name == "request":
                tracks[request_id] = len(tracks) + 1
                rows.append(_track_name(tracks[request_id], request_id))
            if request_id not in tracks:
                continue
            row: dict[str, Any] = {
                "name": name,
                "cat": "request",
                "ph": phase,
                "ts": at_us,
                "pid": 1,
                "tid": tracks[request_id],
            }
            if phase == "i":
                row["s"] = "t"  # an instant of this track only
            if arguments:
                row["args"] = arguments
            rows.append(row)
        return orjson.dumps({"traceEvents": rows, "displayTimeUnit": "ms"})


def _track_name(track: int, name: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name}}
