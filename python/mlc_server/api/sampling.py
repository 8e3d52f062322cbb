"""From a validated request to what the engine is asked to do."""

from __future__ import annotations

import secrets

from mlc_server.engine import GenerationRequest, GrammarSpec, SamplingOptions
from mlc_server.errors import ContextOverflow, InvalidRequest
from mlc_server.limits import MAX_SCORED_TOKENS, MAX_STOP_STRINGS
from mlc_server.protocol.generation_fields import GenerationFields
from mlc_server.text.prompt import StopRules

_UINT64_MASK = 2**64 - 1


def generation_request(
    request: GenerationFields,
    prompt_ids: list[int],
    stop: StopRules,
    context_window_size: int,
    *,
    prompt_field: str = "messages",
    begins_text: bool = True,
) -> GenerationRequest:
    """Raises ContextOverflow, naming `prompt_field`, when no room is left for what is wanted."""
    generates = request.token_budget != 0
    if len(prompt_ids) + generates > context_window_size:
        room = " and leaves no room for an answer" if generates else ""
        raise ContextOverflow(
            f"this model's maximum context length is {context_window_size} tokens, "
            f"but {prompt_field} makes {len(prompt_ids)} tokens{room}",
            param=prompt_field,
        )
    return GenerationRequest(
        prompt_ids=prompt_ids,
        sampling=sampling_options(request, stop),
        num_choices=request.n or 1,
        priority=request.priority or 0,
        grammar=output_grammar(request),
        begins_text=begins_text,
    )


def check_scored(request: GenerationFields, num_tokens: int) -> None:
    """Raises InvalidRequest if the prompts' log-probabilities, where wanted, are too many."""
    limit = MAX_SCORED_TOKENS.default
    if request.num_prompt_logprobs >= 0 and num_tokens > limit:
        field = "logprobs" if request.prompt_logprobs is None else "prompt_logprobs"
        raise InvalidRequest(
            f"{field}: an answer can have log-probabilities of at most {limit} prompt tokens, over "
            f"all its choices; got {num_tokens}",
            param=field,
        )


def output_grammar(request: GenerationFields) -> GrammarSpec | None:
    """What the output must match, for the engine to compile; None for free text."""
    chosen = request.output_format
    return None if chosen is None else GrammarSpec(chosen.kind, chosen.source, chosen.param)


def sampling_options(request: GenerationFields, stop: StopRules) -> SamplingOptions:
    """Fills in OpenAI's defaults. Without a seed a random one is drawn, so answers differ.

    Raises InvalidRequest when the model's own stop strings leave no room for the request's.
    """
    top_p, top_k = _nucleus(request.top_p, request.top_k)
    strings = (*stop.strings, *request.stop)
    if len(strings) > MAX_STOP_STRINGS.default:
        allowed = MAX_STOP_STRINGS.default - len(stop.strings)
        raise InvalidRequest(
            f"stop: must have at most {allowed} strings, since the model has "
            f"{len(stop.strings)} of its own; got {len(request.stop)}",
            param="stop",
        )
    seed = secrets.randbits(64) if request.seed is None else request.seed & _UINT64_MASK
    return SamplingOptions(
        temperature=_or_default(request.temperature, 1.0),
        top_p=top_p,
        top_k=top_k,
        min_p=_or_default(request.min_p, 0.0),
        repetition_penalty=_or_default(request.repetition_penalty, 1.0),
        presence_penalty=_or_default(request.presence_penalty, 0.0),
        frequency_penalty=_or_default(request.frequency_penalty, 0.0),
        logit_bias=request.logit_bias,
        seed=seed,
        max_tokens=-1 if request.token_budget is None else request.token_budget,
        min_tokens=request.min_tokens or 0,
        stop=strings,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        top_logprobs=request.num_logprobs,
        prompt_logprobs=request.num_prompt_logprobs,
    )


def _nucleus(top_p: float | None, top_k: int | None) -> tuple[float, int]:
    """top_p 0 means the smallest possible nucleus, one token; top_k -1 is "off", as 0 is."""
    if top_p == 0.0:
        return 1.0, 1
    return _or_default(top_p, 1.0), max(top_k or 0, 0)


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value
