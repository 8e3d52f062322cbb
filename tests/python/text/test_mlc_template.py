"""MLC's conv_template, as its published folders write it."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_server.errors import FormatError, InvalidRequest
from mlc_server.text.mlc_template import MlcTemplate
from mlc_server.text.template_options import TemplateOptions

CHATML: dict[str, Any] = {
    "name": "chatml",
    "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
    "system_message": "Be brief.",
    "system_prefix_token_ids": None,
    "add_role_after_system_message": True,
    "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
    "role_templates": {
        "user": "{user_message}",
        "assistant": "{assistant_message}",
        "tool": "{tool_message}",
    },
    "messages": [],
    "seps": ["<|im_end|>\n"],
    "role_content_sep": "\n",
    "role_empty_sep": "\n",
}
# Llama 2: the first user turn follows the system text without its role.
LLAMA_2: dict[str, Any] = {
    "system_template": "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
    "system_message": "Be kind.",
    "add_role_after_system_message": False,
    "roles": {"user": "<s>[INST]", "assistant": "[/INST]"},
    "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
    "seps": [" ", " </s>"],
    "role_content_sep": " ",
    "role_empty_sep": " ",
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_chatml_with_the_default_system_message() -> None:
    assert MlcTemplate(CHATML).render([turn("user", "hi")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_the_default(role: str) -> None:
    text = MlcTemplate(CHATML).render(
        [turn(role, "Rhyme."), turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    )
    assert text == (
        "<|im_start|>system\nRhyme.<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_two_separators_and_no_role_after_the_system_message() -> None:
    text = MlcTemplate(LLAMA_2).render(
        [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    )
    assert text == ("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] ")


def test_the_role_is_kept_when_there_is_no_system_text() -> None:
    template = MlcTemplate({**LLAMA_2, "system_template": "{system_message}", "system_message": ""})
    assert template.render([turn("user", "a")]) == "<s>[INST] a [/INST] "


def test_opening_messages_come_first() -> None:
    template = MlcTemplate({**CHATML, "messages": [["user", "x"], ["assistant", "y"]]})
    assert "user\nx<|im_end|>\n<|im_start|>assistant\ny<|im_end|>\n<|im_start|>user\nhi" in (
        template.render([turn("user", "hi")])
    )


def test_reasoning_is_stripped_from_history_only() -> None:
    template = MlcTemplate({**CHATML, "strip_reasoning_in_history": True})
    text = template.render(
        [turn("user", "a"), turn("assistant", "<think>x</think>\n\nb"), turn("user", "c")]
    )
    assert "assistant\nb<|im_end|>" in text
    last = template.render([turn("user", "a"), turn("assistant", "<think>x</think>b")])
    assert "assistant\n<think>x</think>b" in last


def test_braces_in_messages_are_text() -> None:
    text = MlcTemplate(CHATML).render([turn("user", "{user_message} {function_string}")])
    assert "user\n{user_message} {function_string}<|im_end|>" in text


def test_a_late_system_message_and_an_unknown_role_are_refused() -> None:
    template = MlcTemplate(CHATML)
    with pytest.raises(InvalidRequest, match="only as the first") as late:
        template.render([turn("user", "a"), turn("system", "b")])
    assert late.value.param == "messages[1].role"
    with pytest.raises(InvalidRequest, match="no role tool"):
        template.render([turn("tool", "a")])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("system_template", 5),
        ("roles", []),
        ("roles", {"user": "u"}),
        ("roles", {"user": 1, "assistant": "a"}),
        ("role_templates", {"user": None}),
        ("seps", "x"),
        ("seps", [1]),
        ("messages", [["user"]]),
        ("messages", "x"),
    ],
)
def test_a_broken_template_names_its_field(key: str, value: Any) -> None:
    with pytest.raises(FormatError, match=f"conv_template.{key} "):
        MlcTemplate({**CHATML, key: value})


def test_the_last_message_can_be_left_open() -> None:
    template = MlcTemplate(CHATML)
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "An apple"}]
    closed = TemplateOptions({"unread": 1}, add_generation_prompt=False)
    assert template.render(chat, (), closed).endswith("An apple<|im_end|>\n")
    begun = TemplateOptions(add_generation_prompt=False, continue_final=True)
    assert template.render(chat, (), begun).endswith("<|im_start|>assistant\nAn apple")
    assert template.variables == frozenset()
