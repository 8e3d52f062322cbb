"""POST /v1/embeddings, which no model served here can answer."""

from __future__ import annotations

from fastapi import APIRouter, Request

from mlc_server.api.body import read_request
from mlc_server.api.examples import EMBEDDING_REQUEST_BODY
from mlc_server.api.response_schemas import READING, errors
from mlc_server.api.service import Service
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.token_requests import EmbeddingRequest

router = APIRouter()


@router.post(
    "/v1/embeddings",
    response_model=None,
    status_code=400,
    summary="Refused: no embedding model is served",
    openapi_extra=EMBEDDING_REQUEST_BODY,
    responses=errors(*READING),
)
async def embeddings(request: Request) -> None:
    """Always 400, in a form that clients understand."""
    service: Service = request.app.state.service
    service.served()
    body = await read_request(request, EmbeddingRequest)
    model = service.model_for(body.model)
    raise InvalidRequest(
        f"model {show(model.id)} generates text and is not an embedding model",
        param="model",
        code="unsupported_model",
    )
