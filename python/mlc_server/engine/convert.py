"""Between this package's types and the core's."""

from __future__ import annotations

from dataclasses import fields

from mlc_server import _core
from mlc_server.engine.types import Delta, PromptNews, SamplingOptions, TokenLogprob
from mlc_server.errors import ContextOverflow, InvalidRequest, QueueFull, RequestError, Unavailable

_SAMPLING_FIELDS = tuple(field.name for field in fields(SamplingOptions))


def sampling_params(options: SamplingOptions) -> _core.SamplingParams:
    """Raises InvalidRequest for a value that the core's type cannot hold."""
    params = _core.SamplingParams()
    for name in _SAMPLING_FIELDS:
        try:
            setattr(params, name, getattr(options, name))
        except TypeError as error:
            raise InvalidRequest(f"{name} is of the wrong type or too large", param=name) from error
    return params


def delta_from(item: _core.StepOutput) -> Delta:
    """A drained item without its request id; its fields are Delta's, in the same order."""
    delta = tuple.__new__(Delta, item[1:])  # as _make() does it, without counting the fields
    if item[4] is not None:
        delta = delta._replace(logprobs=_logprobs(item[4]))
    if item[10] is not None:
        queue_s, logprobs = item[10]
        delta = delta._replace(prompt=PromptNews(queue_s, _logprobs(logprobs)))
    return delta


def _logprobs(entries: _core.Logprobs | None) -> list[TokenLogprob] | None:
    return None if entries is None else [TokenLogprob(*entry) for entry in entries]


def request_error(error: _core.CoreError, retry_after_s: int) -> RequestError:
    """The core's refusal of a request as the error that HTTP reports."""
    if error.code == "queue_full":
        return QueueFull(error.message, retry_after_s=retry_after_s)
    if error.code == "unavailable":
        return Unavailable(error.message)
    kind = ContextOverflow if error.code == "context_overflow" else InvalidRequest
    return kind(error.message, param=error.param or None)
