"""Every failure of a request as OpenAI's error object, without paths or tracebacks."""

from __future__ import annotations

import logging
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlc_server.api.middleware import REQUEST_ID_HEADER
from mlc_server.errors import InvalidApiKey, QueueFull, RequestError, RequestTooLarge
from mlc_server.limits import RETRY_AFTER_S
from mlc_server.protocol.error_body import error_body, error_json
from mlc_server.protocol.excerpt import printable

logger = logging.getLogger(__name__)


def install_error_handlers(app: FastAPI) -> None:
    """Replaces FastAPI's handlers, whose bodies are of another shape and answer 422."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def error_response(error: RequestError) -> Response:
    """The response of a refused or failed request."""
    headers = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(error.retry_after_s)
    elif error.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S.default)
    elif isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = "Bearer"
    elif isinstance(error, RequestTooLarge):
        headers["connection"] = "close"  # the rest of the body is not read
    return _json(error.status, error_json(error), headers)


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status_code=status, media_type="application/json", headers=headers)


async def _on_request_error(request: Request, error: Exception) -> Response:
    return error_response(cast(RequestError, error))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """A query or path parameter of the wrong type; bodies are checked by protocol.parsing."""
    return _json(400, error_body("a parameter is not valid", "invalid_request_error"))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    http_error = cast(HTTPException, error)
    route = f"{request.method} {printable(request.url.path)}"
    if http_error.status_code == 404:
        body = error_body(f"{route} is no route; /docs lists them", "not_found_error")
    elif http_error.status_code == 405:
        body = error_body(f"{route} is not allowed; /docs lists methods", "invalid_request_error")
    else:
        body = error_body(str(http_error.detail), "invalid_request_error")
    return _json(http_error.status_code, body, dict(http_error.headers or {}))


async def _on_bug(request: Request, error: Exception) -> Response:
    """An exception nobody expected: logged in full by the server, told to the client as its id."""
    request_id = str(getattr(request.state, "request_id", "unknown"))
    logger.error("request %s failed: %s", request_id, type(error).__name__)
    body = error_body(f"internal error; the server's log has request {request_id}", "server_error")
    return _json(500, body, {REQUEST_ID_HEADER: request_id})
