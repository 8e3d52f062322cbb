"""A hostile request as bytes for a socket, and how its sender behaves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Say something about apples."}]


@dataclass(frozen=True)
class Hostile:
    """What is sent, and when the sender leaves."""

    data: bytes
    # Sent a moment after `data`, as by a slow client.
    rest: bytes = b""
    # The sender leaves after so many bytes of the answer; None is after all of it.
    leave_after: int | None = None
    # It leaves with a reset in place of a proper end.
    resets: bool = False
    # Whether every answer has to be a refusal; otherwise it may be one.
    refused: bool = False


Family = Callable[[random.Random], Hostile]


def http(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    close: bool = True,
) -> bytes:
    """A well-framed HTTP/1.1 request; `headers` replace those of the same name."""
    fields = {"host": "localhost", "content-type": "application/json"}
    if body:
        fields["content-length"] = str(len(body))
    if close:
        fields["connection"] = "close"
    fields.update(headers)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def as_json(value: Any) -> bytes:
    """JSON as Python writes it: NaN, Infinity and lone surrogates included."""
    return json.dumps(value).encode()


def post(path: str, body: bytes | dict[str, Any], *, refused: bool = False) -> Hostile:
    """A POST whose answer is read to its end."""
    content = body if isinstance(body, bytes) else as_json(body)
    return Hostile(http("POST", path, content), refused=refused)


def chat(refused: bool = False, **fields: Any) -> Hostile:
    """A chat of at most four tokens with the fields given."""
    return post(CHAT, chat_body(**fields), refused=refused)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "max_tokens": 4, **fields}


def generating_body(chance: random.Random, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Route and body of a chat or a completion that would be answered but for `fields`."""
    if chance.random() < 0.5:
        return CHAT, chat_body(**fields)
    return COMPLETIONS, {"prompt": "Once upon", "max_tokens": 4, **fields}
