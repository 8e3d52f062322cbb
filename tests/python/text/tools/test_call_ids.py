"""Ids of calls for templates that take nine letters and digits only."""

from __future__ import annotations

import re
from typing import Any

from mlc_server.text.tools.call_ids import with_short_ids


def history(id_: str) -> list[dict[str, Any]]:
    call = {"id": id_, "type": "function", "function": {"name": "f", "arguments": {}}}
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call, {**call, "id": "other-call"}]},
        {"role": "tool", "tool_call_id": id_, "content": "y"},
    ]


def test_ids_that_fit_stay() -> None:
    user, calling, result = with_short_ids(history("abcDEF123"))
    assert user == history("")[0]
    assert calling["tool_calls"][0]["id"] == result["tool_call_id"] == "abcDEF123"


def test_others_become_short_and_still_match() -> None:
    for id_ in ("call_0123456789abcdef", "1", "abcDEF12é", "abcDEF123\n"):
        messages = history(id_)
        _, calling, result = with_short_ids(messages)
        ids = [call["id"] for call in calling["tool_calls"]]
        assert ids[0] == result["tool_call_id"] != ids[1]
        assert all(re.fullmatch(r"[A-Za-z0-9]{9}", short) for short in ids)
        assert messages == history(id_)
