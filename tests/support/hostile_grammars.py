"""Grammars made to take a compiler's time, memory or stack, or that of whoever follows them.

HOSTILE maps a name to what a client would send; all are within the limits of size, depth and count,
or next to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mlc_server.engine import GrammarSpec

HOSTILE: dict[str, GrammarSpec] = {}


def _schema(name: str, schema: Any) -> None:
    HOSTILE[name] = GrammarSpec("json_schema", json.dumps(schema))


def _regex(name: str, pattern: str) -> None:
    HOSTILE[name] = GrammarSpec("regex", pattern, "structured_outputs.regex")


def _lark(name: str, grammar: str) -> None:
    HOSTILE[name] = GrammarSpec("lark", grammar, "structured_outputs.grammar")


def chain(count: int, link: Callable[[str], Any]) -> dict[str, Any]:
    """A schema whose definitions refer to each other in a row."""
    defs = {str(index): link(f"#/$defs/{index + 1}") for index in range(count)}
    return {"$ref": "#/$defs/0", "$defs": {**defs, str(count): {}}}


def pair_of(ref: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"$ref": ref}, "b": {"$ref": ref}}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


_regex("optional letters", "a?" * 1024)
_regex("nested stars", "(a*)*" * 409)
_regex("powers of a hundred", "((a{1,100}){1,100}){1,100}b")
_regex("any, fifty times", "(.*a.*){50}x(.*b.*){50}")
_regex("counting back", "[ab]*a[ab]{500}")
_regex("counting back any", ".*a.{1000}")
_regex("overlapping alternatives", "|".join(f".*{letter}.*" for letter in "abcdefghijklmnop") * 8)
_regex("products of counts", "".join(f"(a|b|ab){{1,{index}}}" for index in range(2, 120)))
_regex("deep parentheses", "(" * 1000 + "a" + ")" * 1000)
_regex("unicode classes", r"(\p{L}|\p{N}|\p{Han}){1,200}" * 20)
_regex("any case", "(?i)" + "[a-z]{1,50}ß" * 80)
_regex("hundred thousand", "a{1,100000}")
_regex("ambiguous sums", "(x+x+)+y" * 100)
_regex("counts of any", "(.{1,50}[a-z]){30}")
_regex("sixty thousand of any", "(?s).{0,60000}z")
_regex("powers of nine", "(" * 6 + "x" + "{1,9})" * 6)
_schema("5000 constants", {"enum": [f"value {index}" for index in range(4900)]})
_schema("512 optional properties", {"properties": {str(i): {} for i in range(512)}})
_schema(
    "4 times 512 properties",
    {"prefixItems": [{"properties": {f"{k}_{i}": {} for i in range(512)}} for k in range(4)]},
)
_schema("huge arrays", {"maxItems": 10**6, "items": {"items": {}, "minItems": 10**9}})
_schema("huge strings", {"type": "string", "minLength": 10**9})
_schema("long strings", {"type": "string", "minLength": 60000, "maxLength": 70000})
_schema(
    "pattern and length",
    {"type": "string", "pattern": "^([a-z]+[0-9]*)*$", "minLength": 500, "maxLength": 1000},
)
_schema(
    "all of twenty patterns",
    {"allOf": [{"type": "string", "pattern": f"({chr(97 + i)}.*){{1,9}}"} for i in range(20)]},
)
_schema("twice all, thirty times", chain(30, lambda ref: {"allOf": [{"$ref": ref}, {"$ref": ref}]}))
_schema(
    "product of unions",
    {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(5)]}
            for i in range(12)
        ]
    },
)
_schema("oneOf patterns", {"oneOf": [{"type": "string", "pattern": f"a{i}b*"} for i in range(200)]})
_schema("oneOf objects", {"oneOf": [{"properties": {"k": {"const": i}}} for i in range(300)]})
_schema("anyOf 600", {"anyOf": [{"properties": {f"k{i}": {"const": i}}} for i in range(600)]})
_schema(
    "recursive unions",
    {
        "$ref": "#/$defs/a",
        "$defs": {
            name: {
                "anyOf": [
                    {"type": "array", "items": {"$ref": f"#/$defs/{name}"}},
                    {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{other}"}},
                    {"type": "string"},
                ]
            }
            for name, other in ("ab", "ba")
        },
    },
)
_schema(
    "reference to itself",
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
)
_schema("reference abroad", {"$ref": "https://example.com/schema.json"})
_schema("prime multiples", {"type": "integer", "multipleOf": 997})
_schema(
    "multiples in a range",
    {"type": "integer", "multipleOf": 999, "minimum": -(10**15), "maximum": 10**15},
)
_schema(
    "many multiples",
    {"prefixItems": [{"type": "integer", "multipleOf": 1000, "minimum": i} for i in range(1, 400)]},
)
_schema(
    "150 pattern properties",
    {"patternProperties": {f"^p{i}_.*$": {} for i in range(150)}, "additionalProperties": False},
)
_schema("deep arrays", nested(15))
_schema("deep references", chain(600, pair_of))
_schema("long references", chain(2300, lambda ref: {"$ref": ref}))
_schema(
    "integer ranges",
    {"prefixItems": [{"minimum": i - 10**18, "maximum": 10**18 - i} for i in range(600)]},
)
_schema(
    "formats",
    {"prefixItems": [{"type": "string", "format": name} for name in ("uri", "email", "ipv6")] * 60},
)
_schema("large constant", {"const": [[index, str(index)] for index in range(1500)]})
_schema("anyOf lengths", {"anyOf": [{"minLength": i, "maxLength": i * 37} for i in range(800)]})
_lark("deep groups", "start: " + "(" * 20000)
_lark("6000 literals", "start: " + "|".join(f'"x{index}"' for index in range(6000)))
_lark("ambiguous doubling", 'start: start start | "a"')
_lark("ambiguous and empty", 'start: a\na: a a a | b\nb: b b | "x" | ""')
_lark("nullable stars", 'start: a*\na: b*\nb: c*\nc: "x"*')
_lark("nested counts", 'start: a{1,1000}\na: b{1,1000}\nb: c{1,1000}\nc: "x"')
_lark("1000 rules", "\n".join(f"r{i}: r{i + 1}" for i in range(1000)) + '\nstart: "a"')
_lark(
    "500 optional rules",
    "start: "
    + " ".join(f"a{i}?" for i in range(500))
    + "".join(f'\na{i}: "x" | "y{i}"' for i in range(500)),
)
_lark(
    "doubling terminals",
    "start: T0\n" + "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(40)) + '\nT40: "a"',
)
_lark(
    "and of ten",
    "start: T\nT: " + " & ".join(f"/(.*{chr(97 + i)}.*){{1,5}}/" for i in range(10)),
)
