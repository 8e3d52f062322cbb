"""Hostile JSON: bodies that are none, and values that no field should take."""

from __future__ import annotations

import json
import random
from typing import Any

from support.hostile.wire import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    Hostile,
    as_json,
    chat,
    chat_body,
    generating_body,
    post,
)

NUMBER_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_tokens",
    "min_tokens",
    "n",
    "priority",
)
FLAG_FIELDS = ("stream", "ignore_eos", "return_token_ids", "include_stop_str_in_output")
LIST_FIELDS = ("stop_token_ids", "stop", "logit_bias", "stream_options", "response_format")
SURROGATES = ("\\ud800", "\\udfff", "\\uDBFF x", "\\udc00\\ud800")


def _with_literal(chance: random.Random, field: str, literal: str) -> tuple[str, bytes]:
    """A body in which `field` is `literal`, which need not be JSON."""
    path, body = generating_body(chance)
    body.pop(field, None)
    return path, as_json(body)[:-1] + f', "{field}": {literal}}}'.encode()


def malformed_json(chance: random.Random) -> Hostile:
    text = as_json(chat_body())
    bodies = (
        b"",
        b" ",
        b"\x00",
        b"{",
        b"}",
        b"nul",
        b"undefined",
        b"'{}'",
        b"\xef\xbb\xbf" + text,
        text[: chance.randrange(len(text))],
        text + b",",
        text + text,
        text.replace(b'"', b"'"),
        text.replace(b": ", b"="),
        text.replace(b"}]", b",}]"),
        b"// a comment\n" + text,
        b'{"messages": [{"role": "user", "content": "a\nb"}]}',
        b'{"messages": [{"role": "user", "content": "\\x41"}]}',
        b"\n" * chance.randrange(1, 10_000),
        bytes(reversed(text)),
        b"[" * chance.randrange(1, 50),
        b"messages=hi&max_tokens=4",
        b"<messages><user>hi</user></messages>",
    )
    return post(chance.choice((CHAT, COMPLETIONS)), chance.choice(bodies), refused=True)


def other_json(chance: random.Random) -> Hostile:
    """JSON, but no object."""
    value = chance.choice((None, True, 0, -1.5, "text", [], [1], [[]], [chat_body()], {}))
    path = chance.choice((CHAT, COMPLETIONS, "/tokenize", "/detokenize", "/apply-template"))
    return post(path, as_json(value), refused=True)


def bad_utf8(chance: random.Random) -> Hostile:
    text = as_json(chat_body(content="x"))
    parts = (
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xe2\x82",
        b"\xfe",
    )
    position = chance.randrange(1, len(text))
    broken = text[:position] + chance.choice(parts) + text[position:]
    other = (broken, text.decode().encode("utf-16"), text.decode().encode("utf-32"), b"\xff" * 500)
    body = broken if chance.random() < 0.8 else chance.choice(other)
    return post(chance.choice((CHAT, COMPLETIONS)), body, refused=True)


def wrong_types(chance: random.Random) -> Hostile:
    odd: tuple[Any, ...] = ("", "x" * 999, "1", [], [[]], [None], {}, {"a": 1}, 1.5, True)
    name = chance.choice((*NUMBER_FIELDS, *FLAG_FIELDS, *LIST_FIELDS, "model", "user"))
    path, body = generating_body(chance, **{name: chance.choice(odd)})
    return post(path, body)


def numbers(chance: random.Random) -> Hostile:
    literals = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "-" + "9" * 400)
    field = chance.choice(NUMBER_FIELDS)
    path, body = _with_literal(chance, field, chance.choice((*literals, "[]", '"1"', "true", "{}")))
    return post(path, body, refused=True)


def odd_numbers(chance: random.Random) -> Hostile:
    """Numbers that some field may take."""
    literals = ("-0", "-0.0", "1e-400", "0e999", "1E0", "5e-324", "1.0", "2147483647", "1e308")
    field = chance.choice([name for name in NUMBER_FIELDS if name != "max_tokens"])
    return post(*_with_literal(chance, field, chance.choice(literals)))


def numbers_deep_inside(chance: random.Random) -> Hostile:
    literal = chance.choice(("NaN", "Infinity", "1e400", "-1e999", "9" * 5000))
    places = (
        '"logit_bias": {"5": @}',
        '"stop_token_ids": [1, @]',
        '"response_format": {"type": "json_schema", "json_schema": {"name": "a", '
        '"schema": {"type": "number", "minimum": @}}}',
        '"structured_outputs": {"json": {"enum": [@]}}',
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": '
        '{"type": "object", "properties": {"a": {"type": "number", "maximum": @}}}}}]',
        '"chat_template_kwargs": {"a": @}',
        '"metadata": {"a": @}',
        '"stream": true, "stream_options": {"include_usage": @}',
        '"zzz": @',
    )
    field = chance.choice(places).replace("@", literal)
    return post(CHAT, as_json(chat_body())[:-1] + f", {field}}}".encode())


