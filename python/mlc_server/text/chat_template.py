"""Chat templates: how messages become the one string a model was trained to continue.

`JinjaTemplate` renders the template of a Hugging Face tokenizer_config.json, in a sandbox, with the
helpers templates expect; `MlcTemplate` (mlc_template.py) renders MLC's conv_template.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import jinja2
import jinja2.ext
from jinja2 import meta, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlc_server.errors import InvalidRequest, UserError
from mlc_server.limits import MAX_RENDERED_CHARACTERS
from mlc_server.text.template_options import DEFAULT_OPTIONS, TemplateOptions, cut_after

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]


class ChatTemplate(Protocol):
    """Renders messages of roles system, user and assistant with text content.

    One that `knows_tools` also shows tools, and takes the calls and results of OpenAI's messages,
    arguments as objects. `source` is its text, which tells how its model writes calls.
    """

    @property
    def knows_tools(self) -> bool: ...

    @property
    def source(self) -> str: ...

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        """The prompt, ending where the assistant's answer begins. Raises InvalidRequest."""


def has_system(template: ChatTemplate) -> bool:
    """Whether a system message reaches the prompt; some templates refuse or drop it."""
    mark = "a system message"
    messages = [{"role": "system", "content": mark}, {"role": "user", "content": "?"}]
    try:
        return mark in template.render(messages)
    except InvalidRequest:
        return False


class JinjaTemplate:
    """A Jinja chat template, rendered as Hugging Face does."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        *,
        now: Callable[[], datetime] = datetime.now,
        tool_source: str | None = None,
    ) -> None:
        """`special_tokens`: bos_token, eos_token, ... as the template may name them. `now` is what
        strftime_now formats. `tool_source` is the template of conversations with tools where a
        model has one of its own. Raises UserError for a template that does not parse."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _GenerationBlock],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        self._special_tokens = dict(special_tokens)
        self._keeps_developer = "developer" in source
        self._source = source if tool_source is None else tool_source
        try:
            self._template = environment.from_string(source)
            self._tool_template = environment.from_string(self._source)
            names = meta.find_undeclared_variables(environment.parse(self._source))
        except jinja2.TemplateError as error:
            raise UserError(
                "the model's chat template is not valid Jinja",
                seen=str(error),
                hint="give a working one with --chat-template FILE",
            ) from error
        self._knows_tools = "tools" in names

    @property
    def knows_tools(self) -> bool:
        return self._knows_tools

    @property
    def source(self) -> str:
        return self._source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        about_tools = tools or any("tool_calls" in message for message in messages)
        template = self._tool_template if about_tools else self._template
        try:
            text = template.render(
                {
                    "documents": None,
                    **options.variables,
                    "messages": [self._prepare(message) for message in messages],
                    "tools": list(tools) or None,
                    "add_generation_prompt": options.add_generation_prompt,
                    "continue_final_message": options.continue_final,
                    **self._special_tokens,
                }
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from error
        except Exception as error:  # the template is foreign code and may fail in any way
            logger.warning("chat template failed: %s: %s", type(error).__name__, error)
            raise InvalidRequest(
                f"messages: the model's chat template fails on them ({type(error).__name__})",
                param="messages",
            ) from error
        if len(text) > MAX_RENDERED_CHARACTERS.default:
            raise InvalidRequest(
                f"messages: render to {len(text)} characters; "
                f"at most {MAX_RENDERED_CHARACTERS.default} are allowed",
                param="messages",
            )
        return cut_after(text, messages[-1]["content"]) if options.continue_final else text

    def _prepare(self, message: Message) -> dict[str, Any]:
        """Templates that do not know `developer` see `system`."""
        prepared = dict(message)
        if prepared["role"] == "developer" and not self._keeps_developer:
            prepared["role"] = "system"
        return prepared


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
