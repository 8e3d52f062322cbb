"""The environment in which chat templates run: a sandbox with the helpers they were written
against, that ends a rendering which takes too long."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlc_server.limits import MAX_RENDERED_CHARACTERS, RENDER_TIMEOUT_MS

# Look-ups between two looks at the clock; a template does a few million of them in a second.
_LOOKUPS_PER_CHECK = 256


class _Budget(threading.local):
    """The rendering under way in this thread. Processor time, so that a busy machine is no reason
    to refuse."""

    deadline_s = float("inf")
    lookups = 0

    def begin(self) -> None:
        self.deadline_s = time.thread_time() + RENDER_TIMEOUT_MS.default / 1000
        self.lookups = 0

    def look_up(self) -> None:
        self.lookups += 1
        if self.lookups % _LOOKUPS_PER_CHECK == 0:
            self.check()

    def check(self) -> None:
        if time.thread_time() > self.deadline_s:
            limit = RENDER_TIMEOUT_MS.default
            raise jinja2.TemplateError(f"rendering takes longer than {limit} milliseconds")


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's environment of chat templates. `now` is what strftime_now formats."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _GenerationBlock],
        )
        self._budget = _Budget()
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: now().strftime(form)

    def render_bounded(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        """The text; raises TemplateError if it takes too long or is too long, and whatever else a
        template raises."""
        self._budget.begin()
        parts: list[str] = []
        length, limit = 0, MAX_RENDERED_CHARACTERS.default
        for part in template.generate(variables):
            parts.append(part)
            length += len(part)
            if length > limit:
                raise jinja2.TemplateError(f"they render to more than {limit} characters")
            self._budget.look_up()
        return "".join(parts)

    # What every loop of a template does sooner or later.

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._budget.look_up()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._budget.look_up()
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self._budget.check()
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %} marks the assistant's text for training; its content is rendered as is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it this way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter, as templates were written against."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
