"""Classes of characters mean those of ASCII, wherever they stand, and nothing else changes."""

from __future__ import annotations

import asyncio
import json

import pytest

from mlc_server.engine import AsyncEngine, GenerationRequest, GrammarSpec, SamplingOptions
from mlc_server.engine.regex_dialect import ascii_classes, with_ascii_patterns
from support.fake_server import fake_core, fake_grammars


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^\d+$", r"^[0-9]+$"),
        (r"[\w.-]+@\W", r"[[0-9A-Za-z_].-]+@[^0-9A-Za-z_]"),
        (r"[^\D]", r"[^[^0-9]]"),
        (r"\\d\\\d\.", r"\\d\\[0-9]\."),
        ("plain", "plain"),
    ],
)
def test_classes_are_replaced_and_escapes_are_not(pattern: str, expected: str) -> None:
    assert ascii_classes(pattern) == expected


def test_only_patterns_of_a_schema_are_changed() -> None:
    schema = {
        "properties": {
            "pattern": {"const": {"pattern": r"\d"}},
            r"\d": {"pattern": r"\d", "enum": [{"pattern": r"\w"}]},
        },
        "patternProperties": {r"^\w$": {"items": [{"pattern": r"\w"}, True]}},
        "default": r"\d",
        "anyOf": [{"pattern": r"\D"}],
        "$defs": {"default": {"pattern": r"\d"}},
    }
    changed = json.loads(json.dumps(schema))
    changed["properties"][r"\d"]["pattern"] = "[0-9]"
    changed["patternProperties"] = {
        "^[0-9A-Za-z_]$": {"items": [{"pattern": "[0-9A-Za-z_]"}, True]}
    }
    changed["anyOf"] = [{"pattern": "[^0-9]"}]
    changed["$defs"]["default"]["pattern"] = "[0-9]"
    assert with_ascii_patterns(schema) == changed


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec("regex", r"\d{3}[\w-]{3}[^\D]{2}"),
        GrammarSpec("json_schema", json.dumps({"type": "string", "pattern": r"^\d\w[\d.-]{4}$"})),
    ],
)
def test_outputs_are_ascii(spec: GrammarSpec) -> None:
    async def scenario() -> list[str]:
        engine = AsyncEngine(fake_core(), fake_grammars())
        engine.start()
        try:
            asked = GenerationRequest(
                [65], SamplingOptions(temperature=2.0), num_choices=16, grammar=spec
            )
            return [choice.text for choice in await engine.collect(asked)]
        finally:
            engine.close()

    texts = asyncio.run(scenario())
    assert len(set(texts)) > 4
    assert all(text.isascii() for text in texts)
