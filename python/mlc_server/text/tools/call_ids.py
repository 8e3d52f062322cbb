"""Ids of calls as Mistral's templates take them: nine letters and digits, else they refuse."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.text.chat_template import Message

_FITS = re.compile(r"[A-Za-z0-9]{9}")


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """The conversation with ids that fit as they are, and others replaced alike wherever they are:
    a history may come from another model."""
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: Message) -> Message:
    changed: dict[str, Any] = {}
    if message.get("tool_calls"):
        changed["tool_calls"] = [_renamed(call, "id") for call in message["tool_calls"]]
    if "tool_call_id" in message:
        changed = dict(_renamed(message, "tool_call_id"))
    return {**message, **changed}


def _renamed(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    name: str = value[key]
    if _FITS.fullmatch(name):
        return value
    return {**value, key: hashlib.sha256(name.encode()).hexdigest()[:9]}
