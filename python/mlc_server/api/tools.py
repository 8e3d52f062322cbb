"""How one request may call tools: what it asks of the engine, and how its calls are answered."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlc_server.api.service import Service
from mlc_server.engine import Delta, GenerationRequest, GrammarSpec
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.messages import ChatMessage
from mlc_server.protocol.structured_output import OutputFormat
from mlc_server.protocol.tools import Tool, ToolCall, ToolChoice
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
    """

    format: str
    style: ToolCallStyle
    functions: Sequence[Function]
    grammar: GrammarSpec | None
    enforced: bool
    single: bool
    named: bool

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
        return _decoded(arguments) if self.style == "mlc" else arguments


def tool_use(body: ChatCompletionRequest, format_: str, style: ToolCallStyle) -> ToolUse | None:
    """What `body` asks for; None if it may not call tools.

    In MLC-LLM's style a request with tools has to call one unless it says otherwise, as its
    programs take for granted. A format of the answer holds for answers without calls. Raises
    InvalidRequest for what cannot be enforced.
    """
    choice, answer = body.tool_choice, body.output_format
    mode = choice.mode if choice is not None else "required" if style == "mlc" else "auto"
    if not body.tools or mode == "none":
        return None
    functions = _functions(body.tools, choice)
    named = choice is not None and choice.named
    # OpenAI makes one call of a named function.
    parallel = body.parallel_tool_calls is not False and not named
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
        grammar=None if source is None else GrammarSpec("lark", source, param="tools"),
        enforced=mode == "required"
        or answer is not None
        or any(function.strict for function in functions),
        single=not parallel,
        named=named,
    )


def _functions(tools: Sequence[Tool], choice: ToolChoice | None) -> list[Function]:
    """The functions that may be called."""
    return [
        Function(
            tool.function.name, tool.function.parameters, bool(tool.function.strict), index=index
        )
        for index, tool in enumerate(tools)
        if choice is None or choice.allows(tool.function.name)
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
        param = f"tools[{strict.index}].function.strict"
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
    """Raises InvalidRequest for the first function that cannot be enforced by itself."""
    for function in tools.functions:
        format_ = enforced_format(tools.format, [function])
        source = required_grammar(format_, [function], parallel=False)
        grammar = GrammarSpec("lark", source, param=f"tools[{function.index}].function.parameters")
        await service.prepare(replace(request, grammar=grammar))


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
        told = whole_calls and (tools.style == "mlc" or not tools.named)
        return "tool_calls" if told else reason


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


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as chat templates expect them: arguments are objects, keys that say nothing are
    absent."""
    return [_template_message(message) for message in messages]


def template_tools(body: ChatCompletionRequest) -> list[Mapping[str, Any]]:
    """The tools as chat templates show them; none if the model must not call any."""
    choice = body.tool_choice
    if choice is not None and choice.mode == "none":
        return []
    allowed = choice.allowed if choice is not None and not choice.named else None
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in body.tools or ()
        if allowed is None or tool.function.name in allowed
    ]


def _template_message(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _template_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    return {
        "id": call.id,
        "type": "function",
        "function": {
            "name": call.function.name,
            "arguments": _decoded(arguments) if isinstance(arguments, str) else arguments,
        },
    }


def _decoded(arguments: str) -> Any:
    """Arguments as an object; as text if a model was cut short when it wrote them."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
