"""The error object is small and plain whatever is put into it."""

from __future__ import annotations

import json

import pytest

from mlc_server import limits
from mlc_server.protocol.error_body import error_body


@pytest.mark.parametrize(
    "text", ["x", "é", "\N{GRINNING FACE}", '"', "\\", "\x1b", "\ud800", "\\ud83d"], ids=ascii
)
def test_an_error_is_at_most_a_kibibyte_of_printable_text(text: str) -> None:
    for count in (0, 1, 100, 128, 300, 5000):
        for param in (None, text * count):
            body = error_body("so: " + text * count, "invalid_request_error", param, "a_code")
            assert len(body) <= limits.MAX_ERROR_BYTES.default
            error = json.loads(body)["error"]
            assert error["message"].startswith("so: ")
            assert error["message"].isprintable()
            assert (error["param"] is None) == (param is None)
            assert error["code"] == "a_code"


def test_a_short_message_is_kept_whole() -> None:
    message = "temperature: must be at most 2; got 3"
    error = json.loads(error_body(message, "invalid_request_error", "temperature"))["error"]
    assert error == {
        "message": message,
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }
