"""Routes of --enable-debug."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from mlc_server.api.response_schemas import responses
from mlc_server.errors import InvalidRequest

router = APIRouter()


@router.post(
    "/debug/dump_event_trace",
    response_model=None,
    summary="The latest requests' events as a Chrome trace",
    responses=responses("Trace", 400, 401),
)
async def dump_event_trace(request: Request) -> Response:
    """JSON that ui.perfetto.dev and chrome://tracing open; needs --enable-tracing too."""
    trace = request.app.state.trace
    if trace is None:
        raise InvalidRequest("tracing is off; start the server with --enable-tracing")
    return Response(trace.to_json(), media_type="application/json")
