"""MLC's `conv_template` objects by name, for `gen_config --conv-template`.

They serve folders without a Jinja chat template; where there is one, the server prefers it.
"""

from __future__ import annotations

from typing import Any

from mlc_server.errors import FormatError


def _template(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "system_template": "{system_message}",
        "system_message": "",
        "system_prefix_token_ids": None,
        "add_role_after_system_message": True,
        "roles": {"user": "", "assistant": ""},
        "role_templates": {
            "user": "{user_message}",
            "assistant": "{assistant_message}",
            "tool": "{tool_message}",
        },
        "messages": [],
        "seps": [""],
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [],
        "stop_token_ids": [],
        "function_string": "",
        "use_function_calling": False,
        **changes,
    }


_INST_ROLES = {"user": "[INST]", "assistant": "[/INST]", "tool": "[INST]"}

CONV_TEMPLATES: dict[str, dict[str, Any]] = {
    template["name"]: template
    for template in (
        _template("LM"),
        _template(
            "chatml",
            system_template="<|im_start|>system\n{system_message}<|im_end|>\n",
            system_message="You are a helpful assistant.",
            roles={"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            seps=["<|im_end|>\n"],
            role_content_sep="\n",
            role_empty_sep="\n",
            stop_str=["<|im_end|>"],
        ),
        _template(
            "chatml_nosystem",
            roles={"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            seps=["<|im_end|>\n"],
            role_content_sep="\n",
            role_empty_sep="\n",
            stop_str=["<|im_end|>"],
        ),
        _template(
            "llama-3",
            system_template=(
                "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>"
            ),
            system_message="You are a helpful, respectful and honest assistant.",
            roles={
                "user": "<|start_header_id|>user",
                "assistant": "<|start_header_id|>assistant",
                "tool": "<|start_header_id|>ipython",
            },
            seps=["<|eot_id|>"],
            role_content_sep="<|end_header_id|>\n\n",
            role_empty_sep="<|end_header_id|>\n\n",
            stop_str=["<|eot_id|>"],
        ),
        _template(
            "llama-2",
            system_template="[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
            system_message="You are a helpful, respectful and honest assistant.",
            add_role_after_system_message=False,
            roles=_INST_ROLES,
            seps=[" ", " </s><s>"],
            role_content_sep=" ",
            role_empty_sep=" ",
            stop_str=["[INST]"],
        ),
        _template(
            "mistral_default",
            system_template="[INST] {system_message}",
            add_role_after_system_message=False,
            roles=_INST_ROLES,
            seps=[" ", "</s>"],
            role_content_sep=" ",
            stop_str=["</s>"],
        ),
    )
}
# MLC gives the Llama 3 family one shape under several names.
CONV_TEMPLATES["llama-3_1"] = {**CONV_TEMPLATES["llama-3"], "name": "llama-3_1"}


def find_conv_template(name: str) -> dict[str, Any]:
    """A copy to edit; raises FormatError listing the names there are."""
    template = CONV_TEMPLATES.get(name)
    if template is None:
        raise FormatError(
            "there is no conversation template of that name",
            seen=f"--conv-template {name}",
            hint=f"one of: {', '.join(sorted(CONV_TEMPLATES))}",
        )
    return {**template}


def guess_conv_template(chat_template: str | None) -> str:
    """The name whose markers a Jinja chat template uses; `LM` (plain text) if none."""
    markers = {
        "<|im_start|>": "chatml",
        "<|start_header_id|>": "llama-3",
        "<<SYS>>": "llama-2",
        "[INST]": "mistral_default",
    }
    for marker, name in markers.items():
        if chat_template is not None and marker in chat_template:
            return name
    return "LM"
