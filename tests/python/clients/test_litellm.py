"""litellm against the server: whole and streamed answers, errors by kind."""

from __future__ import annotations

from typing import Any

import pytest

from support.http_server import MODEL_ID, FakeEngine, LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
litellm = pytest.importorskip("litellm")

Server = tuple[LiveServer, FakeEngine]


def ask(server: Server, **fields: Any) -> Any:
    return litellm.completion(
        model=f"openai/{fields.pop('model', MODEL_ID)}",
        messages=[{"role": "user", "content": "hi"}],
        api_base=f"{server[0].url}/v1",
        api_key="none",
        max_retries=0,
        **fields,
    )


def test_whole_answer(server: Server) -> None:
    answer = ask(server, temperature=0.5, max_tokens=9)
    assert answer.choices[0].message.content == "An apple a day"
    assert answer.usage.completion_tokens == 5
    assert server[1].requests[-1].sampling.temperature == 0.5


def test_streamed_answer_with_usage(server: Server) -> None:
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "An apple a day"
    assert chunks[-1].usage.completion_tokens == 5


def test_errors_are_told_apart(server: Server) -> None:
    with pytest.raises(litellm.NotFoundError):
        ask(server, model="other")
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(server, temperature=3)
