"""What order of messages a chat template takes, and conversations put into it.

Some templates have no system role (Gemma 2) or insist that user and assistant take turns (Llama 2,
Mistral). Clients do not know: they send instructions first, and two messages of one role in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_server.errors import InvalidRequest
from mlc_server.text.chat_template import ChatTemplate, Message

_SYSTEM_ROLES = ("system", "developer")
_MERGED_ROLES = ("user", "assistant")
_MARK = "a text to look for"
_MARKS = ("first question", "second question", "first answer", "second answer", "last question")


@dataclass(frozen=True)
class TurnRules:
    """`has_system`: system messages reach the prompt; for other templates they become part of the
    next user message. `repeats`: a role may speak twice in a row; for other templates such messages
    become one."""

    has_system: bool = True
    repeats: bool = True

    @classmethod
    def of(cls, template: ChatTemplate) -> TurnRules:
        """Found by looking at what a template makes of some messages."""
        turns = [_message(role, _MARK) for role in ("user", "assistant", "user")]
        roles = ("user", "user", "assistant", "assistant", "user")
        repeated = [_message(*pair) for pair in zip(roles, _MARKS, strict=True)]
        return cls(
            has_system=_shows(template, [_message("system", _MARK), _message("user", "?")], _MARK),
            repeats=_shows(template, repeated, *_MARKS) or not _shows(template, turns, _MARK),
        )

    def applied(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The conversation as these rules have it."""
        if not self.has_system:
            messages = _without_system(messages)
        return messages if self.repeats else _without_repeats(messages)


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _shows(template: ChatTemplate, messages: Sequence[Message], *marks: str) -> bool:
    try:
        text = template.render(messages)
    except InvalidRequest:
        return False
    return all(mark in text for mark in marks)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """System messages become the head of the user message that follows them, if one does."""
    plain: list[Message] = []
    held: list[str] = []
    for message in messages:
        if message["role"] in _SYSTEM_ROLES:
            held.append(message["content"])
        elif held and message["role"] == "user":
            plain.append({**message, "content": _joined(*held, message["content"])})
            held.clear()
        else:
            plain.append(message)
    if held:
        plain.append(_message("user", _joined(*held)))
    return plain


def _without_repeats(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role made one; an assistant's calls come after all of its text."""
    plain: list[Message] = []
    for message in messages:
        last: Mapping[str, Any] = plain[-1] if plain else {}
        goes_on = message["role"] in _MERGED_ROLES and message["role"] == last.get("role")
        if goes_on and not last.get("tool_calls"):
            content = _joined(last["content"], message["content"])
            plain[-1] = {**last, **message, "content": content}
        else:
            plain.append(message)
    return plain


def _joined(*texts: str | None) -> str:
    return "\n\n".join(filter(None, texts))
