"""The FastAPI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse
from starlette.routing import Route

from mlc_server import __version__
from mlc_server.api import chat, completions, debug, embeddings, status, tokens
from mlc_server.api.body import FIELD_HINTS_HEADER, IGNORED_FIELDS_HEADER, IgnoredFields
from mlc_server.api.cors import CorsMiddleware
from mlc_server.api.docs_page import render_docs
from mlc_server.api.errors import install_error_handlers
from mlc_server.api.examples import component_schemas
from mlc_server.api.guard import GuardMiddleware, guarded_hosts
from mlc_server.api.metrics import Metrics
from mlc_server.api.middleware import REQUEST_ID_HEADER, RequestIdMiddleware
from mlc_server.api.response_schemas import RESPONSE_SCHEMAS
from mlc_server.api.service import Service
from mlc_server.api.trace import EventTrace
from mlc_server.settings import ServerSettings


def create_app(settings: ServerSettings, service: Service) -> FastAPI:
    """The ASGI application over `service`, which may still be loading its model.

    Serve it with `BoundedHttpProtocol`: header, deadline and slow-reader limits live there.
    """
    # FastAPI's own pages fetch scripts from a CDN; ours work offline.
    app = FastAPI(title="mlc_server", version=__version__, docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.service = service
    app.state.metrics = Metrics(service)
    app.state.trace = EventTrace() if settings.enable_tracing else None
    app.state.ignored_fields = IgnoredFields()
    # Each is outside those before it: preflights need no key, and refusals carry CORS headers.
    app.add_middleware(GuardMiddleware, keys=settings.api_keys, hosts=guarded_hosts(settings))
    exposed = [REQUEST_ID_HEADER, IGNORED_FIELDS_HEADER, FIELD_HINTS_HEADER, "retry-after"]
    app.add_middleware(CorsMiddleware, settings=settings.cors, expose_headers=exposed)
    app.add_middleware(RequestIdMiddleware)
    install_error_handlers(app)
    # These parse their own bodies and use nothing of what FastAPI does around an endpoint, which
    # takes a third of a short request's time; the routes below describe them.
    app.router.routes += [
        Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
        Route("/v1/completions", completions.completions, methods=["POST"]),
    ]
    # In the order of /docs.
    app.include_router(chat.router)
    app.include_router(completions.router)
    app.include_router(tokens.router)
    app.include_router(embeddings.router)
    app.include_router(status.router)
    if settings.enable_debug:
        app.include_router(debug.router)
    _add_docs(app)
    return app


def _add_docs(app: FastAPI) -> None:
    """/openapi.json with the bodies that routes parse themselves, and /docs, a page made of it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(component_schemas())
            schemas.update(RESPONSE_SCHEMAS)
            _drop_validation_errors(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        model = app.state.service.model
        known = (model.id,) if model is not None else ()
        return HTMLResponse(render_docs(app.openapi(), str(request.base_url).rstrip("/"), *known))


def _drop_validation_errors(schema: dict[str, Any]) -> None:
    """Takes out the 422 that FastAPI believes in: see errors.install_error_handlers()."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
