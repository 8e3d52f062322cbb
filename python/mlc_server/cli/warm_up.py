"""Answers some short prompts, so that the first client does not pay for cold memory."""

from __future__ import annotations

import select
import time

from mlc_server import _core
from mlc_server.engine.convert import delta_from, sampling_params
from mlc_server.engine.types import SamplingOptions
from mlc_server.errors import UserError
from mlc_server.text.prompt import PromptBuilder

# Requests, ending one after another, and the tokens of each one's prompt: few, because starting
# waits for them.
_REQUESTS = 8
_PROMPT_TOKENS = 4
_PATIENCE_MS = 1000


def warm_up(core: _core.Engine, prompts: PromptBuilder, max_queue_size: int) -> str:
    """Starts the engine's thread and waits for the answers; needs no event loop.

    They come at once and end one by one: their steps have many rows, then every number down to a
    single one, which is what the kernels make a difference of.

    Returns what it took, in words; raises UserError if the model cannot answer.
    """
    begin_s = time.perf_counter()
    prompt_ids = prompts.build([{"role": "user", "content": "Hello"}])[:_PROMPT_TOKENS]
    lengths = range(1, min(_REQUESTS, max_queue_size) + 1)
    core.start()
    try:
        for length in lengths:
            options = SamplingOptions(temperature=0.0, max_tokens=length, ignore_eos=True)
            core.submit(length, prompt_ids, sampling_params(options))
        fault = _fault_of(core, len(lengths))
    except _core.CoreError as error:
        fault = error.message
    if fault is not None:
        core.stop()
        raise UserError("the model cannot answer", seen=fault, hint="convert or compile it again")
    elapsed_ms = (time.perf_counter() - begin_s) * 1e3
    tokens = f"{len(prompt_ids) * len(lengths)} + {sum(lengths)} tokens"
    return f"{tokens} in {elapsed_ms:.0f} ms"


def _fault_of(core: _core.Engine, num_open: int) -> str | None:
    """Waits for so many requests to end; what went wrong with one of them, None if nothing did."""
    poll = select.poll()
    poll.register(core.wake_fd(), select.POLLIN)
    while num_open:
        poll.poll(_PATIENCE_MS)
        for item in core.drain():
            delta = delta_from(item)
            if delta.finish_reason in ("error", "cancelled"):
                return delta.error or "the engine ended a request"
            num_open -= delta.finish_reason is not None
    return None
