"""Histories with several calls in one message, under templates that can show one only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlc_server.text.chat_template import JinjaTemplate
from mlc_server.text.prompt import PromptBuilder
from mlc_server.text.tools.single_calls import one_call_at_a_time, shows_parallel_calls
from support.tiny_model import write_tiny_tokenizer

# What Llama 3.1's template does with tools, cut down.
LLAMA = """{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<assistant>{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}" }}
    {%- elif message.role == "tool" %}{{- '<ipython>' + message.content }}
    {%- else %}{{- '<' + message.role + '>' + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{% endif %}"""
# Shows the first call only, without a word.
FIRST_ONLY = LLAMA.replace("not message.tool_calls|length == 1", "false")
ALL = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}{% endfor %}"
    "{{ tools }}"
)
NONE = "{{ tools }}{{ raise_exception('no talk of tools') }}"


def call(id_: str, name: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": {"x": id_}}}


def result(id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": f"result {id_}"}


USER = {"role": "user", "content": "go"}
BOTH = {"role": "assistant", "content": "Both.", "tool_calls": [call("1", "f"), call("2", "g")]}
LAST = {"role": "assistant", "content": "Done."}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]


@pytest.mark.parametrize(
    ("source", "parallel"), [(LLAMA, False), (FIRST_ONLY, False), (ALL, True), (NONE, True)]
)
def test_templates_that_show_one_call_are_recognised(source: str, parallel: bool) -> None:
    assert shows_parallel_calls(JinjaTemplate(source, {})) == parallel


def test_calls_come_one_by_one_each_with_its_result() -> None:
    divided = one_call_at_a_time([USER, BOTH, result("2"), result("1"), LAST])
    assert divided == [
        USER,
        {**BOTH, "tool_calls": [call("1", "f")]},
        result("1"),
        {**BOTH, "content": "", "tool_calls": [call("2", "g")]},
        result("2"),
        LAST,
    ]


def test_other_messages_stay_as_they_are() -> None:
    single = {"role": "assistant", "content": "", "tool_calls": [call("1", "f")]}
    for messages in ([USER, single, result("1"), LAST], [USER], []):
        assert one_call_at_a_time(messages) == messages
    missing = one_call_at_a_time([single, result("1"), BOTH, result("1"), result("3")])
    assert [m.get("tool_call_id") for m in missing] == [None, "1", None, "1", None, "3"]


def test_no_result_is_told_twice() -> None:
    """Some servers number the calls of each answer anew, or give all the same id."""
    twice = {**BOTH, "tool_calls": [call("1", "f"), call("1", "g")]}
    first, second = ({**result("1"), "content": text} for text in ("a", "b"))
    divided = one_call_at_a_time([twice, first, second, result("1")])
    assert [m["content"] for m in divided] == ["Both.", "a", "", "b", "result 1"]


@pytest.mark.parametrize("source", [LLAMA, FIRST_ONLY])
def test_a_history_of_parallel_calls_reaches_the_prompt(tmp_path: Path, source: str) -> None:
    write_tiny_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": source}))
    prompts = PromptBuilder.from_folder(tmp_path, {})
    text = prompts.render([USER, BOTH, result("1"), result("2")], TOOLS)
    assert text.endswith(
        '<user>go<assistant>{"name": "f", "parameters": {"x": "1"}}<ipython>result 1'
        '<assistant>{"name": "g", "parameters": {"x": "2"}}<ipython>result 2<assistant>'
    )
