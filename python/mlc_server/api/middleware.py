"""Pure ASGI middleware: one request id per request, in the scope and in the response, the headers
that routes add whatever the response is, and a log line for requests that nothing else logs."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlc_server.protocol.excerpt import printable

logger = logging.getLogger("mlc_server.requests")

REQUEST_ID_HEADER = "x-request-id"
# What a client may choose as its id: safe in logs and headers.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/@+=-]{1,128}")
# Asked for every few seconds, and of no interest while they answer as they should.
_POLLED_PATHS = frozenset({"/health", "/ready", "/metrics"})


class RequestIdMiddleware:
    """Puts `request_id` into scope["state"]: the client's own x-request-id if acceptable, else a
    new one. Every response carries it.

    A request that ends without anybody having set `is_logged` there gets its log line here.
    """

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
        state["is_logged"] = False
        status = 500  # of a bug, which is answered further out
        begin_s = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                for name, value in extra.items():
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if not state["is_logged"]:
                _log(scope, request_id, status, time.perf_counter() - begin_s)


def _log(scope: Scope, request_id: str, status: int, total_s: float) -> None:
    method, path = printable(scope["method"], 16), printable(scope["path"])
    is_poll = scope["path"] in _POLLED_PATHS and status == 200
    fields = {
        "request": request_id,
        "status": status,
        "method": method,
        "route": path,
        "total_ms": round(total_s * 1e3),
    }
    logger.log(
        logging.DEBUG if is_poll else logging.INFO,
        "%s %d %s %s total=%.0fms",
        request_id,
        status,
        method,
        path,
        total_s * 1e3,
        extra={"fields": fields},
    )


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
