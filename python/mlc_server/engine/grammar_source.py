"""From a GrammarSpec to what the core's compiler takes, within limits.

The compiler bounds most of its work itself. The limits here keep off what it does not bound: deep
recursion, long regular expressions, many properties of one object and multiples of large numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Literal

from mlc_server import limits
from mlc_server.engine.regex_dialect import ascii_classes, with_ascii_patterns
from mlc_server.engine.types import GrammarSpec
from mlc_server.errors import InvalidRequest

CoreKind = Literal["json_schema", "regex", "lark"]

# JSON as models were trained to write it, with no room for endless white space.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OPTIONS_KEY = "x-guidance"
_REGEX_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~/")
_LARK_LITERAL = re.compile(
    r"""
    "(?:\\.|[^"\\\n])*"            # a string
    | (?://|\#)[^\n]*              # a comment
    | (?P<regex>/(?:\\.|[^/\\\n])+/)
    | (?P<json>%json\s*)           # followed by a schema
    """,
    re.VERBOSE,
)


def grammar_source(spec: GrammarSpec) -> tuple[CoreKind, str]:
    """(kind, source) for the core; raises InvalidRequest naming the limit or the mistake."""
    try:
        return _source(spec)
    except _Fault as fault:
        raise InvalidRequest(f"{spec.param}: {fault}", param=spec.param) from None


class _Fault(Exception):
    """What is wrong, without the field's name."""


def _source(spec: GrammarSpec) -> tuple[CoreKind, str]:
    if spec.kind == "calls":
        _check_size(spec.source, limits.MAX_CALL_GRAMMAR_BYTES)
        return "lark", _with_schemas(spec.source, _ascii)
    _check_size(spec.source, limits.MAX_GRAMMAR_BYTES)
    if spec.kind == "json_object":
        return "json_schema", json.dumps({"type": "object", _OPTIONS_KEY: JSON_STYLE})
    if spec.kind == "json_schema":
        return "json_schema", _json_schema(spec.source)
    if spec.kind == "choice":
        return "regex", "|".join(_escape(text) for text in json.loads(spec.source))
    if spec.kind == "regex":
        _check_pattern_size(len(spec.source))
        return "regex", ascii_classes(spec.source)
    return "lark", _lark(spec.source)


def _check_size(source: str, limit: limits.Limit) -> None:
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > limit.default:
        raise _Fault(f"must have at most {limit.default} bytes; got {size}")


def _json_schema(text: str) -> str:
    try:
        schema = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise _Fault(f"is not valid JSON: {error}") from None
    return _styled(schema)


def _styled(schema: Any) -> str:
    """A schema within the limits, as the compiler takes it: in JSON_STYLE, its patterns ASCII's."""
    if schema is False:
        raise _Fault("no text can match it")
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _Fault("must be a JSON schema, that is, an object")
    if _OPTIONS_KEY in schema:
        raise _Fault(f'keyword "{_OPTIONS_KEY}" is not supported')
    return json.dumps({**_checked(schema), _OPTIONS_KEY: JSON_STYLE})


def _checked(schema: Any) -> Any:
    """A schema within the limits, its patterns ASCII's."""
    pattern_size = 0
    multiples: list[Decimal] = []
    for value in _objects(schema):
        _check_properties(value)
        if "pattern" in value or "patternProperties" in value:
            pattern_size += _pattern_size(value)
            _check_pattern_size(pattern_size)
        step = value.get("multipleOf")
        if isinstance(step, (int, float)) and not isinstance(step, bool) and step > 0:
            multiples.append(Decimal(repr(step)))
    _check_multiples(multiples)
    return with_ascii_patterns(schema) if pattern_size else schema


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, as long as it is within the limits of depth and size."""
    level = [schema]
    count = 0
    for _ in range(limits.MAX_SCHEMA_DEPTH.default):
        count += len(level)
        if count > limits.MAX_SCHEMA_NODES.default:
            raise _Fault(f"must have at most {limits.MAX_SCHEMA_NODES.default} values in all")
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                yield value
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        level = deeper
    if level:
        raise _too_deep()


def _too_deep() -> _Fault:
    return _Fault(f"must be nested at most {limits.MAX_SCHEMA_DEPTH.default} deep")


def _check_properties(schema: dict[str, Any]) -> None:
    limit = limits.MAX_SCHEMA_PROPERTIES.default
    for keyword in ("properties", "required"):
        value = schema.get(keyword)
        if isinstance(value, (dict, list)) and len(value) > limit:
            raise _Fault(f'"{keyword}" must have at most {limit} entries; got {len(value)}')


def _pattern_size(schema: dict[str, Any]) -> int:
    pattern = schema.get("pattern")
    keyed = schema.get("patternProperties")
    size = len(pattern) if isinstance(pattern, str) else 0
    return size + (sum(map(len, keyed)) if isinstance(keyed, dict) else 0)


def _check_pattern_size(size: int) -> None:
    limit = limits.MAX_PATTERN_CHARACTERS.default
    if size > limit:
        raise _Fault(f"regular expressions must have at most {limit} characters in all; got {size}")


def _check_multiples(multiples: list[Decimal]) -> None:
    """The compiler counts remainders, all those of the least common multiple at the worst."""
    if not multiples:
        return
    scale = max(0, *(-_exponent(step) for step in multiples))
    limit = limits.MAX_MULTIPLE.default
    if scale <= 9 and max(multiples) <= limit:
        common = math.lcm(*(int(step.scaleb(scale)) for step in multiples))
        if common <= limit:
            return
    raise _Fault(f'keyword "multipleOf" is not supported for numbers of more than {limit} steps')


def _exponent(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def _ascii(schema: Any) -> str:
    """The same of a schema that has options already."""
    return json.dumps(_checked(schema))


def _lark(text: str) -> str:
    """A client's grammar with its schemas in JSON_STYLE, everything else as it is."""
    _check_lark(text)
    return _with_schemas(text, _styled)


def _with_schemas(text: str, rewrite: Callable[[Any], str]) -> str:
    """A grammar with each of its schemas rewritten."""
    if "%json" not in text:
        return text
    parts = []
    end = 0
    for match, schema, after in _literals(text):
        if match["json"]:
            parts += [text[end : match.end()], rewrite(schema)]
            end = after
    return "".join([*parts, text[end:]])


def _check_lark(text: str) -> None:
    pattern_size = 0
    if "%json" in text:
        parts = []  # outside literals, comments and schemas
        end = 0
        for match, _, after in _literals(text):
            parts.append(text[end : match.start()])
            pattern_size += len(match["regex"] or "")
            end = after
        rest = "".join([*parts, text[end:]])
    else:
        rest = _LARK_LITERAL.sub("", text)
        if "/" in text:
            found = _LARK_LITERAL.finditer(text)
            pattern_size = sum(len(match["regex"] or "") for match in found)
    _check_pattern_size(pattern_size)
    _check_count(rest, ":", "rules", limits.MAX_LARK_RULES.default)
    _check_count(rest, "?*+{~", "repetitions", limits.MAX_LARK_RULES.default)


def _literals(text: str) -> Iterator[tuple[re.Match[str], Any, int]]:
    """Each literal, comment and %json, the schema after it, and where all that ends."""
    position = 0
    while match := _LARK_LITERAL.search(text, position):
        schema, position = None, match.end()
        if match["json"]:
            schema, position = _embedded(text, position)
        yield match, schema, position


def _embedded(text: str, position: int) -> tuple[Any, int]:
    """The JSON at `position`, and where it ends."""
    try:
        return json.JSONDecoder().raw_decode(text, position)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise _Fault("%json must be followed by a JSON schema") from None


def _check_count(text: str, characters: str, what: str, limit: int) -> None:
    count = sum(map(text.count, characters))
    if count > limit:
        raise _Fault(f"must have at most {limit} {what}; got {count}")


def _escape(text: str) -> str:
    return "".join("\\" + char if char in _REGEX_SPECIAL else char for char in text)
