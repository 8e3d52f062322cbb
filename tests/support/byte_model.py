"""A model whose tokens are single bytes: the text side of tests that need no real tokenizer."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from mlc_server.text.chat_template import JinjaTemplate
from mlc_server.text.prompt import PromptBuilder, StopRules
from mlc_server.text.tokenizer import Tokenizer

EOS_ID = 256
VOCAB_SIZE = 257
TOKEN_BYTES = [bytes([value]) for value in range(256)] + [b"<eos>"]
IS_SPECIAL = [False] * 256 + [True]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' and message.content == 'refuse me' %}"
    "{{ raise_exception('no such talk') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
)


def byte_tokenizer() -> Tokenizer:
    """Token i < 256 is byte i; 256 is the special token <eos>."""
    alphabet = _byte_level_characters()
    inner = HfTokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<eos>", special=True)])
    return Tokenizer(inner)


def byte_prompts() -> PromptBuilder:
    """Renders `role: content` lines; refuses the message "refuse me"."""
    return PromptBuilder(
        template=JinjaTemplate(TEMPLATE, {}),
        tokenizer=byte_tokenizer(),
        prefix_ids=(),
        stop=StopRules(token_ids=(EOS_ID,), strings=()),
    )


def _byte_level_characters() -> list[str]:
    """GPT-2's character for each byte 0 .. 255."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]
