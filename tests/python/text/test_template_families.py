"""Conversations as clients send them, under templates cut down from those of the common families.

Each keeps what is peculiar to its family: which roles it knows and in what order, how it tells of
tools, what it does with reasoning, the helpers of Jinja it relies on.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlc_server.errors import InvalidRequest
from mlc_server.text.prompt import PromptBuilder
from mlc_server.text.template_options import TemplateOptions
from support.tiny_model import write_tiny_tokenizer

# Qwen 2.5 and 3: ChatML, tools in tags, results as one user turn, reasoning taken out of history.
QWEN = r"""{%- macro turn(role, text) %}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro %}
{%- set head = messages[0].content if messages[0].role == 'system' else '' %}
{%- if tools %}
    {%- set shown = tools | map('tojson') | join('\n') %}
    {{- turn('system', head + '\nUse <tool_call>:\n<tools>' + shown + '</tools>') }}
{%- elif head %}{{- turn('system', head) }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set text = m.content %}
        {%- if not loop.last and '</think>' in text %}
            {%- set text = text.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- set ns = namespace(text=text) %}
        {%- for call in m.tool_calls or [] %}
            {%- set f = call.function %}
            {%- set written = {'name': f.name, 'arguments': f.arguments} | tojson %}
            {%- set ns.text = ns.text + '\n<tool_call>\n' + written + '\n</tool_call>' %}
        {%- endfor %}
        {{- turn('assistant', ns.text) }}
    {%- elif m.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- elif not (loop.first and m.role == 'system') %}{{- turn(m.role, m.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
# Llama 3.1: a date, tools in the first user message, one call a message, results from ipython.
LLAMA_3 = r"""{%- if date_string is not defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{%- macro turn(role, text) %}<|start|>{{ role }}<|end|>
{{ text | trim }}<|eot|>
{% endmacro %}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{%- set head = messages[0].content if messages[0].role == 'system' else '' %}
{{- bos_token + turn('system', 'Today: ' + date_string + '\n' + head) }}
{%- if tools is not none %}
    {%- if not rest %}{{- raise_exception('nobody to tell of the tools') }}{%- endif %}
    {%- set form = 'Write {"name": ..., "parameters": {...}}. ' %}
    {{- turn('user', form + (tools | tojson(indent=4)) + '\n' + rest[0].content) }}
    {%- set rest = rest[1:] %}
{%- endif %}
{%- for m in rest %}
    {%- if 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at once') }}{%- endif %}
        {%- set f = m.tool_calls[0].function %}
        {{- turn('assistant', {'name': f.name, 'parameters': f.arguments} | tojson) }}
    {%- elif m.role == 'tool' %}{{- turn('ipython', m.content) }}
    {%- else %}{{- turn(m.role, m.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\n' }}{%- endif %}"""
# Mistral: turns in order, the system message in the last user turn, tools before it, ids of nine.
MISTRAL = r"""{%- macro id(text) %}
    {%- if text | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
    {{- '"id": "' + text + '"' }}
{%- endmacro %}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{%- set head = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- set spoken = namespace(count=0) %}
{%- for m in rest if m.role != 'tool' and m.tool_calls is not defined %}
    {%- if (m.role == 'user') != (spoken.count % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- set spoken.count = spoken.count + 1 %}
{%- endfor %}
{%- set last_user = (rest | selectattr('role', 'equalto', 'user') | list)[-1] %}
{{- bos_token }}
{%- for m in rest %}
    {%- if m.role == 'user' %}
        {%- if m == last_user and tools is not none %}{{- '[TOOLS]' + tools | tojson }}{%- endif %}
        {{- '[INST] ' + (head if m == last_user else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {{- (call.function | tojson)[:-1] + ', ' + id(call.id) + '}' }}
            {{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[RESULT]{' + id(m.tool_call_id) + ', "content": ' + m.content + '}' }}
    {%- else %}{{- raise_exception('no such role') }}
    {%- endif %}
{%- endfor %}"""
# Gemma 2: no system role, turns in order, the assistant is called model.
GEMMA = r"""{{ bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- raise_exception('there is no system') }}{%- endif %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- set name = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + name + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""
# Phi-3: a tag for each role it knows, nothing for others.
PHI_3 = r"""{% for m in messages if m.role in ['system', 'user', 'assistant'] %}
<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}"""
# DeepSeek R1: system messages gathered, reasoning cut off, the answer begins with thinking.
DEEPSEEK = r"""{%- set said = messages | selectattr('role', 'equalto', 'system') %}
{{- bos_token + said | map(attribute='content') | join('\n\n') }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{%- continue %}{%- endif %}
    {%- set text = m.content.split('</think>')[-1] if m.role == 'assistant' else m.content %}
    {{- '<|' + m.role | capitalize + '|>' + text }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{%- endif %}"""
# SmolLM2: ChatML that puts in a system message where there is none.
SMOLLM_2 = r"""{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nHello.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
FAMILIES = {
    "qwen": (QWEN, "hermes"),
    "llama 3": (LLAMA_3, "llama3_json"),
    "mistral": (MISTRAL, "mistral"),
    "gemma": (GEMMA, "hermes"),
    "phi 3": (PHI_3, "hermes"),
    "deepseek": (DEEPSEEK, "hermes"),
    "smollm 2": (SMOLLM_2, "hermes"),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    write_tiny_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())

    def make(family: str) -> PromptBuilder:
        fields = {"chat_template": FAMILIES[family][0], "bos_token": "<s>", "eos_token": "</s>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | fields))
        return PromptBuilder.from_folder(tmp_path, {})

    return make


def say(role: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def call(id_: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": id_, "type": "function", "function": function}


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "<é>", "parameters": PARAMETERS},
    }
]
TWO_CALLS = [call("call_a", city="Ås"), call("call_b", city="Rome")]
CHATS = {
    "question": [say("user", "Q1")],
    "system": [say("system", "S1"), say("user", "Q1")],
    "developer": [
        say("developer", "S1"),
        say("user", "Q1"),
        say("assistant", "A1"),
        say("user", "Q2"),
    ],
    "repeated": [say("user", "Q1"), say("user", "Q2"), say("assistant", "A1"), say("user", "Q3")],
    "no user": [say("system", "S1")],
    "tools": [
        say("system", "S1"),
        say("user", "Q1"),
        say("assistant", "", tool_calls=[TWO_CALLS[0]]),
        say("tool", "R1", tool_call_id="call_a"),
        say("assistant", "A1"),
        say("user", "Q2"),
        say("assistant", "", tool_calls=TWO_CALLS),
        say("tool", "R2", tool_call_id="call_a"),
        say("tool", "R3", tool_call_id="call_b"),
    ],
    "tools and on": [
        say("user", "Q1"),
        say("assistant", "", tool_calls=TWO_CALLS),
        say("tool", "R1", tool_call_id="call_a"),
        say("tool", "R2", tool_call_id="call_b"),
        say("user", "Q2"),
    ],
}
# What a family's template itself refuses, or does not show.
NOT_TAKEN = {("llama 3", "no user"), ("mistral", "no user"), ("mistral", "tools and on")}


@each_family
def test_the_format_of_calls_is_recognised(family: str, make: Any) -> None:
    assert make(family).tools.format == FAMILIES[family][1]


@each_family
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["plain", "tools"])
def test_all_that_was_said_reaches_the_model_once(
    family: str, chat: str, tools: Any, make: Any
) -> None:
    if (family, chat) in NOT_TAKEN:
        pytest.skip("the template does not take it")
    messages = CHATS[chat]
    text = make(family).render(messages, tools)
    said = [message["content"] for message in messages if message["content"]]
    assert [text.count(content) for content in said] == [1] * len(said)
    dialogue = [content for content in said if content[0] != "S"]
    assert sorted(dialogue, key=text.index) == dialogue
    assert text.count("Ås") == str(messages).count("Ås")
    assert ("<é>" in text) == bool(tools)


@each_family
def test_the_models_turn_comes_last(family: str, make: Any) -> None:
    prompts, chat = make(family), CHATS["system"]
    opened = prompts.render(chat)
    closed = prompts.render(chat, (), TemplateOptions(add_generation_prompt=False))
    assert opened.startswith(closed)
    assert (opened != closed) == (family != "mistral")


@each_family
def test_a_begun_answer_is_gone_on_with(family: str, make: Any) -> None:
    options = TemplateOptions(add_generation_prompt=False, continue_final=True)
    chat = [*CHATS["system"], say("assistant", "Once upon a")]
    assert make(family).render(chat, (), options).endswith("Once upon a")


@pytest.mark.parametrize(
    ("family", "variables", "end"),
    [
        ("qwen", {"enable_thinking": False}, "assistant\n<think>\n\n</think>\n\n"),
        ("qwen", {}, "assistant\n"),
        ("deepseek", {"enable_thinking": False}, "<think>\n"),
    ],
)
def test_thinking_is_asked_for_as_the_template_has_it(
    family: str, variables: Any, end: str, make: Any
) -> None:
    prompts = make(family)
    assert prompts.render(CHATS["question"], (), TemplateOptions(variables)).endswith(end)
    assert ("enable_thinking" in prompts.template.variables) == (family == "qwen")


@pytest.mark.parametrize("family", ["qwen", "deepseek"])
def test_reasoning_in_the_history_is_the_templates_to_drop(family: str, make: Any) -> None:
    thought = say("assistant", "<think>\nhm\n</think>\n\nA1")
    text = make(family).render([say("user", "Q1"), thought, say("user", "Q2")])
    assert "A1" in text
    assert "hm" not in text


def test_dates_can_be_given_or_are_todays(make: Any) -> None:
    prompts = make("llama 3")
    assert "Today: now<" in prompts.render(
        CHATS["question"], (), TemplateOptions({"date_string": "now"})
    )
    assert datetime.now().strftime("Today: %d %b %Y") in prompts.render(CHATS["question"])


def test_what_a_template_says_of_a_conversation_is_what_the_client_hears(make: Any) -> None:
    begun = [say("assistant", "Hello."), say("user", "Q1")]
    for family in ("gemma", "mistral"):
        with pytest.raises(InvalidRequest, match="must take turns") as caught:
            make(family).render(begun)
        assert caught.value.param == "messages"
