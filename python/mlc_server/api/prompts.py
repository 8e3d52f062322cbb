"""From the text or the messages of a request to the prompt's token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlc_server.api.service import ServedModel
from mlc_server.api.template_input import template_messages, template_options, template_tools
from mlc_server.errors import ContextOverflow, InvalidRequest
from mlc_server.limits import ENCODE_INLINE_CHARACTERS, MAX_TOKENIZED
from mlc_server.protocol.completions import Prompt
from mlc_server.protocol.conversation import ConversationFields
from mlc_server.protocol.messages import ChatMessage
from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.tokenizer import TooManyTokens
from mlc_server.text.workers import apart


async def chat_prompt(
    model: ServedModel,
    body: ConversationFields,
    messages: Sequence[ChatMessage],
    most: int | None = None,
) -> list[int]:
    """Token ids of a chat; raises ContextOverflow if they are far more than `most`, which is what
    the model takes unless given."""
    with _context_overflow("messages", model.context_window_size):
        return await model.prompts.build_async(
            template_messages(messages),
            template_tools(body),
            template_options(body),
            model.context_window_size if most is None else most,
        )


async def encode_prompts(
    model: ServedModel,
    prompts: Sequence[Prompt],
    add_special_tokens: bool,
    fill: FillInMiddle | None = None,
    suffix: str = "",
) -> list[list[int]]:
    """Token ids of each prompt; raises InvalidRequest for an id outside the vocabulary and
    ContextOverflow for a text that has far too many.

    With `fill`, they ask for what stands between the prompt and `suffix`.
    """
    tokenizer, most = model.prompts.tokenizer, model.context_window_size
    size = len(model.token_bytes)
    for prompt in prompts:
        if not isinstance(prompt, str) and max(prompt) >= size:
            raise InvalidRequest(
                f"prompt: token ids must be below {size}; got {max(prompt)}", param="prompt"
            )

    def encode() -> list[list[int]]:
        special = add_special_tokens and fill is None
        encoded = [
            tokenizer.encode(prompt, add_special_tokens=special, most=most)
            if isinstance(prompt, str)
            else list(prompt)
            for prompt in prompts
        ]
        if fill is None:
            return encoded
        first_ids = tokenizer.first_ids if add_special_tokens else []
        suffix_ids = tokenizer.encode_inside(suffix, most=most)
        return [fill.prompt(first_ids, ids, suffix_ids) for ids in encoded]

    characters = sum(len(text) for text in (*prompts, suffix) if isinstance(text, str))
    with _context_overflow("prompt", most):
        if characters <= ENCODE_INLINE_CHARACTERS.default:
            return encode()
        return await apart(encode)


def tokenized_most(model: ServedModel) -> int:
    """How many tokens a text or chat may have that is only looked at."""
    return max(MAX_TOKENIZED.default, model.context_window_size)


async def tokens_of(model: ServedModel, text: str, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a text that need not fit the model; raises InvalidRequest for a huge one."""
    most = tokenized_most(model)

    def encode() -> list[int]:
        return model.prompts.tokenizer.encode(
            text, add_special_tokens=add_special_tokens, most=most
        )

    try:
        return encode() if len(text) <= ENCODE_INLINE_CHARACTERS.default else await apart(encode)
    except TooManyTokens as error:
        raise InvalidRequest(
            f"prompt: a text of at most {most} tokens can be tokenized; "
            f"got at least {error.count}, send it in parts",
            param="prompt",
        ) from error


@contextmanager
def _context_overflow(field: str, context_window_size: int) -> Iterator[None]:
    """Turns TooManyTokens into the refusal that names `field` and both numbers."""
    try:
        yield
    except TooManyTokens as error:
        raise ContextOverflow(
            f"this model's maximum context length is {context_window_size} tokens, "
            f"but {field} makes at least {error.count} tokens",
            param=field,
        ) from error
