"""instructor against the server: typed answers through JSON schemas and through tools."""

from __future__ import annotations

import openai
import pytest
from pydantic import BaseModel

from support.http_server import MODEL_ID, Script, live_server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
instructor = pytest.importorskip("instructor")


class Fruit(BaseModel):
    """A fruit and how many of it."""

    name: str
    count: int


ARGUMENTS = '{"name": "apple", "count": 3}'
CALL = f'<tool_call>\n{{"name": "Fruit", "arguments": {ARGUMENTS}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("mode", "text"), [("JSON_SCHEMA", ARGUMENTS), ("JSON", ARGUMENTS), ("TOOLS", CALL)]
)
def test_typed_answers(mode: str, text: str) -> None:
    with (
        live_server(script=Script(tokens=list(text))) as (server, engine),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as plain,
    ):
        client = instructor.from_openai(plain, mode=instructor.Mode[mode])
        fruit = client.chat.completions.create(
            model=MODEL_ID,
            response_model=Fruit,
            messages=[{"role": "user", "content": "hi"}],
            max_retries=0,
        )
        # The engine was told to let nothing else pass.
        assert engine.requests[-1].grammar is not None
    assert fruit.model_dump() == {"name": "apple", "count": 3}
