"""Arguments as rules: they allow what the schema of their object allows, and cost less."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from mlc_server.engine import GrammarSpec
from mlc_server.text.tools.argument_rules import (
    Argument,
    ArgumentRules,
    list_problem,
    literal,
    reference_problem,
)
from mlc_server.text.tools.functions import Function, argument_schema
from mlc_server.text.tools.grammar import auto_grammar, formatted_grammar, required_grammar
from support.fake_server import fake_grammars
from support.grammar_texts import allows

# As of a large set of real tools: names of their own, descriptions, a few kinds of values.
VALUES: list[dict[str, Any]] = [
    {"type": "string", "description": "What to look for, in the words of the user. " * 4},
    {"type": "integer", "minimum": 1},
    {"type": "string", "enum": ["celsius", "fahrenheit"]},
    {"type": "array", "items": {"type": "number"}},
]


def functions(count: int, arguments: int, required: int) -> list[Function]:
    names = [[f"argument_{place}_of_{i}" for place in range(arguments)] for i in range(count)]
    return [
        Function(
            f"the_function_number_{i}_with_a_long_name",
            {
                "type": "object",
                "properties": {name: VALUES[at % 4] for at, name in enumerate(own, i)},
                "required": own[:required],
            },
        )
        for i, own in enumerate(names)
    ]


@pytest.mark.parametrize("required", ["", "a", "b", "d", "ac", "bd", "abcd"])
def test_every_choice_of_arguments_in_order_is_allowed_if_it_has_the_required(
    required: str,
) -> None:
    shared = ArgumentRules()
    value = shared.value({"const": 1}, Function("f"))
    listed = [Argument(f"{name}=", value, name in required) for name in "abcd"]
    expression = shared.arguments("rest", listed)
    grammar = "\n".join([f"start: {expression}", *shared.rules()])
    for size in range(5):
        for chosen in itertools.permutations("abcd", size):
            fits = list(chosen) == sorted(chosen) and set(required) <= set(chosen)
            text = ", ".join(f"{name}=1" for name in chosen)
            assert allows(grammar, text) == fits, text


def test_equal_schemas_share_a_rule_whatever_the_function() -> None:
    for format_ in ("hermes", "pythonic"):
        grammar = required_grammar(format_, functions(20, 4, 1), parallel=True)
        assert grammar.count("%json") == len(VALUES)


def test_a_literal_is_the_text_itself() -> None:
    for text in ("é\N{GRINNING FACE}", 'a"b\\', "\n\t\x7f", "/x/ | y"):
        assert allows(f"start: {literal(text)}", text)
    assert literal("") == ""


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"items": {"$ref": "#"}}}},
        {"properties": {"a": {}}, "minProperties": 1},
        {"properties": {"a": {}}, "required": ["b"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
    ],
)
def test_an_object_that_is_more_than_a_list_of_properties_is_left_to_the_compiler(
    parameters: dict[str, Any],
) -> None:
    function = Function("f", parameters)
    schema = argument_schema(function)
    assert (list_problem(schema) or reference_problem(schema)) is not None
    assert f"%json {json.dumps(schema)}" in required_grammar("hermes", [function], parallel=True)


@pytest.mark.parametrize("parameters", [{"additionalProperties": True}, {"properties": {"\n": {}}}])
def test_so_is_one_with_other_properties_or_names_that_json_escapes(
    parameters: dict[str, Any],
) -> None:
    function = Function("f", parameters)
    schema = json.dumps(argument_schema(function))
    assert f"%json {schema}" in required_grammar("hermes", [function], parallel=True)


@pytest.mark.parametrize("required", [0, 2, 4])
@pytest.mark.parametrize("format_", ["hermes", "mistral", "llama3_json", "pythonic"])
def test_as_many_tools_as_openai_takes_are_enforced(format_: str, required: int) -> None:
    """128 with four arguments each, within the limits of CPU time of any other grammar."""
    many = functions(128, 4, required)
    sources = [required_grammar(format_, many, parallel=True)]
    if format_ in ("hermes", "mistral"):
        sources.append(formatted_grammar(format_, many, {"type": "object"}, parallel=True))
        sources.append(str(auto_grammar(format_, many, parallel=True)))

    async def scenario() -> None:
        grammars = fake_grammars()
        for source in sources:
            await grammars.compile(GrammarSpec("calls", source, "tools"))

    asyncio.run(scenario())
