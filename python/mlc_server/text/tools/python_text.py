"""Calls as MLC-LLM streams them: a list of Python calls, as text."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mlc_server.text.tools.events import CallStarted, Content, Event


class PythonTextWriter:
    """Turns calls into content: ["f(a='x',b=1)", "g()"]. Each is written when it is complete; one
    that is cut short is left out. Text ends a list, so that each can be read as one."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments: list[str] = []
        self._opened = False

    def write(self, events: Iterable[Event], *, last: bool) -> list[Event]:
        """Content for more events; `last` closes the list."""
        text: list[str] = []
        for event in events:
            if isinstance(event, Content):
                text += [self._end_list(), event.text]
            elif isinstance(event, CallStarted):
                text.append(self._end_call())
                self._name = event.name
            else:
                self._arguments.append(event.text)
        if last:
            text.append(self._end_list())
        joined = "".join(text)
        return [Content(joined)] if joined else []

    def _end_list(self) -> str:
        end = self._end_call() + ("]" if self._opened else "")
        self._opened = False
        return end

    def _end_call(self) -> str:
        name, arguments = self._name, "".join(self._arguments)
        self._name, self._arguments = None, []
        call = None if name is None else python_call(name, arguments)
        if call is None:
            return ""
        separator = ", " if self._opened else "["
        self._opened = True
        return separator + json.dumps(call, ensure_ascii=False)


def python_call(name: str, arguments: str) -> str | None:
    """name(key=value,...) with Python's literals; None if `arguments` is not a JSON object."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return None
    return f"{name}({','.join(f'{key}={value!r}' for key, value in values.items())})"
