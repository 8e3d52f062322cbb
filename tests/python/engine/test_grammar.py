"""Grammars compiled by llguidance and followed by the compiled engine, on its FakeRunner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest

from mlc_server import _core
from mlc_server.engine import (
    AsyncEngine,
    CompletedChoice,
    Delta,
    GenerationRequest,
    GrammarCompiler,
    GrammarSpec,
    SamplingOptions,
)
from mlc_server.engine import grammar as grammar_module
from mlc_server.errors import GenerationFailed, InvalidRequest
from support.byte_model import EOS_ID, IS_SPECIAL, TOKEN_BYTES, VOCAB_SIZE
from support.fake_server import fake_core, fake_grammars
from support.heap import heap_growth
from support.schemas import all_schemas
from support.waiting import wait_for

SCHEMAS = list(all_schemas())
# What ends strings, lists and objects, so that random texts come to an end.
CLOSING = tuple((ord(character), 4.0) for character in '"]}')


@contextlib.asynccontextmanager
async def running(**runner: Any) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(fake_core(**runner), fake_grammars())
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def request(spec: GrammarSpec, **options: Any) -> GenerationRequest:
    num_choices = options.pop("num_choices", 1)
    sampling = SamplingOptions(**{"max_tokens": 3000, "logit_bias": CLOSING, **options})
    return GenerationRequest([65, 66], sampling, num_choices=num_choices, grammar=spec)


def schema_spec(schema: Any) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(schema))


def collect(*requests: GenerationRequest) -> list[list[CompletedChoice]]:
    async def scenario() -> list[list[CompletedChoice]]:
        async with running() as engine:
            return await asyncio.gather(*map(engine.collect, requests))

    return asyncio.run(scenario())


def refusal(spec: GrammarSpec) -> str:
    async def scenario() -> str:
        begin_s = time.perf_counter()
        with pytest.raises(InvalidRequest) as caught:
            await fake_grammars().compile(spec)
        assert time.perf_counter() - begin_s < 2.0  # no hang
        assert caught.value.param == spec.param
        return caught.value.message

    return asyncio.run(scenario())


# Following


def test_there_are_a_hundred_different_schemas() -> None:
    assert len({json.dumps(schema) for schema in SCHEMAS}) == len(SCHEMAS) >= 100


def test_every_output_of_every_schema_validates() -> None:
    outputs = collect(
        *(request(schema_spec(schema), seed=i, num_choices=3) for i, schema in enumerate(SCHEMAS))
    )
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for schema, choices in zip(SCHEMAS, outputs, strict=True):
        for choice in choices:
            assert choice.finish_reason == "stop", (schema, choice.text[:200])
            jsonschema.validate(
                json.loads(choice.text),
                schema,
                cls=jsonschema.Draft202012Validator,
                format_checker=checker,
            )


def test_greedy_outputs_validate_too() -> None:
    outputs = collect(*(request(schema_spec(schema), temperature=0.0) for schema in SCHEMAS[:40]))
    for schema, (choice,) in zip(SCHEMAS, outputs, strict=False):
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.text), schema)
        else:  # a text that the likeliest token never ends
            assert choice.finish_reason == "length"


def test_properties_come_in_the_order_of_the_schema() -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "null"} for name in "zax"},
        "required": ["a", "x", "z"],
        "additionalProperties": False,
    }
    [[choice]] = collect(request(schema_spec(schema)))
    assert choice.text == '{"z": null, "a": null, "x": null}'


def test_other_kinds_of_grammar_are_followed() -> None:
    texts = ["yes", "no", 'a/"b"', "line\nbreak", "ünï", "\\d", "."]
    outputs = collect(
        request(GrammarSpec("json_object"), num_choices=4),
        request(GrammarSpec("regex", r"(?i)ab[0-9]{2,4}|x{3}"), num_choices=4),
        request(GrammarSpec("choice", json.dumps(texts)), num_choices=16),
        request(GrammarSpec("lark", 'start: "<" A* ">"\nA: "ab" | "c"'), num_choices=4),
    )
    assert all(isinstance(json.loads(choice.text), dict) for choice in outputs[0])
    assert all(
        re.fullmatch(r"(?i)ab[0-9]{2,4}|x{3}", choice.text, re.ASCII) for choice in outputs[1]
    )
    assert all(choice.text in texts for choice in outputs[2])
    assert len({choice.text for choice in outputs[2]}) > 1
    assert all(re.fullmatch("<(ab|c)*>", choice.text) for choice in outputs[3])


@pytest.mark.parametrize(
    "spec",
    [
        schema_spec({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}),
        GrammarSpec(
            "lark",
            'start: "<" %json {"type": "array", "items": {"type": "integer"}, "minItems": 2, '
            '"maxItems": 3} ">"',
        ),
    ],
    ids=lambda spec: spec.kind,
)
def test_a_model_that_loves_blanks_gets_no_more_than_the_style_has(spec: GrammarSpec) -> None:
    blanks = tuple((ord(blank), 100.0) for blank in " \n\r\t")
    [choices] = collect(request(spec, logit_bias=(*CLOSING, *blanks), num_choices=4))
    for choice in choices:
        assert choice.finish_reason == "stop"
        assert re.fullmatch(r"<?\[-?\d+(, -?\d+){1,2}\]>?", choice.text), choice.text


def test_the_same_seed_gives_the_same_output_alone_and_in_a_crowd() -> None:
    crowd = [request(schema_spec(schema), seed=7, num_choices=2) for schema in SCHEMAS[:30]]
    together = collect(*crowd)
    assert [collect(one)[0] for one in crowd[::6]] == together[::6]


def test_masks_leave_the_tokenisation_to_the_model() -> None:
    """Where a text is forced, every token that begins it may be drawn, not only one tokenizer's."""
    texts = [b'{"', b"{", b'"a": ', b'"', b"a", b'": ', b":", b" ", b"1", b"}", b"1}", b"<eos>"]
    eos = len(texts) - 1
    vocabulary = _core.Vocabulary(texts, [token_id == eos for token_id in range(len(texts))])
    schema = {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}

    async def scenario() -> set[tuple[int, ...]]:
        runner = _core.FakeRunner(vocab_size=len(texts), page_size=16)
        config = _core.EngineConfig(
            page_size=16, num_pages=64, vocab_size=len(texts), eos_token_ids=[eos]
        )
        grammars = GrammarCompiler(vocabulary, [eos], len(texts))
        engine = AsyncEngine(_core.Engine(runner, vocabulary, config), grammars)
        engine.start()
        asked = GenerationRequest(
            [1],
            SamplingOptions(),
            num_choices=16,
            grammar=schema_spec({**schema, "type": "object"}),
        )
        choices = await engine.collect(asked)
        engine.close()
        assert {choice.text for choice in choices} == {'{"a": 1}'}
        return {tuple(choice.token_ids) for choice in choices}

    assert len(asyncio.run(scenario())) > 1


