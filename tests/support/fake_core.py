"""A core engine on a FakeRunner, small enough that pages run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlc_server import _core

VOCAB_SIZE = 128
EOS_ID = 0

MakeCore = Callable[..., _core.Engine]


def make_vocabulary() -> _core.Vocabulary:
    """Token i is the character i; 0 is the special end of text."""
    return _core.Vocabulary(
        [bytes([i]) for i in range(VOCAB_SIZE)], [i == EOS_ID for i in range(VOCAB_SIZE)]
    )


def build_core(*, runner: dict[str, Any] | None = None, **config: Any) -> _core.Engine:
    """An engine that has not been started. `config` are EngineConfig fields."""
    options = {"vocab_size": VOCAB_SIZE, "page_size": 4, "eos_token_id": EOS_ID, **(runner or {})}
    fields = {
        "vocab_size": VOCAB_SIZE,
        "page_size": 4,
        "num_pages": 512,
        "max_sequence_length": 256,
        "max_batch_size": 16,
        "prefill_chunk_size": 64,
        "eos_token_ids": [EOS_ID],
        "check_every_step": True,
        **config,
    }
    return _core.Engine(
        _core.FakeRunner(**options), make_vocabulary(), _core.EngineConfig(**fields)
    )
