"""Cross-origin rules: Starlette's, refusing in the shape of every other error."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from mlc_server.protocol.error_body import error_body
from mlc_server.settings import CorsSettings


class CorsMiddleware(CORSMiddleware):
    """Answers preflights, and lets browsers read answers and `expose_headers`."""

    def __init__(
        self, app: ASGIApp, *, settings: CorsSettings, expose_headers: Sequence[str]
    ) -> None:
        super().__init__(
            app,
            allow_origins=settings.allowed_origins,
            allow_methods=settings.allowed_methods,
            allow_headers=settings.allowed_headers,
            allow_credentials=settings.allow_credentials,
            expose_headers=expose_headers,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "content-type")
        }
        what = bytes(response.body).decode()  # "Disallowed CORS origin, method"
        body = error_body(f"{what}; see the server's --allowed flags", "invalid_request_error")
        return Response(body, response.status_code, headers, "application/json")
