"""Turns a conversation into the prompt's token ids, and knows what ends the model's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlc_server.errors import FormatError, UserError
from mlc_server.limits import ENCODE_INLINE_CHARACTERS, MAX_INLINE_MESSAGES
from mlc_server.text.chat_template import ChatTemplate, JinjaTemplate, Message
from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.mlc_template import MlcTemplate
from mlc_server.text.template_options import DEFAULT_OPTIONS, TemplateOptions
from mlc_server.text.tokenizer import Tokenizer
from mlc_server.text.tools.call_ids import with_short_ids
from mlc_server.text.tools.conversation import in_text
from mlc_server.text.tools.single_calls import one_call_at_a_time, shows_parallel_calls
from mlc_server.text.tools.support import AUTO, ToolSupport, choose_format
from mlc_server.text.turns import TurnRules
from mlc_server.text.workers import apart

MLC_TEMPLATE = "mlc"
_SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class StopRules:
    """What ends the answer besides the request's own stops."""

    token_ids: tuple[int, ...]
    strings: tuple[str, ...]


@dataclass(frozen=True)
class PromptBuilder:
    """A model's template and tokenizer. `prefix_ids` come before every prompt (MLC's BOS). `fill`
    is how the model is asked for the middle of a text, None if it cannot be."""

    template: ChatTemplate
    tokenizer: Tokenizer
    prefix_ids: tuple[int, ...]
    stop: StopRules
    tools: ToolSupport = field(default_factory=ToolSupport)
    turns: TurnRules = field(default_factory=TurnRules)
    fill: FillInMiddle | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        chat_config: Mapping[str, Any],
        *,
        chat_template: str | None = None,
        tool_format: str = AUTO,
    ) -> PromptBuilder:
        """Reads a model folder.

        `chat_config` is its mlc-chat-config.json. `chat_template` is None for the folder's own (the
        Jinja template of its tokenizer, else MLC's), "mlc" for MLC's, or a file with a Jinja one.
        `tool_format` is how the model writes tool calls, if not as its template has it.
        """
        tokenizer = Tokenizer.from_folder(folder)
        token_config = _read_json(folder / "tokenizer_config.json")
        conversation = chat_config.get("conv_template") or {}
        if not isinstance(conversation, Mapping):
            raise FormatError(
                "mlc-chat-config.json: conv_template must be an object",
                seen=repr(conversation)[:200],
                hint="generate the file again with gen_config",
            )
        source = tool_source = None
        if chat_template != MLC_TEMPLATE:
            source, tool_source = _template_sources(folder, token_config, chat_template)
        template: ChatTemplate
        prefix_ids: tuple[int, ...] = ()
        if source is not None:
            tokens = _special_tokens(token_config)
            template = JinjaTemplate(source, tokens, tool_source=tool_source)
        elif conversation:
            template = MlcTemplate(conversation)
            prefix_ids = tuple(conversation.get("system_prefix_token_ids") or ())
        else:
            raise FormatError(
                f"{folder} has no chat template",
                seen="no chat_template in tokenizer_config.json, no conv_template",
                hint="give one with --chat-template FILE",
            )
        stop = _stop_rules(tokenizer, token_config, chat_config, conversation)
        native = template.knows_tools
        tools = ToolSupport(
            format=choose_format(template.source, native=native, wanted=tool_format),
            native=native,
            parallel=not native or shows_parallel_calls(template),
        )
        return cls(
            template=template,
            tokenizer=tokenizer,
            prefix_ids=prefix_ids,
            stop=stop,
            tools=tools,
            turns=TurnRules.of(template),
            fill=FillInMiddle.find(tokenizer, token_config),
        )

    def build(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
        most: int | None = None,
    ) -> list[int]:
        """Token ids of the prompt: see render(), and Tokenizer.encode() for `most`."""
        text = self.render(messages, tools, options)
        return [*self.prefix_ids, *self.tokenizer.encode(text, most=most)]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        """The prompt's text; raises InvalidRequest for messages the template refuses.

        `tools` and the calls in `messages` are OpenAI's objects, arguments as objects too.
        """
        if not self.tools.native:
            messages = in_text(messages, tools)
            tools = ()
        else:
            if not self.tools.parallel:
                messages = one_call_at_a_time(messages)
            if self.tools.format == "mistral":
                messages = with_short_ids(messages)
        return self.template.render(self.turns.applied(messages), tools, options)

    async def build_async(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
        most: int | None = None,
    ) -> list[int]:
        """`build`, with a long text in a worker thread so that other streams keep flowing."""
        if not tools and not options.variables and _are_short(messages):
            return self.build(messages, (), options, most)
        return await apart(self.build, messages, tools, options, most)


def _are_short(messages: Sequence[Message]) -> bool:
    """Whether messages can be rendered and tokenised in no time; those with calls are not asked."""
    if len(messages) > MAX_INLINE_MESSAGES.default:
        return False
    characters = sum(len(message["content"] or "") for message in messages)
    plain = not any("tool_calls" in message for message in messages)
    return plain and characters <= ENCODE_INLINE_CHARACTERS.default


def _template_sources(
    folder: Path, token_config: Mapping[str, Any], chosen: str | None
) -> tuple[str | None, str | None]:
    """The chat template, and the one for conversations with tools if it is another."""
    if chosen is not None:
        return _read_text(Path(chosen)), None
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return _read_text(beside), None
    source, tool_source = token_config.get("chat_template"), None
    if isinstance(source, list):  # named templates; "default" is the one for plain chats
        named = {entry.get("name"): entry.get("template") for entry in source}
        source, tool_source = named.get("default"), named.get("tool_use")
    return (
        source if isinstance(source, str) else None,
        tool_source if isinstance(tool_source, str) else None,
    )


def _special_tokens(token_config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and the like, which tokenizer_config.json writes as text or as an object."""
    tokens: dict[str, str] = {}
    for key in _SPECIAL_TOKEN_KEYS:
        value = token_config.get(key)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            tokens[key] = text
    return tokens


def _stop_rules(
    tokenizer: Tokenizer,
    token_config: Mapping[str, Any],
    chat_config: Mapping[str, Any],
    conversation: Mapping[str, Any],
) -> StopRules:
    """The union of what the folder's files say.

    Published conv_templates name ordinary words as stop ids, so theirs count only if special. A
    stop string that is one special token becomes an id, since special tokens never reach the text.
    """
    ids = set(_id_list(chat_config.get("eos_token_id")))
    ids.update(i for i in _id_list(conversation.get("stop_token_ids")) if tokenizer.is_special(i))
    eos = tokenizer.special_id(_special_tokens(token_config).get("eos_token", ""))
    if eos is not None:
        ids.add(eos)
    strings = []
    for text in conversation.get("stop_str") or ():
        token_id = tokenizer.special_id(text)
        if token_id is not None:
            ids.add(token_id)
        elif text:
            strings.append(text)
    return StopRules(token_ids=tuple(sorted(ids)), strings=tuple(strings))


def _id_list(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{path} is not valid JSON",
            seen=f"{error.msg} at line {error.lineno}",
            hint="copy the file from the original model again",
        ) from error
    return value if isinstance(value, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read", seen=str(error), hint="give a readable text file"
        ) from error
