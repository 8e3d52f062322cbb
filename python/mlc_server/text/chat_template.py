"""Chat templates: how messages become the one string a model was trained to continue.

`JinjaTemplate` renders the template of a Hugging Face tokenizer_config.json; `MlcTemplate`
(mlc_template.py) renders MLC's conv_template.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import jinja2
from jinja2 import meta

from mlc_server.errors import InvalidRequest, UserError
from mlc_server.text.sandbox import ChatEnvironment
from mlc_server.text.template_options import DEFAULT_OPTIONS, TemplateOptions, cut_after

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]

# What the server itself tells a template, besides the special tokens.
_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
_DEVELOPER_MARK = "a developer message"


class ChatTemplate(Protocol):
    """Renders messages of roles system, user and assistant with text content.

    One that `knows_tools` also shows tools, and takes the calls and results of OpenAI's messages,
    arguments as objects. `source` is its text, which tells how its model writes calls. `variables`
    are those of chat_template_kwargs that it reads.
    """

    @property
    def knows_tools(self) -> bool: ...

    @property
    def source(self) -> str: ...

    @property
    def variables(self) -> frozenset[str]: ...

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        """The prompt, ending where the assistant's answer begins. Raises InvalidRequest."""


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
        self._environment = environment = ChatEnvironment(now)
        self._special_tokens = dict(special_tokens)
        self._source = source if tool_source is None else tool_source
        try:
            self._template = environment.from_string(source)
            self._tool_template = environment.from_string(self._source)
            names = meta.find_undeclared_variables(environment.parse(self._source))
            plain_names = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise UserError(
                "the model's chat template is not valid Jinja",
                seen=str(error),
                hint="give a working one with --chat-template FILE",
            ) from error
        self._knows_tools = "tools" in names
        own = _OWN_VARIABLES | special_tokens.keys() | environment.globals.keys()
        self._variables = frozenset((names | plain_names) - own)
        self._keeps_developer = True
        self._keeps_developer = "developer" in source and self._shows_developer()

    @property
    def knows_tools(self) -> bool:
        return self._knows_tools

    @property
    def source(self) -> str:
        return self._source

    @property
    def variables(self) -> frozenset[str]:
        return self._variables

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        about_tools = tools or any("tool_calls" in message for message in messages)
        template = self._tool_template if about_tools else self._template
        given = options.variables.items()
        try:
            text = self._environment.render_bounded(
                template,
                {
                    "documents": None,
                    **{key: value for key, value in given if key in self._variables},
                    "messages": [self._prepare(message) for message in messages],
                    "tools": list(tools) or None,
                    "add_generation_prompt": options.add_generation_prompt,
                    "continue_final_message": options.continue_final,
                    **self._special_tokens,
                },
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
        return cut_after(text, messages[-1]["content"]) if options.continue_final else text

    def _shows_developer(self) -> bool:
        """Whether a developer message reaches the prompt of a template that names the role."""
        messages = [
            {"role": "developer", "content": _DEVELOPER_MARK},
            {"role": "user", "content": "?"},
        ]
        try:
            return _DEVELOPER_MARK in self.render(messages)
        except InvalidRequest:
            return False

    def _prepare(self, message: Message) -> dict[str, Any]:
        """Templates that do not know `developer` see `system`."""
        prepared = dict(message)
        if prepared["role"] == "developer" and not self._keeps_developer:
            prepared["role"] = "system"
        return prepared