def surrogates(chance: random.Random) -> Hostile:
    text = chance.choice(SURROGATES)
    bodies = (
        '{"messages": [{"role": "user", "content": "@"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a@"}]}]}',
        '{"messages": [{"role": "user", "content": "hi", "name": "@"}]}',
        '{"messages": [{"role": "user", "content": "hi"}], "stop": ["@"]}',
        '{"messages": [{"role": "user", "content": "hi"}], "model": "@"}',
        '{"messages": [{"role": "user", "content": "hi"}], "@": 1}',
        '{"messages": [{"role": "user", "content": "hi"}], "metadata": {"@": "x"}}',
        '{"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"a": "@"}}',
        '{"messages": [{"role": "user", "content": "hi"}], "structured_outputs": {"regex": "@"}}',
        '{"messages": [{"role": "user", "content": "hi"}], "cache_salt": "@"}',
    )
    body = chance.choice(bodies).replace("@", text)
    return post(CHAT, body.encode(), refused=True)


def deep_nesting(chance: random.Random) -> Hostile:
    depth = chance.choice((40, 200, 900, 5_000, 100_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    nested = opening * depth + "1" + closing * depth
    places = (
        nested,
        f'{{"messages": {nested}}}',
        f'{{"messages": [{{"role": "user", "content": {nested}}}]}}',
        f'{{"zzz": {nested}}}',
    )
    return post(CHAT, chance.choice(places).encode(), refused=True)


def deep_values(chance: random.Random) -> Hostile:
    """Nested where nesting is allowed: less of it is."""
    depth = chance.choice((10, 31, 33, 99, 101, 400, 900))
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    value: Any = 1
    for _ in range(depth):
        value = [value]
    fields = (
        {"structured_outputs": {"json": schema}},
        {"response_format": {"type": "json_object", "schema": json.dumps(schema)}},
        {"tools": [_tool(parameters={"type": "object", "properties": {"a": schema}})]},
        {"chat_template_kwargs": {"a": value}},
        {"zzz": value},
    )
    return chat(**chance.choice(fields))


def enormous_lists(chance: random.Random) -> Hostile:
    count = chance.choice((1_100, 5_000, 20_000))
    fields: tuple[dict[str, Any], ...] = (
        {"stop": ["a"] * count},
        {"stop_token_ids": [1] * count},
        {"logit_bias": {str(i): 1 for i in range(count)}},
        {"messages": MESSAGES * (count + 4000)},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * count}]},
        {"tools": [_tool(f"f{i}") for i in range(count)]},
        {"chat_template_kwargs": {f"a{i}": 1 for i in range(count)}},
        {"metadata": {str(i): "" for i in range(count)}},
        {"structured_outputs": {"choice": [str(i) for i in range(count)]}},
        {"structured_outputs": {"json": {"enum": list(range(count + 4000))}}},
    )
    return chat(refused=True, **chance.choice(fields))


def enormous_prompts(chance: random.Random) -> Hostile:
    count = chance.choice((9_000, 60_000, 300_000))
    word = chance.choice(("a", "apple ", "\N{GRINNING FACE}", "\n", "=", "<|im_start|>", "é"))
    bodies: tuple[tuple[str, dict[str, Any]], ...] = (
        (COMPLETIONS, {"prompt": [5] * count, "max_tokens": 2}),
        (COMPLETIONS, {"prompt": ["a"] * 300}),
        (COMPLETIONS, {"prompt": "apple " * count}),
        (CHAT, {"messages": [{"role": "user", "content": "apple " * count}]}),
    )
    if chance.random() < 0.2:
        return post("/tokenize", {"prompt": word * (count // 10)})
    return post(*chance.choice(bodies), refused=True)


def unknown_fields(chance: random.Random) -> Hostile:
    names = (
        "temprature",
        "__proto__",
        "constructor",
        "messages ",
        "Messages",
        "x-evil\r\nset-cookie: a=b",
        "\x1b[31mred",
        "\u202eevil",
        "é" * 300,
        "\N{GRINNING FACE}" * 300,
        "a" * 100_000,
        "",
        ".",
        "%s%n{}",
        "../../etc/passwd",
    )
    fields = {name: chance.choice((None, 1, {}, [])) for name in chance.sample(names, 5)}
    path, body = generating_body(chance, **fields)
    return post(path, body)


def duplicate_keys(chance: random.Random) -> Hostile:
    text = as_json(chat_body()).decode()
    additions = (
        '"n": 1, "n": 1000000000',
        '"messages": null',
        '"messages": [], "messages": 5',
        '"stream": true, "stream": "yes"',
        '"max_tokens": -1',
        '"temperature": 1, "temperature": NaN',
    )
    return post(CHAT, f"{text[:-1]}, {chance.choice(additions)}}}".encode(), refused=True)


def bad_messages(chance: random.Random) -> Hostile:
    message: Any = chance.choice(
        (
            None,
            5,
            "hi",
            [],
            {},
            {"role": "user"},
            {"role": "root", "content": "hi"},
            {"role": ["user"], "content": "hi"},
            {"role": "user", "content": 5},
            {"role": "user", "content": {"text": "hi"}},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]},
            {"role": "user", "content": [{"type": "text"}]},
            {"role": "user", "content": ["hi"]},
            {"role": "user", "content": "hi", "name": 5},
            {"role": "user", "content": "hi", "name": "x" * 300},
            {"role": "user", "content": "hi", "tool_calls": [{}]},
            {"role": "tool", "content": "hi"},
            {"role": "tool", "content": "hi", "tool_call_id": "never made"},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "\n"}}]},
            {"role": "assistant", "tool_calls": "all"},
        )
    )
    return chat(refused=True, messages=[*MESSAGES, message])


def _tool(name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}
