"""MLC's conv_template (mlc-chat-config.json): prompts from fixed strings around each message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.errors import FormatError, InvalidRequest
from mlc_server.text.chat_template import Message
from mlc_server.text.template_options import DEFAULT_OPTIONS, TemplateOptions, cut_after

_THINK_END = "</think>"


class MlcTemplate:
    """Renders messages with a conv_template.

    system_template with the system message in it; then for each message
    role + role_content_sep + role_template(text) + separator; then the assistant's role and
    role_empty_sep.
    """

    def __init__(self, template: Mapping[str, Any]) -> None:
        """`template` is the conv_template object; raises FormatError naming a broken field."""
        self._system_template = _string(template, "system_template", "{system_message}")
        self._system_message = _string(template, "system_message", "")
        self._role_content_sep = _string(template, "role_content_sep", "")
        self._role_empty_sep = _string(template, "role_empty_sep", "")
        self._roles = _strings(template, "roles")
        self._role_templates = _strings(template, "role_templates")
        self._separators = template.get("seps") or [""]
        if not isinstance(self._separators, list) or not all(
            isinstance(separator, str) for separator in self._separators
        ):
            raise _broken("seps", self._separators, "must be a list of strings")
        if "user" not in self._roles or "assistant" not in self._roles:
            raise _broken("roles", sorted(self._roles), "must have user and assistant")
        # null is the same as true in folders MLC wrote.
        self._role_after_system = template.get("add_role_after_system_message") is not False
        self._strips_reasoning = bool(template.get("strip_reasoning_in_history"))
        self._opening = _opening_messages(template)

    @property
    def knows_tools(self) -> bool:
        return False

    @property
    def source(self) -> str:
        return ""

    @property
    def variables(self) -> frozenset[str]:
        return frozenset()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        options: TemplateOptions = DEFAULT_OPTIONS,
    ) -> str:
        assert not tools
        system = self._system_message
        turns = list(self._opening)
        for index, message in enumerate(messages):
            role, content = message["role"], message["content"] or ""
            if role in ("system", "developer"):
                if index > 0:
                    raise InvalidRequest(
                        f"messages[{index}].role: the model's template takes a {role} message "
                        "only as the first one",
                        param=f"messages[{index}].role",
                    )
                system = content
            else:
                turns.append((role, content))
        system_text = self._system_template.replace("{system_message}", system)
        last_user = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
        parts = [system_text]
        for index, (role, content) in enumerate(turns):
            with_role = index > 0 or self._role_after_system or not system_text
            parts.append(self._turn(role, content, with_role, in_history=index < last_user))
        if options.add_generation_prompt:
            parts.append(self._roles["assistant"] + self._role_empty_sep)
        text = "".join(parts)
        return cut_after(text, messages[-1]["content"]) if options.continue_final else text

    def _turn(self, role: str, content: str, with_role: bool, *, in_history: bool) -> str:
        name = self._roles.get(role)
        if name is None:
            raise InvalidRequest(
                f"messages: the model's template has no role {role}; "
                f"it has {', '.join(sorted(self._roles))}",
                param="messages",
            )
        if self._strips_reasoning and in_history and role == "assistant" and _THINK_END in content:
            content = content.rpartition(_THINK_END)[2].lstrip("\n")
        template = self._role_templates.get(role, f"{{{role}_message}}")
        text = template.replace("{function_string}", "").replace(f"{{{role}_message}}", content)
        prefix = name + self._role_content_sep if with_role else ""
        last = role == "assistant" and len(self._separators) > 1
        separator: str = self._separators[1 if last else 0]
        return prefix + text + separator


def _opening_messages(template: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The turns a template puts before the client's, as (role, text)."""
    opening = template.get("messages") or []
    pairs = isinstance(opening, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(x, str) for x in turn)
        for turn in opening
    )
    if not pairs:
        raise _broken("messages", opening, "must be a list of [role, text]")
    return [(role, text) for role, text in opening]


def _string(template: Mapping[str, Any], key: str, default: str) -> str:
    value = template.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _broken(key, value, "must be a string")
    return value


def _strings(template: Mapping[str, Any], key: str) -> dict[str, str]:
    value = template.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _broken(key, value, "must be an object of strings")
    return value


def _broken(key: str, value: object, problem: str) -> FormatError:
    return FormatError(
        f"mlc-chat-config.json: conv_template.{key} {problem}",
        seen=repr(value)[:200],
        hint="correct the file, or generate it again with gen_config",
    )
