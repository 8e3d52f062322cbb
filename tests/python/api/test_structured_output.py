"""response_format and structured_outputs over HTTP, on the compiled engine and its FakeRunner."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
import requests

from mlc_server.engine import AsyncEngine
from mlc_server.settings import ServerSettings
from support.fake_server import fake_core, fake_grammars
from support.http_server import LiveServer, chat_body

PERSON = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "Bob"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    live = LiveServer(ServerSettings())
    live.start()
    engine = AsyncEngine(fake_core(), fake_grammars())
    try:
        live.on_loop(engine.start)
        live.set_ready(engine)
        yield live
    finally:
        live.on_loop(engine.close)
        live.stop()


def post(server: LiveServer, **fields: Any) -> requests.Response:
    return requests.post(
        f"{server.url}/v1/chat/completions",
        json=chat_body(**{"max_tokens": 200, **fields}),
        timeout=30,
    )


def texts(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    assert {choice["finish_reason"] for choice in choices} == {"stop"}
    return [choice["message"]["content"] for choice in choices]


def named(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **fields}}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": named(PERSON)},
        {"response_format": named(PERSON, strict=True, description="a person")},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"response_format": {"type": "json_object", "schema": json.dumps(PERSON)}},
        {"structured_outputs": {"json": PERSON}},
        {"structured_outputs": {"json": json.dumps(PERSON)}},
    ],
)
def test_every_way_to_ask_for_a_schema_is_followed(
    server: LiveServer, fields: dict[str, Any]
) -> None:
    for text in texts(post(server, n=4, **fields)):
        jsonschema.validate(json.loads(text), PERSON)


def test_a_json_object_is_one(server: LiveServer) -> None:
    answer = post(
        server, response_format={"type": "json_object"}, n=8, logit_bias={"125": 5}, max_tokens=3000
    )
    assert all(isinstance(json.loads(text), dict) for text in texts(answer))


def test_a_pattern_a_choice_and_a_lark_grammar_are_followed(server: LiveServer) -> None:
    for text in texts(post(server, n=4, structured_outputs={"regex": r"[0-9]{3}-[a-f]+x"})):
        assert re.fullmatch(r"[0-9]{3}-[a-f]+x", text)
    choice = ["yes", "no", "a/b", "ünï", 'x"y']
    for text in texts(post(server, n=8, structured_outputs={"choice": choice})):
        assert text in choice
    grammar = 'start: "<" NUMBER ("," NUMBER)* ">"\nNUMBER: /[0-9]{1,2}/'
    for text in texts(post(server, n=4, structured_outputs={"grammar": grammar})):
        assert re.fullmatch(r"<\d{1,2}(,\d{1,2})*>", text)


def test_text_is_free(server: LiveServer) -> None:
    fields: dict[str, Any] = {"seed": 3, "max_tokens": 20}
    assert (
        post(server, response_format={"type": "text"}, **fields).json()["choices"]
        == post(server, **fields).json()["choices"]
    )


def test_streamed_and_whole_answers_are_the_same(server: LiveServer) -> None:
    fields: Any = {"seed": 5, "n": 2, "response_format": named(PERSON), "max_tokens": 100}
    whole = texts(post(server, **fields))
    streamed = ["", ""]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = chat_body()["messages"]
        for chunk in client.chat.completions.create(
            model="test-model", messages=messages, stream=True, **fields
        ):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole


def test_stops_budgets_and_logprobs_work_as_without(server: LiveServer) -> None:
    stopped = post(server, response_format=named(PERSON), stop='"age"').json()["choices"][0]
    assert stopped["stop_reason"] == '"age"'
    assert '"age"' not in stopped["message"]["content"]
    cut = post(server, response_format=named(PERSON), max_tokens=5).json()["choices"][0]
    assert (cut["finish_reason"], len(cut["message"]["content"])) == ("length", 5)
    told = post(server, response_format=named(PERSON), logprobs=True, top_logprobs=3)
    first = told.json()["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "{"
    # Those of the model, which would rather have said something else.
    assert first["logprob"] <= first["top_logprobs"][-1]["logprob"] < 0


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "object"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "object"),
    ({"response_format": named(PERSON, name="a b")}, "response_format.json_schema.name", "64"),
    ({"response_format": named([])}, "response_format.json_schema.schema", "schema"),
    ({"response_format": {"type": "json_object", "schema": 3}}, "response_format.schema", "JSON"),
    ({"response_format": {"type": "json_object", "schema": "{"}}, "response_format", "JSON"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "json_object"),
    ({"response_format": named({"uniqueItems": True})}, "response_format", "uniqueItems"),
    ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"yaml": "a"}}, "structured_outputs", 'got "yaml"'),
    ({"response_format": named(False)}, "response_format", "no text can match"),
    ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed"),
    ({"structured_outputs": {"regex": "(?=a)"}}, "structured_outputs.regex", "look-ahead"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "1000"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]", "empty"),
    ({"structured_outputs": {"grammar": "x: y"}}, "structured_outputs.grammar", "start"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "together",
    ),
]


@pytest.mark.parametrize(("fields", "param", "named_in_message"), REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(
    server: LiveServer, fields: dict[str, Any], param: str, named_in_message: str
) -> None:
    for stream in (False, True):
        answer = post(server, stream=stream, **fields)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert named_in_message in error["message"]
        assert len(error["message"]) <= 512
