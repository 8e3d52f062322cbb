"""How one request may call tools: what it asks of the engine, and how its calls are answered."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlc_server.api.service import Service
from mlc_server.api.template_input import decoded_arguments
from mlc_server.engine import Delta, GenerationRequest, GrammarSpec
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.structured_output import OutputFormat
from mlc_server.settings import ToolCallStyle
from mlc_server.text.tools.events import Content, Event
from mlc_server.text.tools.formats import make_parser
from mlc_server.text.tools.functions import Function
from mlc_server.text.tools.grammar import (
    auto_grammar,
    enforced_format,
    formatted_grammar,
    marked_format,
    required_grammar,
)
from mlc_server.text.tools.parser import CallParser
from mlc_server.text.tools.python_grammar import python_problem
from mlc_server.text.tools.python_text import PythonTextWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ToolUse:
    """Tools of a request that may call them: the `functions` it may call. `format` is how its calls
    are written.

    `grammar` enforces every call; if `enforced`, a call that does not fit must be impossible, not
    only unlikely. `single`: at most one call. `named`: the client named the function to call.
    `legacy`: it asked by `functions` and is answered by `function_call`.
    """

    format: str
    style: ToolCallStyle
    functions: Sequence[Function]
    grammar: GrammarSpec | None
    enforced: bool
    single: bool
    named: bool
    legacy: bool = False

    def parser(self) -> CallParser:
        """A new one for each choice."""
        names = [function.name for function in self.functions]
        return make_parser(self.format, names, enforced=self.grammar is not None)

    def new_id(self) -> str:
        """An id for a call; Mistral's templates take only nine letters and digits."""
        if self.format == "mistral":
            return secrets.token_hex(5)[:9]
        return f"call_{secrets.token_hex(12)}"

    def shown_arguments(self, arguments: str) -> Any:
        """Arguments as a whole answer shows them."""
        return decoded_arguments(arguments) if self.style == "mlc" else arguments


def tool_use(body: ChatCompletionRequest, format_: str, style: ToolCallStyle) -> ToolUse | None:
    """What `body` asks for; None if it may not call tools.

    In MLC-LLM's style a request with tools has to call one unless it says otherwise, as its
    programs take for granted. A format of the answer holds for answers without calls. Raises
    InvalidRequest for what cannot be enforced.
    """
    choice, answer, legacy = body.choice, body.output_format, bool(body.functions)
    if legacy:
        style = "openai"  # MLC-LLM never knew functions
    mode = choice.mode if choice is not None else "required" if style == "mlc" else "auto"
    if not body.callable or mode == "none":
        return None
    functions = _functions(body)
    named = choice is not None and choice.named
    # OpenAI makes one call of a named function.
    parallel = body.parallel_tool_calls is not False and not named and not legacy
    source: str | None
    if mode == "required":
        format_ = enforced_format(format_, functions)
        source = required_grammar(format_, functions, parallel=parallel)
    elif answer is not None:
        format_ = marked_format(format_)
        source = formatted_grammar(format_, functions, _answer_schema(answer), parallel=parallel)
    else:
        source = _auto_source(format_, functions, parallel=parallel)
    return ToolUse(
        format=format_,
        style=style,
        functions=functions,
        grammar=None
        if source is None
        else GrammarSpec("calls", source, param="functions" if legacy else "tools"),
        enforced=mode == "required"
        or answer is not None
        or any(function.strict for function in functions),
        single=not parallel,
        named=named,
        legacy=legacy,
    )


def _functions(body: ChatCompletionRequest) -> list[Function]:
    """The functions that may be called."""
    field = "functions[{}]" if body.functions else "tools[{}].function"
    return [
        Function(
            function.name, function.parameters, bool(function.strict), field=field.format(index)
        )
        for index, function in enumerate(body.callable)
        if body.choice is None or body.choice.allows(function.name)
    ]


