"""What a chat request may say, field by field."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_server import limits
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.fields import NEUTRAL_VALUES
from mlc_server.protocol.parsing import parse_request

MESSAGES = [{"role": "user", "content": "hi"}]


def parse(**fields: Any) -> ChatCompletionRequest:
    return parse_text(json.dumps({"messages": MESSAGES, **fields}))


def parse_text(text: str) -> ChatCompletionRequest:
    return parse_request(text.encode("utf-8", "surrogatepass"), ChatCompletionRequest)


def parse_literal(field: str, literal: str) -> ChatCompletionRequest:
    """A value as it stands in the JSON text, so that NaN and 1e400 can be written."""
    return parse_text(f'{{"messages": {json.dumps(MESSAGES)}, "{field}": {literal}}}')


def refusal(call: Any, *args: Any, **kwargs: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        call(*args, **kwargs)
    message = caught.value.message
    assert message.isprintable()
    assert len(message) <= limits.MAX_ERROR_TEXT.default
    return caught.value


# Field -> (accepted literals, refused literals). Every numeric field, at and beyond its bounds.
NUMBERS: dict[str, tuple[list[str], list[str]]] = {
    "temperature": (["0", "0.0", "2", "1e-300"], ["-0.1", "2.0001", "1e400"]),
    "top_p": (["0", "1", "0.5"], ["-1e-9", "1.1"]),
    "min_p": (["0", "1"], ["-0.1", "1.5"]),
    "repetition_penalty": (["0.001", "2"], ["0", "-1", "2.1"]),
    "presence_penalty": (["-2", "2"], ["-2.1", "2.1"]),
    "frequency_penalty": (["-2", "2"], ["-2.1", "2.1"]),
    "top_k": (["-1", "0", "2147483647"], ["-2", "2147483648", "1.5"]),
    "n": (["1", "16"], ["0", "-1", "17", "1000000000", "1.0"]),
    "max_tokens": (["1", "2147483647"], ["0", "-1", "2147483648", "1.5"]),
    "max_completion_tokens": (["1", "2147483647"], ["0", "-1", "2147483648"]),
    "min_tokens": (["0", "2147483647"], ["-1", "2147483648"]),
    "top_logprobs": (["0"], ["-1", "21", "1.5"]),
    "seed": (
        ["0", "-9223372036854775808", "9223372036854775807"],
        ["9223372036854775808", "-9223372036854775809", "0.5"],
    ),
}
NEVER_NUMBERS = ["NaN", "Infinity", "-Infinity", "true", '"1"', "[1]", "{}", "9" * 5000, "1e999"]


@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_are_accepted_to_their_bounds_and_refused_beyond(field: str) -> None:
    accepted, refused = NUMBERS[field]
    for literal in accepted:
        parsed = parse_literal(field, literal)
        assert getattr(parsed, field) == json.loads(literal)
    for literal in refused + NEVER_NUMBERS:
        error = refusal(parse_literal, field, literal)
        assert error.param == field, literal
        assert error.message.startswith(f"{field}: must be"), literal
    assert getattr(parse_literal(field, "null"), field) is None


def test_a_refusal_states_limit_and_value() -> None:
    assert refusal(parse, n=17).message == "n: must be at most 16; got 17"
    assert refusal(parse, temperature=2.5).message == "temperature: must be at most 2; got 2.5"
    error = refusal(parse_literal, "temperature", "NaN")
    assert error.message == "temperature: must be a number between 0 and 2; got nan"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": "x" * 1025}, "stop"),
        ({"stop": ["é" * 513]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [True]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"٣": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 100.5}}, "logit_bias"),
        ({"logit_bias": {"1": "5"}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": {"1": float("nan")}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": []}, "logit_bias"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {str(i): 1 for i in range(65)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"priority": 1.5}, "priority"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"model": 5}, "model"),
        ({"user": 5}, "user"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": MESSAGES * 4097}, "messages"),
    ],
)
def test_other_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(parse, **fields).param == param


def test_no_messages_is_a_missing_parameter() -> None:
    error = refusal(parse_text, "{}")
    assert (error.param, error.code) == ("messages", "missing_required_parameter")


def test_stop_logit_bias_and_token_budget_are_normalised() -> None:
    parsed = parse(stop="end", logit_bias={"5": -100, "007": 1.5}, max_tokens=9)
    assert parsed.stop == ("end",)
    assert parsed.logit_bias == ((5, -100.0), (7, 1.5))
    assert parsed.token_budget == 9
    assert parse(max_tokens=9, max_completion_tokens=4).token_budget == 4
    assert parse().stop == ()
    assert parse().logit_bias == ()


def test_content_parts_become_text_in_every_role() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": role, "content": parts} for role in ("system", "developer", "user", "assistant")
    ]
    assert [m.content for m in parse(messages=messages).messages] == ["a\nb"] * 4


def test_a_refusal_is_what_the_assistant_said() -> None:
    parts = [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "Sorry."}]
    messages = [*MESSAGES, {"role": "assistant", "content": parts, "refusal": None}]
    assert parse(messages=messages).messages[1].content == "No.\nSorry."


def test_an_assistant_message_may_be_empty() -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": None}, *MESSAGES]
    assert parse(messages=messages).messages[1].content is None


@pytest.mark.parametrize("field", NEUTRAL_VALUES)
def test_unsupported_fields_are_refused_unless_they_ask_for_nothing(field: str) -> None:
    parse(**{field: None})
    for value in NEUTRAL_VALUES[field]:
        parse(**{field: value})
    for value in ({"type": "json_object"}, [{"type": "function"}], "required", 7, True):
        if not any(type(value) is type(n) and value == n for n in NEUTRAL_VALUES[field]):
            error = refusal(parse, **{field: value})
            assert (error.param, error.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"guided_json": {"type": "object"}}, "structured_outputs.json"),
        ({"guided_regex": "a+"}, "structured_outputs.regex"),
        ({"guided_choice": ["a", "b"]}, "structured_outputs.choice"),
        ({"guided_grammar": 'start: "a"'}, "structured_outputs.grammar"),
        ({"structural_tag": "{}"}, "structured_outputs"),
        ({"grammar": 'root ::= "a"'}, "structured_outputs.grammar"),
        ({"ebnf": 'root ::= "a"'}, "structured_outputs.grammar"),
        ({"regex": "a+"}, "structured_outputs.regex"),
        ({"json_schema": {"type": "object"}}, "response_format"),
    ],
)
def test_another_servers_way_to_ask_for_structure_names_the_one_here(
    fields: dict[str, Any], instead: str
) -> None:
    error = refusal(parse, **fields)
    assert error.param in fields
    assert f"use {instead}" in error.message


def test_a_structural_tag_is_refused_by_its_type() -> None:
    tag = {"type": "structural_tag", "structures": [], "triggers": ["<f"]}
    error = refusal(parse, response_format=tag)
    assert error.param == "response_format.type"
    assert "json_schema" in error.message
    assert "structural_tag" in error.message


def test_unknown_keys_of_response_format_are_told_of() -> None:
    format_ = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"unknown": 1}, "strikt": True},
        "gramar": "x",
    }
    told: dict[str, str | None] = {}
    body = json.dumps({"messages": MESSAGES, "response_format": format_}).encode()
    parse_request(body, ChatCompletionRequest, told.__setitem__)
    assert told == {
        "response_format.gramar": None,
        "response_format.json_schema.strikt": "strict",
    }
    beside = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}, "schema": {}}
    assert refusal(parse, response_format=beside).param == "response_format.schema"


def test_labels_are_accepted_and_checked() -> None:
    parse(
        user="u",
        metadata={"a": "b"},
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
    )
    for field, value in (
        ("metadata", {"a": 1}),
        ("metadata", {str(i): "" for i in range(65)}),
        ("service_tier", "gold"),
        ("prompt_cache_key", 5),
    ):
        assert refusal(parse, **{field: value}).param == field


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metadata": {"a": 1}}, 'metadata: "a" must be a string; got 1'),
        ({"cache_salt": ""}, 'cache_salt: must not be empty; got ""'),
        ({"user": "x" * 5000}, "user: must have at most 4096 characters; got 5000"),
        (
            {"max_tokens": 9, "max_completion_tokens": 3, "min_tokens": 4},
            "min_tokens: must be at most max_completion_tokens, which is 3; got 4",
        ),
    ],
)
def test_refusals_say_what_is_wrong_with_which_value(fields: dict[str, Any], message: str) -> None:
    assert refusal(parse, **fields).message == message


def ignored(**fields: Any) -> dict[str, str | None]:
    """What is told of a request with these fields: path to nearest known name."""
    told: dict[str, str | None] = {}
    body = json.dumps({"messages": MESSAGES, **fields}).encode()
    parse_request(body, ChatCompletionRequest, told.__setitem__)
    return told


def test_unknown_fields_are_told_of_with_the_nearest_name() -> None:
    assert ignored() == {}
    assert ignored(temprature=None, zzz=None) == {}
    assert ignored(temprature=1, zzz=2) == {"temprature": "temperature", "zzz": None}
    messages = [{"role": "user", "content": "x", "nam": "y"}] * 3
    assert ignored(messages=messages) == {"messages[].nam": "name"}
    parts = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    assert ignored(messages=[{"role": "user", "content": parts}]) == {
        "messages[].content[].cache_control": None
    }
    options = {"include_usag": True}
    assert ignored(stream=True, stream_options=options) == {
        "stream_options.include_usag": "include_usage"
    }


def test_known_fields_without_effect_are_not_worth_a_word() -> None:
    labels = {"user": "u", "store": True, "metadata": {}, "service_tier": "flex"}
    assert ignored(**labels, tools=None, best_of=1, prediction={"type": "content"}) == {}
    assert ignored(reasoning_effort="low") == {"reasoning_effort": None}


def test_what_is_told_of_unknown_fields_is_bounded_and_plain() -> None:
    told = ignored(**{f"\r\n\x1b é{i}{'x' * 999}": 1 for i in range(99)})
    assert len(told) == 16
    assert all(len(path) <= 64 and re.fullmatch(r"[A-Za-z0-9_.?-]+", path) for path in told)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    ],
)
def test_bodies_that_are_no_json_object_are_refused(body: bytes) -> None:
    assert refusal(parse_request, body, ChatCompletionRequest).message.startswith("body: ")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
        ('{"messages": [{"role": "user", "content": "a\\uDFFFb"}]}', "messages[0].content"),
        ('{"messages": [], "stop": ["x", "\\udc00"]}', "stop[1]"),
        ('{"\\ud800": 1}', "?"),
    ],
)
def test_lone_surrogates_are_refused_by_name(text: str, param: str) -> None:
    assert refusal(parse_text, text).param == param


def test_surrogate_pairs_are_characters() -> None:
    parsed = parse_text('{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}')
    assert parsed.messages[0].content == "\N{GRINNING FACE}"


def test_refusals_stay_short_and_fast_for_huge_input() -> None:
    """4 MiB of wrong values: one bounded message, in well under the time a request may take."""
    begin_s = time.perf_counter()
    refusal(parse, messages=[{"role": "x" * 1000, "content": "y"}] * 3000)
    parse(**{"z" * 4_000_000: 1})
    parse(messages=[{**MESSAGES[0], "contnt": 1, "z": 1}] * 4096)
    refusal(parse, temperature="9" * 4_000_000)
    refusal(parse, stop_token_ids=["x"] * 500_000)
    assert time.perf_counter() - begin_s < 5


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=12), children, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from([*ChatCompletionRequest.model_fields, *NEUTRAL_VALUES]) | st.text(),
        JSON_VALUES,
        max_size=5,
    )
)
def test_any_json_is_accepted_or_refused_in_printable_text(fields: dict[str, Any]) -> None:
    """Nothing but InvalidRequest escapes, whatever the values are."""
    text = json.dumps({"messages": MESSAGES, **fields})
    message = ""
    try:
        parse_request(text.encode(), ChatCompletionRequest)
    except InvalidRequest as error:
        message = error.message
    assert message == "" or message.isprintable()
    assert len(message) <= limits.MAX_ERROR_TEXT.default
