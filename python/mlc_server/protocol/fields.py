"""Keys a chat request may carry besides the supported ones.

Clients of other servers send keys this one does not act on. A value that asks for nothing (null, an
empty list, the default) is let through; one that would change the answer is refused by name, never
ignored. A key nobody knows is refused too, with the nearest known name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from mlc_server.errors import InvalidRequest
from mlc_server.limits import MAX_ERROR_VALUE, MAX_METADATA
from mlc_server.protocol.excerpt import printable

# Key -> values that ask for nothing. null is always one of them.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    # Tools, as they were asked for once, and structured output.
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    # Other kinds of output and of reasoning.
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    # What the prompt is made of.
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    # Other ways to decode.
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "debug_config": (),
}

# Keys that say who asks or how to bill; nothing in the answer depends on them.
LABELS = frozenset({"safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
SERVICE_TIERS = (None, "auto", "default")


def drop_neutral_fields(body: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """`body` with its `known` keys only; raises InvalidRequest for a key it cannot honour."""
    supported = frozenset(known)
    kept = {key: value for key, value in body.items() if key in supported}
    for key, value in body.items():
        if key not in supported:
            _check_other(key, value, supported)
    return kept


def _check_other(key: str, value: Any, supported: frozenset[str]) -> None:
    if key in NEUTRAL_VALUES:
        if value is None or any(_same(value, neutral) for neutral in NEUTRAL_VALUES[key]):
            return
        raise InvalidRequest(
            f"{key}: not supported by this server", param=key, code="unsupported_parameter"
        )
    if key in LABELS or key == "service_tier":
        _check_label(key, value)
        return
    if key == "metadata":
        _check_metadata(value)
        return
    shown = printable(key, MAX_ERROR_VALUE.default)
    close = difflib.get_close_matches(shown, sorted(supported | NEUTRAL_VALUES.keys()), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InvalidRequest(
        f"{shown}: unknown field{hint}", param=shown or None, code="unknown_parameter"
    )


def _check_label(key: str, value: Any) -> None:
    if key == "service_tier":
        fits = value in SERVICE_TIERS
        wanted = '"auto" or "default"'
    else:
        fits = value is None or (isinstance(value, str) and len(value) <= 4096)
        wanted = "a string of at most 4096 characters"
    if not fits:
        raise InvalidRequest(f"{key}: must be {wanted}", param=key)


def _check_metadata(value: Any) -> None:
    fits = value is None or (
        isinstance(value, dict)
        and len(value) <= MAX_METADATA.default
        and all(isinstance(item, str) for item in value.values())
    )
    if not fits:
        raise InvalidRequest(
            f"metadata: must be an object of at most {MAX_METADATA.default} strings",
            param="metadata",
        )


def _same(value: Any, neutral: Any) -> bool:
    """Equality that keeps True and 1 apart."""
    return type(value) is type(neutral) and bool(value == neutral)
