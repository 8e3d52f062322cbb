"""From a model folder to prompt ids and stop rules."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlc_server.errors import FormatError, UserError
from mlc_server.text.prompt import PromptBuilder
from mlc_server.text.template_options import TemplateOptions
from mlc_server.text.tokenizer import Tokenizer as Ours
from support.byte_model import byte_prompts, byte_tokenizer

USER = [{"role": "user", "content": "b a"}]
CONV_TEMPLATE = {
    "roles": {"user": "u:", "assistant": "a:"},
    "system_prefix_token_ids": [7],
    "stop_str": ["<end>", "a"],
    "stop_token_ids": [0, 3],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Words a=0, b=1, <eos>=2 and <end>=3 (both special), ':'-prefixed roles unknown = 4."""
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 4}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken("<eos>"), AddedToken("<end>")])
    inner.enable_truncation(1)
    inner.enable_padding(length=50)
    inner.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write_config(folder: Path, **config: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_the_jinja_template_of_the_tokenizer_is_used(folder: Path) -> None:
    write_config(
        folder, chat_template="{{ messages[0].content }} {{ eos_token }}", eos_token="<eos>"
    )
    prompts = PromptBuilder.from_folder(folder, {"conv_template": CONV_TEMPLATE})
    eos = prompts.tokenizer.special_id("<eos>")
    assert prompts.build(USER) == [1, 0, eos]  # neither cut to one token nor padded to fifty


def test_special_tokens_may_be_objects(folder: Path) -> None:
    write_config(folder, chat_template="{{ eos_token }}", eos_token={"content": "<eos>"})
    prompts = PromptBuilder.from_folder(folder, {})
    assert prompts.build(USER) == list(prompts.stop.token_ids)


def test_named_templates_and_the_jinja_file(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    write_config(folder, chat_template=named)
    assert PromptBuilder.from_folder(folder, {}).build(USER) == [1]
    (folder / "chat_template.jinja").write_text("a a")
    assert PromptBuilder.from_folder(folder, {}).build(USER) == [0, 0]
    chosen = folder / "mine.jinja"
    chosen.write_text("b b b")
    prompts = PromptBuilder.from_folder(folder, {}, chat_template=str(chosen))
    assert prompts.build(USER) == [1, 1, 1]


def test_mlcs_template_with_its_prefix(folder: Path) -> None:
    write_config(folder, chat_template="a")
    prompts = PromptBuilder.from_folder(
        folder, {"conv_template": CONV_TEMPLATE}, chat_template="mlc"
    )
    assert prompts.build(USER)[0] == 7
    (folder / "tokenizer_config.json").unlink()
    assert PromptBuilder.from_folder(folder, {"conv_template": CONV_TEMPLATE}).prefix_ids == (7,)


def test_stops_are_the_union_of_what_is_said_without_ordinary_words(folder: Path) -> None:
    """Stop id 0 is the word "a": a mistake of the template, so only <end> and eos ids remain."""
    write_config(folder, chat_template="a", eos_token="<eos>")
    prompts = PromptBuilder.from_folder(
        folder, {"conv_template": CONV_TEMPLATE, "eos_token_id": [9]}
    )
    end, eos = prompts.tokenizer.special_id("<end>"), prompts.tokenizer.special_id("<eos>")
    assert set(prompts.stop.token_ids) == {9, end, eos}
    assert prompts.stop.strings == ("a",)
    assert PromptBuilder.from_folder(folder, {"eos_token_id": 5}).stop.token_ids == (eos, 5)


def test_folders_without_what_is_needed_say_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no chat template"):
        PromptBuilder.from_folder(folder, {})
    with pytest.raises(UserError, match="cannot be read"):
        PromptBuilder.from_folder(folder, {}, chat_template=str(tmp_path / "absent"))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        PromptBuilder.from_folder(folder, {})
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match="not a tokenizer"):
        PromptBuilder.from_folder(folder, {})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match=r"has no tokenizer\.json"):
        PromptBuilder.from_folder(folder, {})


def test_long_texts_are_encoded_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = byte_prompts()
    threads: list[int] = []
    original = PromptBuilder.build

    def build(self: PromptBuilder, messages: Any, *more: Any) -> list[int]:
        threads.append(threading.get_ident())
        return original(self, messages, *more)

    monkeypatch.setattr(PromptBuilder, "build", build)

    def on_loop(messages: list[Any], *more: Any) -> bool:
        ids = asyncio.run(prompts.build_async(messages, *more))
        assert ids == original(prompts, messages, *more)
        return threads.pop() == threading.get_ident()

    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert on_loop([{"role": "user", "content": "x" * 10}])
    assert not on_loop([{"role": "user", "content": "x" * 100_000}])
    assert not on_loop(USER * 65)
    assert not on_loop([*USER, calling])
    assert not on_loop(USER, [{"type": "function"}])
    assert not on_loop(USER, (), TemplateOptions({"x": 1}))


@pytest.mark.parametrize("text", ["", "a\0b", "é\N{GRINNING FACE}", "<eos>x"])
def test_byte_tokenizer_of_the_tests_is_bytes(text: str) -> None:
    expected = list(text.replace("<eos>", "\N{WHITE SQUARE}").encode())
    marker = list("\N{WHITE SQUARE}".encode())
    ids = byte_tokenizer().encode(text)
    flat = [b for token in ids for b in (marker if token == 256 else [token])]
    assert flat == expected


def test_sentencepiece_decoders_are_recognised(folder: Path) -> None:
    inner = Tokenizer(models.WordLevel({"\u2581a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    assert Ours(inner).strips_leading_space
    assert not byte_tokenizer().strips_leading_space