# Refusing


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}, "oneOf"),
        ({"type": "wibble"}, "wibble"),
        ({"type": "string", "format": "wobble"}, "wobble"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"$ref": "#"}, "no text"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"type": "integer", "minimum": "low"}, "minimum"),
        ({"enum": []}, "empty"),
        ({"const": "\ud800"}, "hex escape"),
    ],
)
def test_what_cannot_be_followed_is_named(schema: Any, named: str) -> None:
    assert named in refusal(schema_spec(schema))


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec("regex", "a?" * 1024),
        GrammarSpec("regex", "(a*)*" * 409),
        GrammarSpec("regex", "((a{1,100}){1,100}){1,100}b"),
        GrammarSpec("regex", "(.*a.*){50}x(.*b.*){50}"),
        GrammarSpec("regex", "(" * 1000 + "a" + ")" * 1000),
        GrammarSpec("lark", "start: " + "(" * 20000),
        GrammarSpec("lark", "start: " + "|".join(f'"x{i}"' for i in range(6000))),
        GrammarSpec("lark", 'start: start start | "a" | '),
        GrammarSpec("lark", "\n".join(f"r{i}: r{i + 1}" for i in range(1000)) + '\nstart: "a"'),
        schema_spec({"enum": [f"value {i}" for i in range(4900)]}),
        schema_spec({"type": "object", "properties": {str(i): {} for i in range(512)}}),
        schema_spec(
            {"type": "array", "maxItems": 10**6, "items": {"items": {}, "minItems": 10**9}}
        ),
        schema_spec({"type": "string", "minLength": 10**9}),
        schema_spec(
            {
                "$ref": "#/$defs/0",
                "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(30)}
                | {"30": {}},
            }
        ),
        schema_spec(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(5)]}
                    for i in range(12)
                ]
            }
        ),
    ],
    ids=lambda spec: spec.source[:24],
)
def test_a_hostile_grammar_is_refused_or_followed_while_others_go_on(spec: GrammarSpec) -> None:
    """Its request may fail; the engine, and a stream beside it, may not."""

    async def scenario() -> None:
        async with running() as engine:
            beside: list[Delta] = []
            free = GenerationRequest([65], SamplingOptions(max_tokens=2000, ignore_eos=True))
            engine.submit(free, beside.extend)
            begin_s = time.perf_counter()
            with contextlib.suppress(InvalidRequest, GenerationFailed):
                await engine.collect(request(spec, max_tokens=50, num_choices=2))
            assert time.perf_counter() - begin_s < 2.0
            while not (beside and beside[-1].finish_reason):
                await asyncio.sleep(0.01)
            assert beside[-1].finish_reason == "length"
            assert engine.health() == "ok"
            wait_for(lambda: engine.stats().free_pages == engine.stats().total_pages, 5.0)

    asyncio.run(scenario())


