"""Keys a request may carry besides the supported ones.

Clients of other servers send keys this one does not act on. A value that asks for nothing (null, an
empty list, the default) is let through; one that is known to change the answer is refused by name,
never ignored. A key nobody knows is ignored, but not in silence: the caller is told of it, with the
nearest known name if there is one.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mlc_server.errors import InvalidRequest
from mlc_server.limits import MAX_ERROR_VALUE, MAX_METADATA
from mlc_server.protocol.excerpt import show

# Key -> values that ask for nothing. null is always one of them.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    # Structured output, as it is or was asked for elsewhere: see _INSTEAD.
    "guided_json": (),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_whitespace_pattern": ("",),
    "structural_tag": (),
    "json_schema": (),
    "regex": ("",),
    "ebnf": ("",),
    "grammar": ("",),
    # Other kinds of output and of reasoning.
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    # What the prompt is made of.
    "echo": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "documents": ([],),
    # Other ways to decode.
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "debug_config": (),
}

# What does here what another server's key does there.
_INSTEAD = {
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar, in Lark",
    "json_schema": "response_format",
    "regex": "structured_outputs.regex",
    "ebnf": "structured_outputs.grammar, in Lark",
    "grammar": "structured_outputs.grammar, in Lark",
    "structural_tag": "structured_outputs",
}

# Keys that say who asks, where to bill or what to keep; nothing in the answer depends on them.
LABELS = frozenset({"safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
SILENT = frozenset({"store", "prediction"})
SERVICE_TIERS = (None, "auto", "default", "flex", "priority", "scale")

# Told of an ignored key: its path and the nearest known name.
OnIgnored = Callable[[str, "str | None"], None]

_MAX_TOLD = 16
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def drop_other_fields(
    body: dict[str, Any], model: type[BaseModel], on_ignored: OnIgnored
) -> dict[str, Any]:
    """`body` with `model`'s keys only; raises InvalidRequest for a key it cannot honour.

    `on_ignored` is told of unknown keys, those of nested objects too, 16 at most.
    """
    supported = _names(model)
    kept = {key: value for key, value in body.items() if key in supported}
    if len(kept) != len(body):
        for key, value in body.items():
            if key not in supported:
                _check_other(key, value)
    told: set[str] = set()
    for prefix, name, known in _unknown(body, model, ""):
        path = prefix + name
        if path not in told:
            told.add(path)
            on_ignored(path, nearest(name, known))
        if len(told) == _MAX_TOLD:
            break
    return kept


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that a misspelt one was probably meant to be."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return close[0] if close else None


def _unknown(
    value: Any, model: type[BaseModel], prefix: str
) -> Iterator[tuple[str, str, frozenset[str]]]:
    """(path before it, key, known keys) for keys that neither the model nor this module knows. One
    whose value is null asks for nothing."""
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item, model, f"{prefix[:-1]}[].")
    if not isinstance(value, dict):
        return
    supported = _names(model)
    known = supported if prefix else supported | _KNOWN
    if not value.keys() <= known:
        for key, item in value.items():
            if key not in known and item is not None:
                yield prefix, _plain(key), known
    for key, nested in _nested(model).items():
        if key in value:
            yield from _unknown(value[key], nested, f"{prefix}{key}.")


def _plain(key: str) -> str:
    """A key as it may stand in a header: short, ASCII, not empty."""
    return _NOT_IN_A_NAME.sub("?", key[: MAX_ERROR_VALUE.default]) or "?"


@functools.cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    """The keys a model takes."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


@functools.cache
def _nested(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Keys whose values are objects of another model, or lists of them. `parts` of a model names
    those of keys that it reads by itself."""
    found = {
        field.alias or name: _model_in(field.annotation)
        for name, field in model.model_fields.items()
    }
    found |= getattr(model, "parts", {})
    return {name: nested for name, nested in found.items() if nested is not None}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model else None
    models = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in models if model is not None), None)


def _check_other(key: str, value: Any) -> None:
    if key in NEUTRAL_VALUES:
        if value is None or any(_same(value, neutral) for neutral in NEUTRAL_VALUES[key]):
            return
        instead = f"; use {_INSTEAD[key]}" if key in _INSTEAD else ""
        raise InvalidRequest(
            f"{key}: not supported by this server{instead}", param=key, code="unsupported_parameter"
        )
    if key in LABELS or key == "service_tier":
        _check_label(key, value)
    elif key == "metadata":
        _check_metadata(value)


def _check_label(key: str, value: Any) -> None:
    if key == "service_tier":
        fits = value in SERVICE_TIERS
        wanted = " or ".join(f'"{tier}"' for tier in SERVICE_TIERS if tier)
    else:
        fits = value is None or (isinstance(value, str) and len(value) <= 4096)
        wanted = "a string of at most 4096 characters"
    if not fits:
        raise InvalidRequest(f"{key}: must be {wanted}; got {show(value)}", param=key)


def _check_metadata(value: Any) -> None:
    if value is None:
        return
    limit = MAX_METADATA.default
    if not isinstance(value, dict) or len(value) > limit:
        wanted = f"must be an object of at most {limit} strings"
        raise InvalidRequest(f"metadata: {wanted}; got {show(value)}", param="metadata")
    for key, item in value.items():
        if not isinstance(item, str):
            raise InvalidRequest(
                f"metadata: {show(key)} must be a string; got {show(item)}", param="metadata"
            )


def _same(value: Any, neutral: Any) -> bool:
    """Equality that keeps True and 1 apart."""
    return type(value) is type(neutral) and bool(value == neutral)


_KNOWN = frozenset(NEUTRAL_VALUES) | LABELS | SILENT | {"service_tier", "metadata"}
