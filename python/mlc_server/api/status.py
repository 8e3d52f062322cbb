"""GET routes that say what is served and whether it is well."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from mlc_server import __version__
from mlc_server.api.metrics import CONTENT_TYPE
from mlc_server.api.response_schemas import responses, text_responses
from mlc_server.api.service import ServedModel, Service, normal_name, not_served

router = APIRouter()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get(
    "/v1/models",
    response_model=None,
    summary="List the models served",
    responses=responses("ModelList", 401, 503),
)
async def list_models(request: Request) -> dict[str, Any]:
    """The loaded model under each of its names; 503 while it is loading."""
    model = _service(request).served()
    return {"object": "list", "data": [_model_card(model, name) for name in model.ids]}


@router.get(
    "/v1/models/{model_id:path}",
    response_model=None,
    summary="One model",
    responses=responses("Model", 401, 404, 503),
)
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """A model by one of its names or by the path it was loaded from."""
    model = _service(request).served()
    if normal_name(model_id) not in model.names:
        raise not_served(model, model_id)
    return _model_card(model, model.shown_as(model_id))


@router.get(
    "/health",
    response_model=None,
    summary="Whether requests are being served",
    responses=responses("Status", 503),
)
async def health(request: Request) -> dict[str, str]:
    """200 when ready; 503 while loading, draining, stalled or dead."""
    _service(request).check_health()
    return {"status": "ok"}


@router.get(
    "/ready",
    response_model=None,
    summary="Whether new requests are welcome",
    responses=responses("Status", 503),
)
async def ready(request: Request) -> dict[str, str]:
    """As /health: 200 when ready; 503 while loading, draining, stalled or dead."""
    _service(request).check_health()
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    summary="Counters, gauges and histograms for Prometheus",
    responses=text_responses("Prometheus' text format", 401),
)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format, under names of our own and under vLLM's."""
    text = request.app.state.metrics.render()
    return Response(text, media_type=CONTENT_TYPE)


@router.get(
    "/version",
    response_model=None,
    summary="The server's version",
    responses=responses("Version", 401),
)
async def version() -> dict[str, str]:
    """The version of this package."""
    return {"version": __version__}


def _model_card(model: ServedModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "mlc_server",
        "root": model.id,
        "parent": None,
        "max_model_len": model.context_window_size,
    }
