"""The default model's prompts against llama.cpp's: rendered text and token ids."""

from __future__ import annotations

import pytest

from mlc_server.build.manifest import load_manifest
from mlc_server.build.sources import DEFAULT_MODEL, prepare_model
from mlc_server.cli.common import default_cache_dir
from mlc_server.text.prompt import PromptBuilder
from support.golden import load_golden

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

CASES = load_golden()


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    manifest = load_manifest(prepare_model(DEFAULT_MODEL, default_cache_dir()))
    return PromptBuilder.from_folder(manifest.folder, manifest.chat_config)


def test_every_prompt_renders_and_encodes_as_llama_cpp_does(prompts: PromptBuilder) -> None:
    """The template's own system prompt applies, since the cases give none."""
    for case in CASES:
        messages = [{"role": "user", "content": case.prompt}]
        assert prompts.template.render(messages) == case.rendered
        assert prompts.build(messages) == case.prompt_ids
    assert len(CASES) == 20


def test_a_system_message_replaces_the_templates_own(prompts: PromptBuilder) -> None:
    for role in ("system", "developer"):
        text = prompts.template.render(
            [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        )
        assert text == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )


def test_the_end_of_turn_ends_the_answer(prompts: PromptBuilder) -> None:
    assert prompts.tokenizer.special_id("<|im_end|>") in prompts.stop.token_ids
    assert prompts.stop.strings == ()


def test_mlcs_template_says_the_same(prompts: PromptBuilder) -> None:
    """The conv_template written beside the weights agrees with the Jinja template."""
    manifest = load_manifest(prepare_model(DEFAULT_MODEL, default_cache_dir()))
    mlc = PromptBuilder.from_folder(manifest.folder, manifest.chat_config, chat_template="mlc")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert mlc.build(messages) == prompts.build(messages)
