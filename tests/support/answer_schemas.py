"""Whether an answer is as /openapi.json says."""

from __future__ import annotations

from typing import Any

import jsonschema

from mlc_server.api.response_schemas import RESPONSE_SCHEMAS, ref

_SCHEMAS = {"components": {"schemas": RESPONSE_SCHEMAS}}


def check_answer(answer: Any, name: str) -> None:
    """Raises jsonschema.ValidationError unless `answer` is a `name` of RESPONSE_SCHEMAS."""
    jsonschema.validate(answer, {**ref(name), **_SCHEMAS})
