"""What chat templates say of tools."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_server.errors import UserError
from mlc_server.text.chat_template import JinjaTemplate
from mlc_server.text.tools.support import choose_format

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
HERMES = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>"
    "{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}"
    "</tool_call>{% endfor %}\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "native", "format_"),
    [
        (PLAIN, False, "hermes"),
        (HERMES, True, "hermes"),
        ("{{ tools }}[TOOL_CALLS]", True, "mistral"),
        ('{{ tools }}<|python_tag|>{"name": function, "parameters": {}}', True, "llama3_json"),
        ("{{ tools }}[func_name1(params_name1=value), func_name2()]", True, "pythonic"),
        ("{% if tools is defined %}{{ tools }}{% endif %}", True, "hermes"),
        ("the word tools, and {# tools #} in a comment", False, "hermes"),
    ],
)
def test_the_template_tells_the_format(source: str, native: bool, format_: str) -> None:
    template = JinjaTemplate(source, {})
    assert template.knows_tools == native
    assert choose_format(template.source, native=native) == format_


def test_another_format_needs_a_template_with_tools() -> None:
    assert choose_format(HERMES, native=True, wanted="pythonic") == "pythonic"
    assert choose_format(PLAIN, native=False, wanted="hermes") == "hermes"
    with pytest.raises(UserError, match="--tool-call-parser mistral"):
        choose_format(PLAIN, native=False, wanted="mistral")


def test_native_templates_get_tools_calls_and_results() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert JinjaTemplate(HERMES, {}).render(messages, tools) == (
        '<tools>{"type": "function", "function": {"name": "f"}}</tools>'
        'assistant:<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>tool:done'
    )


def test_a_template_for_tools_is_used_for_conversations_with_tools() -> None:
    template = JinjaTemplate("plain", {}, tool_source="with {{ tools | length }}")
    hello = [{"role": "user", "content": "hi"}]
    assert template.knows_tools
    assert template.render(hello) == "plain"
    assert template.render(hello, [{"type": "function"}]) == "with 1"
