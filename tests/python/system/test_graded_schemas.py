"""Two hundred JSON schemas on the default model, all asked at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import jsonschema
import pytest

from mlc_server.engine import AsyncEngine, CompletedChoice, GrammarSpec
from mlc_server.errors import InvalidRequest
from support.default_model import DefaultModel
from support.graded_schemas import REFUSED, TOTAL, graded_schemas
from support.schemas import Schema
from support.talk import Talk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("default_model"),
]

MAX_TOKENS = 200
SCHEMAS = graded_schemas()


async def answer(
    engine: AsyncEngine, talk: Talk, schema: Schema, seed: int
) -> CompletedChoice | InvalidRequest:
    text = json.dumps(schema)
    request = talk.request(
        "Give an example in JSON.",  # short: most of the time is for the answers
        GrammarSpec("json_schema", text),
        temperature=0.7,
        seed=seed,
        max_tokens=MAX_TOKENS,
    )
    try:
        [choice] = await engine.collect(await engine.prepare(request))
    except InvalidRequest as error:
        return error
    return choice


def test_every_finished_output_validates_and_the_rest_is_refused_by_name(
    model: DefaultModel,
) -> None:
    talk = Talk(model)

    async def scenario() -> list[CompletedChoice | InvalidRequest]:
        engine = AsyncEngine(talk.core, talk.grammars)
        engine.start()
        busy = asyncio.Semaphore(48)

        async def one(schema: Schema, seed: int) -> CompletedChoice | InvalidRequest:
            async with busy:
                return await answer(engine, talk, schema, seed)

        try:
            asked = [*SCHEMAS, *(schema for schema, _ in REFUSED)]
            return await asyncio.gather(*(one(schema, i) for i, schema in enumerate(asked)))
        finally:
            engine.close()

    answers = asyncio.run(scenario())
    assert len(answers) == TOTAL == len({json.dumps(s) for s in SCHEMAS}) + len(REFUSED)
    ends: Counter[str | None] = Counter()
    for schema, choice in zip(SCHEMAS, answers, strict=False):
        assert isinstance(choice, CompletedChoice), (schema, choice)
        ends[choice.finish_reason] += 1
        if choice.finish_reason == "stop":
            jsonschema.validate(
                json.loads(choice.text), schema, cls=jsonschema.Draft202012Validator
            )
        else:  # a number or a text whose end the model never chose
            assert choice.finish_reason == "length"
            assert choice.completion_tokens == MAX_TOKENS
    for (schema, named), refusal in zip(REFUSED, answers[len(SCHEMAS) :], strict=True):
        assert isinstance(refusal, InvalidRequest), (schema, refusal)
        assert named in refusal.message
    print(f"{dict(ends)}, {len(REFUSED)} refused")
    assert ends["stop"] >= 0.85 * len(SCHEMAS)
