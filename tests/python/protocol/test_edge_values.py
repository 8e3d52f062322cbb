"""Every field of a chat and of a completion, at values that are no JSON or of another kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from mlc_server.errors import InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.completions import CompletionRequest
from mlc_server.protocol.parsing import parse_request

REQUIRED: dict[type[BaseModel], dict[str, Any]] = {
    ChatCompletionRequest: {"messages": [{"role": "user", "content": "hi"}]},
    CompletionRequest: {"prompt": "hi"},
}
# Literal -> the JSON type it is of; None where it is of none, or far outside of any range.
EDGES: dict[str, str | None] = {
    "NaN": None,
    "Infinity": None,
    "-Infinity": None,
    "1e400": None,
    "-1e400": None,
    "1" + "0" * 400: None,
    "1e308": None,
    "-1e308": None,
    "9" * 40: None,
    "-" + "9" * 40: None,
    '"\\ud800"': None,
    '"a\\udfffb"': None,
    '["\\ud800"]': None,
    '{"\\ud800": 1}': None,
    "true": "boolean",
    '"1"': "string",
    "0.5": "number",
    "[[]]": "array",
    '{"zzz": {}}': "object",
}


def fields(model: type[BaseModel]) -> Iterator[tuple[str, frozenset[str]]]:
    """Each field with the JSON types it takes."""
    schema = model.model_json_schema()

    def types(spec: dict[str, Any]) -> frozenset[str]:
        if "$ref" in spec:
            return frozenset({"object"})
        if "enum" in spec:
            return frozenset({"string"})
        options = [types(option) for option in spec.get("anyOf", ())]
        return frozenset({spec["type"]} if "type" in spec else {}).union(*options)

    for name, spec in schema["properties"].items():
        yield name, types(spec)


CASES = [(model, name, types) for model in REQUIRED for name, types in fields(model)]


def parse(model: type[BaseModel], field: str, literal: str) -> BaseModel:
    body = {name: value for name, value in REQUIRED[model].items() if name != field}
    text = json.dumps(body)[:-1] + (", " if body else "") + f'"{field}": {literal}}}'
    return parse_request(text.encode(), model)


@pytest.mark.parametrize(
    ("model", "field", "types"), CASES, ids=[f"{m.__name__}-{name}" for m, name, _ in CASES]
)
def test_a_value_that_does_not_fit_is_refused_by_name(
    model: type[BaseModel], field: str, types: frozenset[str]
) -> None:
    """The message begins with the field, says what it must be, and shows what it is."""
    assert types
    for literal, kind in EDGES.items():
        if kind is not None and kind in types:
            continue
        with pytest.raises(InvalidRequest) as caught:
            parse(model, field, literal)
        error = caught.value
        assert error.param is not None, literal
        assert error.param.split(".")[0].split("[")[0] == field, literal
        assert error.message.startswith(f"{error.param}: "), literal
        assert error.message.isprintable()
        assert len(error.message) < 250
        if "\\u" in literal:
            assert "lone surrogate" in error.message
        else:
            assert "must" in error.message, (literal, error.message)
            assert "got" in error.message, (literal, error.message)


@pytest.mark.parametrize("field", ["service_tier", "metadata", "prompt_cache_key"])
@pytest.mark.parametrize("literal", ["NaN", "1e400", "[]", "true", "9" * 40])
def test_fields_that_only_label_a_request_are_checked_too(field: str, literal: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ChatCompletionRequest, field, literal)
    assert caught.value.param == field
    assert "got" in caught.value.message


@pytest.mark.parametrize("model", REQUIRED)
def test_numbers_have_bounds_on_both_sides(model: type[BaseModel]) -> None:
    """None is left to what the engine can bear."""
    for name, spec in model.model_json_schema()["properties"].items():
        for option in spec.get("anyOf", [spec]):
            if option.get("type") in ("number", "integer"):
                low = option.keys() & {"minimum", "exclusiveMinimum"}
                assert low, name
                assert "maximum" in option, name


# Places where any JSON value goes, and unknown fields; @ is a number that JSON does not have.
FREE = [
    ("chat_template_kwargs.a", '"chat_template_kwargs": {"a": @}'),
    ("chat_template_kwargs.a[1].b", '"chat_template_kwargs": {"a": [1, {"b": @}]}'),
    ("zzz", '"zzz": @'),
    ("store", '"store": @'),
    ("prediction.content", '"prediction": {"content": @}'),
    (
        "tools[0].function.parameters.properties.a.maximum",
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": '
        '{"type": "object", "properties": {"a": {"maximum": @}}}}}]',
    ),
    (
        "response_format.json_schema.schema.minimum",
        '"response_format": {"type": "json_schema", "json_schema": '
        '{"name": "a", "schema": {"minimum": @}}}',
    ),
    ("structured_outputs.json.const", '"structured_outputs": {"json": {"const": @}}'),
]


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "1e400", "-1.5e999", "1" * 400 + ".0"])
@pytest.mark.parametrize(("param", "place"), FREE)
def test_no_json_number_passes_where_anything_goes(param: str, place: str, literal: str) -> None:
    body = '{"messages": [{"role": "user", "content": "hi"}], ' + place.replace("@", literal) + "}"
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body.encode(), ChatCompletionRequest)
    assert caught.value.param == param
    assert caught.value.message == f"{param}: must be a finite number"


def test_a_value_that_a_later_one_replaces_does_not_count() -> None:
    body = b'{"messages": [{"role": "user", "content": "hi"}], "zzz": NaN, "zzz": 1}'
    parse_request(body, ChatCompletionRequest)


def test_finite_numbers_keep_their_values() -> None:
    body = (
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 0.1, '
        b'"chat_template_kwargs": {"a": [1e308, -0.0, 5e-324, 3]}}'
    )
    parsed = parse_request(body, ChatCompletionRequest)
    assert parsed.temperature == 0.1
    assert parsed.chat_template_kwargs == {"a": [1e308, 0.0, 5e-324, 3]}
