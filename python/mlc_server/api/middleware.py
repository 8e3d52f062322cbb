"""Pure ASGI middleware: one request id per request, in the scope and in the response, and the
headers that routes add whatever the response is."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER = "x-request-id"
# What a client may choose as its id: safe in logs and headers.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/@+=-]{1,128}")


class RequestIdMiddleware:
    """Puts `request_id` into scope["state"]: the client's own x-request-id if acceptable, else a
    new one. Every response carries it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _client_id(scope) or f"req-{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        extra: dict[str, str] = {}
        state["response_headers"] = extra

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                for name, value in extra.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_id)


def add_header(request: Request, name: str, value: str) -> None:
    """A header for the response to `request`, be it an answer, a stream or an error."""
    request.state.response_headers[name] = value


def add_to_header(request: Request, name: str, values: Sequence[str]) -> None:
    """More values of a header that is a list."""
    if values:
        known = request.state.response_headers.get(name)
        add_header(request, name, ", ".join([*([known] if known else []), *values]))


def _client_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _ACCEPTED_ID.fullmatch(text) else None
    return None
