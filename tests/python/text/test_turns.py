"""Conversations as clients send them, under templates that are particular about turns."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_server.text.chat_template import JinjaTemplate
from mlc_server.text.mlc_template import MlcTemplate
from mlc_server.text.turns import TurnRules

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Gemma 2 has it: no system role, turns in order.
GEMMA = """{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for m in messages %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
<turn>{{ 'model' if m.role == 'assistant' else m.role }}: {{ m.content | trim }}
{% endfor %}"""
# As Mistral has it: a system message, turns in order.
MISTRAL = """{% if messages[0].role == 'system' %}{% set system = messages[0].content %}
{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}
{% for m in rest %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
[{{ m.role }}]{% if loop.last and system is defined %}{{ system }}
{% endif %}{{ m.content }}
{% endfor %}"""
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
FAILS = "{{ raise_exception('always') }}"


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


SYSTEM, USER = message("system", "Be brief."), message("user", "Hi.")
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        (CHATML, TurnRules()),
        (GEMMA, TurnRules(has_system=False, repeats=False)),
        (MISTRAL, TurnRules(has_system=True, repeats=False)),
        (DROPS_SYSTEM, TurnRules(has_system=False, repeats=True)),
        (FAILS, TurnRules(has_system=False, repeats=True)),
    ],
)
def test_rules_are_found_by_looking(source: str, rules: TurnRules) -> None:
    assert TurnRules.of(JinjaTemplate(source, {})) == rules


def test_mlc_templates_have_both() -> None:
    template = MlcTemplate({"roles": {"user": "u:", "assistant": "a:"}})
    assert TurnRules.of(template) == TurnRules()


def test_templates_that_take_everything_get_it_as_it_is() -> None:
    messages = [SYSTEM, USER, USER, SYSTEM]
    assert TurnRules().applied(messages) == messages


def test_instructions_go_before_the_next_question() -> None:
    rules = TurnRules(has_system=False)
    assert rules.applied([SYSTEM, USER]) == [message("user", "Be brief.\n\nHi.")]
    answer = message("assistant", "Hello.")
    later = [USER, answer, message("developer", "In French."), SYSTEM, message("user", "Again.")]
    assert rules.applied(later) == [
        USER,
        answer,
        message("user", "In French.\n\nBe brief.\n\nAgain."),
    ]
    assert rules.applied([USER, SYSTEM]) == [USER, message("user", "Be brief.")]
    assert rules.applied([SYSTEM, answer, USER]) == [answer, message("user", "Be brief.\n\nHi.")]


def test_neighbours_of_one_role_become_one_message() -> None:
    rules = TurnRules(repeats=False)
    calling = message("assistant", "", tool_calls=[CALL])
    results = [message("tool", "a", tool_call_id="1"), message("tool", "b", tool_call_id="2")]
    messages = [USER, message("user", ""), message("user", "You?"), message("assistant", "So.")]
    assert rules.applied([*messages, calling, calling, *results, USER]) == [
        message("user", "Hi.\n\nYou?"),
        message("assistant", "So.", tool_calls=[CALL]),
        calling,
        *results,
        USER,
    ]


@pytest.mark.parametrize("source", [CHATML, GEMMA, MISTRAL, DROPS_SYSTEM])
def test_nothing_a_client_says_is_lost(source: str) -> None:
    template = JinjaTemplate(source, {})
    messages = [
        message("developer", "one"),
        SYSTEM,
        message("user", "two"),
        message("user", "three"),
        message("assistant", "four"),
        message("assistant", "five"),
        message("user", "six"),
    ]
    if source == MISTRAL:
        del messages[1]  # it takes one system message, the first
    text = template.render(TurnRules.of(template).applied(messages))
    said = [m["content"] for m in messages]
    assert all(content in text for content in said)
    if source != MISTRAL:
        assert sorted(said, key=text.index) == said