def _answer_schema(answer: OutputFormat) -> dict[str, Any]:
    """The JSON schema of a format that can stand beside tool calls."""
    if answer.kind == "json_object":
        return {"type": "object"}
    schema = json.loads(answer.source) if answer.kind == "json_schema" else None
    if not isinstance(schema, dict):
        raise InvalidRequest(
            f"{answer.param}: only a JSON schema can be combined with tools that may be called",
            param=answer.param,
        )
    return schema


def _auto_source(format_: str, functions: Sequence[Function], *, parallel: bool) -> str | None:
    strict = next((function for function in functions if function.strict), None)
    if strict is not None and enforced_format(format_, functions) != format_:
        problems = ((function.name, python_problem(function)) for function in functions)
        name, problem = next(pair for pair in problems if pair[1] is not None)
        param = f"{strict.field}.strict"
        raise InvalidRequest(
            f"{param}: cannot be enforced for this model unless tool_choice requires a call; "
            f"{name}: {problem}",
            param=param,
        )
    return auto_grammar(format_, functions, parallel=parallel)


async def prepare(
    service: Service, request: GenerationRequest, tools: ToolUse | None
) -> tuple[GenerationRequest, ToolUse | None]:
    """`request` with its grammar compiled, that of its tools if it may call some.

    Where calls need not be enforced and cannot, they are left to the model. Raises InvalidRequest
    that names the function otherwise.
    """
    if tools is None or tools.grammar is None:
        return await service.prepare(request), tools
    try:
        return await service.prepare(replace(request, grammar=tools.grammar)), tools
    except InvalidRequest as error:
        if not tools.enforced:
            logger.info("calls are not enforced: %s", error.message)
            return await service.prepare(request), replace(tools, grammar=None)
        await _blame(service, request, tools)
        raise


async def _blame(service: Service, request: GenerationRequest, tools: ToolUse) -> None:
    """Raises InvalidRequest for a function that cannot be enforced by itself, if there is one.
    There may be many, so it is looked for in halves."""
    suspects = tools.functions
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        try:
            await _compile(service, request, tools, half, "tools")
            suspects = suspects[len(half) :]
        except InvalidRequest:
            suspects = half
    await _compile(service, request, tools, suspects, f"{suspects[0].field}.parameters")


async def _compile(
    service: Service,
    request: GenerationRequest,
    tools: ToolUse,
    functions: Sequence[Function],
    param: str,
) -> None:
    format_ = enforced_format(tools.format, functions)
    source = required_grammar(format_, functions, parallel=False)
    await service.prepare(replace(request, grammar=GrammarSpec("calls", source, param=param)))


class ChoiceReader:
    """Takes one choice's text apart. Without `tools` all of it is content."""

    def __init__(self, tools: ToolUse | None) -> None:
        self._tools = tools
        self._parser = None if tools is None else tools.parser()

    def read(self, delta: Delta) -> list[Event]:
        """What a delta brings; the last one brings what was held back."""
        if self._parser is None or self._tools is None:
            return [Content(delta.text)] if delta.text else []
        events = self._parser.feed(delta.text)
        if delta.finish_reason is not None:
            events += self._parser.finish()
        if self._tools.single:
            events = [event for event in events if isinstance(event, Content) or event.index == 0]
        return events

    def finish_reason(self, reason: str) -> str:
        """The engine's reason as OpenAI tells it: calls end with "tool_calls", but one that the
        client named ends with "stop"."""
        tools, parser = self._tools, self._parser
        if tools is None or parser is None or reason != "stop":
            return reason
        whole_calls = parser.num_calls > 0 and not parser.cut_short
        if not whole_calls or (tools.named and tools.style != "mlc"):
            return reason
        return "function_call" if tools.legacy else "tool_calls"


class StreamReader(ChoiceReader):
    """The same for a stream, where MLC-LLM's style has calls as content."""

    def __init__(self, tools: ToolUse | None) -> None:
        super().__init__(tools)
        as_text = tools is not None and tools.style == "mlc"
        self._writer = PythonTextWriter() if as_text else None

    def read(self, delta: Delta) -> list[Event]:
        events = super().read(delta)
        if self._writer is None:
            return events
        return self._writer.write(events, last=delta.finish_reason is not None)
