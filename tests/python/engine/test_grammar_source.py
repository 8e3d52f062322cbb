"""What reaches the compiler, and what is refused before it can do harm."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mlc_server import limits
from mlc_server.engine import GrammarSpec
from mlc_server.engine.grammar_source import JSON_STYLE, grammar_source
from mlc_server.errors import InvalidRequest


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def refusal(kind: Any, source: str) -> str:
    begin_s = time.perf_counter()
    with pytest.raises(InvalidRequest) as caught:
        grammar_source(GrammarSpec(kind, source, "the_field"))
    assert time.perf_counter() - begin_s < 0.25
    assert caught.value.param == "the_field"
    assert caught.value.message.startswith("the_field: ")
    return caught.value.message


def test_a_schema_gets_a_style_without_endless_white_space() -> None:
    schema = {"type": "object", "properties": {"ü": {}}}
    kind, source = grammar_source(GrammarSpec("json_schema", json.dumps(schema)))
    assert kind == "json_schema"
    assert json.loads(source) == {**schema, "x-guidance": JSON_STYLE}
    assert grammar_source(GrammarSpec("json_object"))[0] == "json_schema"


def test_boolean_schemas_are_schemas() -> None:
    assert json.loads(grammar_source(GrammarSpec("json_schema", "true"))[1]) == {
        "x-guidance": JSON_STYLE
    }
    assert "no text" in refusal("json_schema", "false")


def test_choices_are_escaped() -> None:
    source = json.dumps(["a.b", "x|y", "(", "é"])
    assert grammar_source(GrammarSpec("choice", source)) == ("regex", r"a\.b|x\|y|\(|é")


def test_limits_hold_to_the_unit() -> None:
    deepest = limits.MAX_SCHEMA_DEPTH.default
    most = limits.MAX_SCHEMA_NODES.default
    wide = limits.MAX_SCHEMA_PROPERTIES.default
    chars = limits.MAX_PATTERN_CHARACTERS.default
    size = limits.MAX_GRAMMAR_BYTES.default
    fits: list[tuple[Any, str]] = [
        ("json_schema", json.dumps(nested(deepest - 1))),
        ("json_schema", json.dumps({"enum": [0] * (most - 2)})),
        ("json_schema", json.dumps({"properties": {str(i): {} for i in range(wide)}})),
        ("json_schema", json.dumps({"pattern": "a" * chars})),
        ("json_schema", json.dumps({"description": "x" * (size - 20)})),
        ("json_schema", json.dumps({"multipleOf": 1000})),
        ("json_schema", json.dumps({"items": {"multipleOf": 0.01}, "multipleOf": 5})),
        ("regex", "a" * chars),
    ]
    for kind, source in fits:
        grammar_source(GrammarSpec(kind, source))
    assert str(deepest) in refusal("json_schema", json.dumps(nested(deepest + 1)))
    assert str(most) in refusal("json_schema", json.dumps({"enum": [0] * most}))
    assert str(wide) in refusal(
        "json_schema", json.dumps({"required": [str(i) for i in range(wide + 1)]})
    )
    assert str(chars) in refusal("json_schema", json.dumps({"items": {"pattern": "a" * 2049}}))
    assert str(chars) in refusal(
        "json_schema", json.dumps({"patternProperties": {"a" * 1500: {"pattern": "b" * 600}}})
    )
    assert str(size) in refusal("json_schema", json.dumps({"description": "x" * size}))
    assert "multipleOf" in refusal("json_schema", json.dumps({"multipleOf": 1001}))
    assert "multipleOf" in refusal("json_schema", json.dumps({"multipleOf": 1e-12}))
    assert "multipleOf" in refusal(
        "json_schema", json.dumps({"allOf": [{"multipleOf": 97}, {"multipleOf": 89}]})
    )
    assert str(chars) in refusal("regex", "a?" * chars)


@pytest.mark.parametrize("source", ["", "{", "[" * 60000, "3", '"x"', "[]", '{"a":' * 10000])
def test_what_is_no_schema_is_refused(source: str) -> None:
    refusal("json_schema", source)


def test_a_clients_own_options_are_refused() -> None:
    assert "x-guidance" in refusal("json_schema", '{"x-guidance": {"lenient": true}}')


def test_lark_is_bounded_outside_its_literals_and_inside_its_schemas() -> None:
    many = limits.MAX_LARK_RULES.default + 1
    colons = '"' + ":" * many + '"'
    kind, source = grammar_source(GrammarSpec("lark", f"start: {colons} // {colons}\n"))
    assert (kind, source) == ("lark", f"start: {colons} // {colons}\n")
    rules = "\n".join(f"r{i}: r{i + 1}" for i in range(many))
    assert "rules" in refusal("lark", rules)
    assert "rules" in refusal("lark", 'start: "\\""\n' + rules + '\nlast: "\\""')
    assert "repetitions" in refusal("lark", "start: " + '"a"? ' * many)
    assert "characters" in refusal("lark", 'start: /"/ A /"/\nA: /' + "a?" * 2000 + "/")
    assert "multipleOf" in refusal("lark", 'start: %json {"multiple\\u004ff": 99999989}')
    assert "deep" in refusal("lark", "start: %json " + json.dumps(nested(50)))
    assert "%json" in refusal("lark", "start: %json {")


def test_schemas_in_lark_get_the_same_style_and_nothing_else_changes() -> None:
    schema = {"type": "string", "pattern": r"\d"}
    text = f'start: "%json {{}}" a // %json {{}}\na: %json  {json.dumps(schema)} | %json true "é"'
    styled = {"type": "string", "pattern": "[0-9]", "x-guidance": JSON_STYLE}
    assert grammar_source(GrammarSpec("lark", text)) == (
        "lark",
        'start: "%json {}" a // %json {}\na: %json  '
        f'{json.dumps(styled)} | %json {json.dumps({"x-guidance": JSON_STYLE})} "é"',
    )
    own = json.dumps({"type": "object", "x-guidance": {"whitespace_flexible": True}})
    assert "x-guidance" in refusal("lark", f"start: %json {own}")
    assert "no text" in refusal("lark", "start: %json false")
    assert "must be a JSON schema" in refusal("lark", "start: %json [1]")


def test_grammars_of_calls_keep_their_options_and_may_be_larger() -> None:
    options = {"x-guidance": {**JSON_STYLE, "lenient": True}}
    text = f"start: %json {json.dumps({'pattern': 'a', **options})}"
    assert grammar_source(GrammarSpec("calls", text)) == ("lark", text)
    size = limits.MAX_CALL_GRAMMAR_BYTES.default
    padding = "/" * (size - len(text) - 1)
    grammar_source(GrammarSpec("calls", f"{text}\n{padding}"))
    assert str(size) in refusal("calls", f"{text}\n{padding}/")
    assert "deep" in refusal("calls", "start: %json " + json.dumps(nested(50)))
