"""What a request may ask of the chat template besides its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlc_server.errors import InvalidRequest


@dataclass(frozen=True)
class TemplateOptions:
    """`variables` are for the template to read, such as enable_thinking. `continue_final` leaves
    the last message open, so that the model goes on with it."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final: bool = False


DEFAULT_OPTIONS = TemplateOptions()


def cut_after(text: str, final: str) -> str:
    """A rendered prompt up to where the content of its final message ends."""
    for content in (final, final.rstrip(), final.strip()):
        begin = text.rfind(content) if content else -1
        if begin >= 0:
            return text[: begin + len(content)]
    raise InvalidRequest(
        "continue_final_message: the chat template does not show the final message as it is",
        param="continue_final_message",
    )
