"""Reading request bodies: bounded, validated, with a word about fields that are ignored."""

from __future__ import annotations

import logging
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from mlc_server.api.middleware import add_to_header
from mlc_server.errors import ClientLeft, RequestTooLarge
from mlc_server.protocol.parsing import parse_request

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)

# "temprature, foo": fields of the body that nothing here acts on.
IGNORED_FIELDS_HEADER = "x-ignored-fields"
# "temprature=temperature": the known field that an ignored one may have been meant to be.
FIELD_HINTS_HEADER = "x-field-hints"
# Different field names that the log tells of; a client that invents more is not worth the lines.
_MAX_LOGGED = 256


class IgnoredFields:
    """Tells of each ignored field once in the log, and in the headers of every response."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def tell(self, request: Request, ignored: dict[str, str | None]) -> None:
        """`ignored`: path to the nearest known name."""
        hints = [f"{path}={near}" for path, near in ignored.items() if near is not None]
        add_to_header(request, IGNORED_FIELDS_HEADER, list(ignored))
        add_to_header(request, FIELD_HINTS_HEADER, hints)
        for path, near in ignored.items():
            if path not in self._logged and len(self._logged) < _MAX_LOGGED:
                self._logged.add(path)
                meant = f"; did you mean {near}?" if near is not None else ""
                logger.warning("field %s of %s is ignored%s", path, request.url.path, meant)


async def read_request(request: Request, model: type[Model]) -> Model:
    """The validated body; raises InvalidRequest or RequestTooLarge."""
    content = await read_body(request, request.app.state.settings.max_body_size)
    ignored: dict[str, str | None] = {}
    try:
        return parse_request(content, model, ignored.__setitem__)
    finally:
        request.app.state.ignored_fields.tell(request, ignored)


async def read_body(request: Request, size_max: int) -> bytes:
    """The request's body; raises RequestTooLarge as soon as it is known to exceed `size_max`, and
    ClientLeft."""
    stated = request.headers.get("content-length", "")
    content = bytearray()
    if not (stated.isdigit() and int(stated[:20]) > size_max):
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > size_max:
                    break
            else:
                return bytes(content)
        except ClientDisconnect:
            raise ClientLeft("the client left before its body was complete") from None
    seen = f"{stated[:20]} bytes" if stated else "more"
    raise RequestTooLarge(f"body: must have at most {size_max} bytes; got {seen}")