def test_a_grammar_that_fails_while_it_is_followed_ends_its_request_only() -> None:
    # After its first letter there are more ways to go on than the compiler's limits allow.
    failing = request(GrammarSpec("regex", "a?" * 1024), logit_bias=[(ord("a"), 100.0)])

    async def scenario() -> None:
        async with running() as engine:
            good = asyncio.create_task(engine.collect(request(schema_spec(SCHEMAS[0]))))
            with pytest.raises(GenerationFailed, match="cannot follow its grammar any further"):
                await engine.collect(failing)
            assert (await good)[0].finish_reason == "stop"
            assert engine.health() == "ok"
            assert engine.stats().finished_error == 1

    asyncio.run(scenario())


def test_a_long_message_is_cut_between_characters() -> None:
    for padding in range(4):
        assert "regex" in refusal(GrammarSpec("regex", "(" + "x" * padding + "é☃𝄞" * 400))


def test_an_engine_without_a_compiler_refuses_grammars() -> None:
    async def scenario() -> None:
        engine = AsyncEngine(fake_core())
        engine.start()
        with pytest.raises(InvalidRequest, match="not supported"):
            await engine.collect(request(GrammarSpec("json_object")))
        engine.close()

    asyncio.run(scenario())


def test_the_core_names_what_it_does_not_take() -> None:
    library = str(grammar_module.llguidance_library())
    vocabulary = _core.Vocabulary(TOKEN_BYTES, IS_SPECIAL)
    with pytest.raises(_core.CoreError, match="got 257"):
        _core.GrammarCompiler(library, vocabulary, [VOCAB_SIZE], VOCAB_SIZE)
    compiler = _core.GrammarCompiler(library, vocabulary, [EOS_ID], VOCAB_SIZE)
    kind: Any = "gbnf"
    with pytest.raises(_core.CoreError, match="gbnf"):
        compiler.compile(kind, "root ::= x")
    with pytest.raises(_core.CoreError, match=r"U\+0000"):
        compiler.compile("regex", "a\0b")
    # Larger logits than the vocabulary: what stands for nothing is never allowed.
    _core.GrammarCompiler(library, vocabulary, [], 4096).compile("regex", ".*")


@pytest.mark.skipif(_core.heap_bytes() == 0, reason="the C library does not tell")
def test_a_compiler_for_trials_is_small_and_judges_alike() -> None:
    library = str(grammar_module.llguidance_library())
    texts = [bytes([byte]) for byte in range(255)]
    texts += [f"{number}".encode() for number in range(10, 20_000)]
    vocabulary = _core.Vocabulary(texts, [False] * len(texts))

    def compiler(for_trial: bool) -> _core.GrammarCompiler:
        return _core.GrammarCompiler(library, vocabulary, [0], len(texts), for_trial=for_trial)

    for for_trial in (True, False):
        one = compiler(for_trial)
        one.compile("json_schema", '{"type": "string", "maxLength": 20}')
        with pytest.raises(_core.CoreError, match="unclosed"):
            one.compile("regex", "(")
    sizes = [
        heap_growth(lambda _, for_trial=for_trial: compiler(for_trial), 3)
        for for_trial in (True, False)
    ]
    assert 0 < sizes[0] < sizes[1] / 2
