"""Jinja chat templates: what Hugging Face templates rely on, and what a hostile one cannot do."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pytest

from mlc_server import limits
from mlc_server.errors import InvalidRequest, UserError
from mlc_server.text import sandbox
from mlc_server.text.chat_template import JinjaTemplate
from mlc_server.text.template_options import TemplateOptions

HI = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict[str, str]] | None = None, **tokens: str) -> str:
    return JinjaTemplate(source, tokens).render(HI if messages is None else messages)


def test_blocks_leave_no_line_breaks_behind() -> None:
    source = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    )
    assert render(source) == "hi\n"


def test_special_tokens_and_the_generation_prompt_are_there() -> None:
    source = "{{ bos_token }}{{ messages[0]['content'] }}{% if add_generation_prompt %}>{% endif %}"
    assert render(source, bos_token="<s>") == "<s>hi>"


def test_tojson_keeps_characters_as_they_are() -> None:
    source = "{{ messages[0] | tojson }}|{{ messages[0] | tojson(indent=1) }}"
    text = render(source, [{"role": "user", "content": "<é'&"}])
    assert text.startswith('{"role": "user", "content": "<é\'&"}|{\n "role"')


def test_strftime_now_formats_the_present() -> None:
    template = JinjaTemplate("{{ strftime_now('%d %b %Y') }}", {}, now=lambda: datetime(2026, 1, 2))
    assert template.render(HI) == "02 Jan 2026"


def test_tools_and_documents_are_defined_as_nothing() -> None:
    assert render("{% if tools is none and documents is none %}none{% endif %}") == "none"


def test_loop_controls_and_generation_blocks() -> None:
    assert (
        render("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "1"
    )
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "hi"


def test_raise_exception_is_the_clients_fault() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{{ 1 // 0 }}", "{{ messages[9].content.x }}", "{{ messages + 1 }}", "{{ nope() }}"]
)
def test_a_template_that_fails_is_a_refusal_without_internals(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render(source)
    assert caught.value.param == "messages"
    assert ".py" not in caught.value.message


@pytest.mark.parametrize(
    ("role", "source", "expected"),
    [
        ("developer", "{{ messages[0].role }}", "system"),
        ("developer", "{# developer #}{{ messages[0].role }}", "system"),
        (
            "developer",
            "{% if messages[0].role == 'developer' %}{{ messages[0].content }}{% endif %}",
            "x",
        ),
        ("user", "{{ messages[0].role }}", "user"),
    ],
)
def test_developer_is_system_to_templates_that_do_not_know_it(
    role: str, source: str, expected: str
) -> None:
    assert render(source, [{"role": role, "content": "x"}]) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ lipsum.__globals__['os'].popen('true').read() }}",
        "{{ (1).__class__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ range(10**9) | list }}",
    ],
)
def test_a_hostile_template_reaches_nothing(source: str) -> None:
    """Refused, or rendered to nothing at all (jinja's undefined)."""
    try:
        text = render(source)
    except (InvalidRequest, UserError):
        return
    assert text == ""


def test_messages_of_the_caller_are_left_alone() -> None:
    messages = [{"role": "developer", "content": "x"}]
    render("{{ messages[0].role }}", messages)
    assert messages == [{"role": "developer", "content": "x"}]


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(limits.MAX_RENDERED_CHARACTERS, default=100)
    monkeypatch.setattr(sandbox, "MAX_RENDERED_CHARACTERS", small)
    assert len(render("{{ 'x' * 100 }}")) == 100
    with pytest.raises(InvalidRequest, match="more than 100 characters"):
        render("{{ 'x' * 101 }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
        "{% for a in messages %}{% for b in messages %}{{ a.x or b.x }}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% for i in range(2) %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}",
    ],
)
def test_time_is_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = JinjaTemplate(source, {})
    small = replace(limits.RENDER_TIMEOUT_MS, default=20)
    monkeypatch.setattr(sandbox, "RENDER_TIMEOUT_MS", small)
    begin_s = time.thread_time()
    with pytest.raises(InvalidRequest) as caught:
        template.render([{"role": "user", "content": "x"}] * 4096)
    assert caught.value.param == "messages"
    assert time.thread_time() - begin_s < 1
    # The next one has its own time.
    assert JinjaTemplate("{{ messages[0].content }}", {}).render(HI) == "hi"


def test_the_variables_a_template_reads_are_known() -> None:
    source = (
        "{% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}"
        "{{ bos_token }}{{ date_string }}{% if enable_thinking is false %}-{% endif %}"
        "{% set ns = namespace(x=1) %}{{ ns.x }}{{ messages }}{{ tools }}{{ strftime_now('') }}"
        "{{ add_generation_prompt }}"
    )
    template = JinjaTemplate(source, {"bos_token": "B"}, tool_source="{{ tools }}{{ mode }}")
    assert template.variables == {"date_string", "enable_thinking", "mode"}


def test_variables_do_not_replace_helpers() -> None:
    template = JinjaTemplate("{{ raise_exception('no') }}", {})
    with pytest.raises(InvalidRequest, match="refuses them: no"):
        template.render(HI, (), TemplateOptions({"raise_exception": "x", "range": 1}))


def test_a_template_that_does_not_parse_is_the_users_fault() -> None:
    with pytest.raises(UserError, match="not valid Jinja"):
        JinjaTemplate("{% for %}", {})


def test_options_reach_the_template() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}{{ mode }}{{ bos_token }}"
    )
    template = JinjaTemplate(source, {"bos_token": "B"})
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " An apple"}]
    plain = "<user>q</><assistant>An apple</>"
    assert template.render(chat) == plain + "<assistant>B"
    closed = TemplateOptions(add_generation_prompt=False)
    assert template.render(chat, (), closed) == plain + "B"
    begun = TemplateOptions(add_generation_prompt=False, continue_final=True)
    assert template.render(chat, (), begun) == "<user>q</><assistant>An apple"
    # Variables never take the place of what the server itself says.
    variables = {"mode": "!", "messages": [], "bos_token": "X", "add_generation_prompt": False}
    assert template.render(chat, (), TemplateOptions(variables)) == plain + "<assistant>!B"


def test_a_final_message_that_is_not_shown_cannot_be_continued() -> None:
    template = JinjaTemplate("{{ messages | length }}", {})
    options = TemplateOptions(add_generation_prompt=False, continue_final=True)
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        template.render([{"role": "assistant", "content": "An apple"}], (), options)
