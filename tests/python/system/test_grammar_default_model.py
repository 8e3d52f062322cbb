"""The default model held to grammars: real logits, and tokens of many letters."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from mlc_server.engine import (
    AsyncEngine,
    CompletedChoice,
    GrammarSpec,
)
from support.default_model import DefaultModel
from support.schemas import OBJECTS, RECURSIVE, SCALARS
from support.talk import MAX_TOKENS, Talk

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

MOVIE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "genres": {"type": "array", "items": {"enum": ["drama", "comedy", "war"]}, "maxItems": 2},
        "rating": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 10},
        "sequel": {"type": ["string", "null"], "maxLength": 40},
    },
    "required": ["title", "year", "genres", "rating", "sequel"],
    "additionalProperties": False,
}
SCHEMAS = [MOVIE, *RECURSIVE, *OBJECTS, *SCALARS]
CAPITALS = [
    f"The capital of {country} is {city}."
    for country, city in (("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"))
]


@pytest.fixture(scope="module")
def outputs(model: DefaultModel) -> dict[str, list[CompletedChoice]]:
    """The answers to every request of this module, all asked at once on one engine."""
    talk = Talk(model)
    schemas = [
        talk.request(
            f"Answer in JSON that fits this schema: {json.dumps(schema)}",
            GrammarSpec("json_schema", json.dumps(schema)),
            temperature=0.0 if index % 2 else 0.8,
            seed=index,
        )
        for index, schema in enumerate(SCHEMAS)
    ]
    movie = "Describe the film Casablanca in JSON."
    free = talk.request(movie, GrammarSpec("json_object"), temperature=0.7, seed=3)
    asked = {
        "schemas": schemas,
        "again": [replace(schemas[0]), replace(schemas[4])],
        "objects": [free, replace(free, grammar=GrammarSpec("json_schema", json.dumps(MOVIE)))],
        "choices": [
            talk.request(
                f"What is the capital of {country}? Answer in one sentence.",
                GrammarSpec("choice", json.dumps(CAPITALS)),
                temperature=0.0,
            )
            for country in ("France", "Germany", "Italy")
        ],
        "patterns": [
            talk.request(
                "When did it begin?", GrammarSpec("regex", r"\d{4}-\d{2}-\d{2}"), seed=seed
            )
            for seed in range(4)
        ],
    }

    async def scenario() -> dict[str, list[CompletedChoice]]:
        engine = AsyncEngine(talk.core, talk.grammars)
        engine.start()
        try:
            flat = [one for group in asked.values() for one in group]
            done = iter(await asyncio.gather(*map(engine.collect, flat)))
            return {name: [next(done)[0] for _ in group] for name, group in asked.items()}
        finally:
            engine.close()

    return asyncio.run(scenario())


def test_every_output_validates(outputs: dict[str, list[CompletedChoice]]) -> None:
    ended = 0
    for schema, choice in zip(SCHEMAS, outputs["schemas"], strict=True):
        if choice.finish_reason == "stop":
            jsonschema.validate(
                json.loads(choice.text), schema, cls=jsonschema.Draft202012Validator
            )
            ended += 1
        else:  # a number, or a list of lists, whose end the model never chose
            assert choice.finish_reason == "length"
            assert choice.completion_tokens == MAX_TOKENS
    print(f"{ended} of {len(SCHEMAS)} outputs came to their end")
    assert len(SCHEMAS) >= 30
    assert ended >= 0.7 * len(SCHEMAS)


def test_the_same_seed_gives_the_same_tokens(outputs: dict[str, list[CompletedChoice]]) -> None:
    assert outputs["again"] == [outputs["schemas"][0], outputs["schemas"][4]]


def test_an_object_is_one(outputs: dict[str, list[CompletedChoice]]) -> None:
    free, described = outputs["objects"]
    assert described.finish_reason == "stop"
    jsonschema.validate(json.loads(described.text), MOVIE)
    assert free.text.startswith("{")
    assert free.finish_reason == "length" or isinstance(json.loads(free.text), dict)


def test_the_model_still_chooses_among_what_is_allowed(
    outputs: dict[str, list[CompletedChoice]],
) -> None:
    assert [choice.text for choice in outputs["choices"]] == CAPITALS
    for choice in outputs["patterns"]:
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", choice.text)
