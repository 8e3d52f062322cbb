"""OpenAI's error object: {"error": {"message", "type", "param", "code"}}, all four present."""

from __future__ import annotations

import orjson

from mlc_server.errors import RequestError
from mlc_server.limits import MAX_ERROR_BYTES, MAX_ERROR_TEXT
from mlc_server.protocol.excerpt import printable


def error_json(error: RequestError) -> bytes:
    """Body of an error response. Text is bounded and printable."""
    return error_body(error.message, error.type, error.param, error.code)


def error_body(
    message: str, type_: str, param: str | None = None, code: str | None = None
) -> bytes:
    """The error object of anything that has no RequestError, such as an unknown route."""
    text = printable(message, MAX_ERROR_TEXT.default)
    field = None if param is None else printable(param)
    while True:
        error = {"message": text, "type": type_, "param": field, "code": code}
        body = orjson.dumps({"error": error})
        excess = len(body) - MAX_ERROR_BYTES.default
        if excess <= 0 or not text:
            return body
        text = text[: -((excess + 3) // 4)]  # a character has at most four bytes


def error_event(error: RequestError) -> bytes:
    """A failure after the first byte, as a server-sent event."""
    return b"data: " + error_json(error) + b"\n\n"
