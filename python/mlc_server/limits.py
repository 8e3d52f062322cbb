"""Every number a user can run into: its value, its unit and the flag that changes it.

`Limit` is one bound with one value; `Range` is what a numeric request field may be. A message that
refuses something names the limit from here, so the two cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """One bound. `flag` is the command-line option that changes it, None where it is fixed."""

    name: str
    default: int
    unit: str
    meaning: str
    flag: str | None = None


@dataclass(frozen=True)
class Range:
    """Values a numeric request field may take; `above` in place of `low` excludes the bound."""

    field: str
    high: float
    low: float | None = None
    above: float | None = None

    def describe(self) -> str:
        if self.above is not None:
            return f"above {self.above:g} and at most {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

# The engine. Defaults that depend on model or machine are 0 here and worked out at start-up.
MAX_BATCH_SIZE = Limit(
    "max_batch_size", 64, "sequences", "most sequences in one step", "--max-batch-size"
)
MAX_TOTAL_SEQ_LENGTH = Limit(
    "max_total_seq_length",
    0,
    "tokens",
    "KV capacity over all sequences; 0 sizes it from free memory",
    "--max-total-seq-length",
)
PREFILL_CHUNK_SIZE = Limit(
    "prefill_chunk_size", 256, "tokens", "most tokens in one step", "--prefill-chunk-size"
)
CONTEXT_WINDOW_SIZE = Limit(
    "context_window_size",
    0,
    "tokens",
    "longest prompt plus output; 0 takes the model's",
    "--context-window-size",
)
MAX_QUEUE_SIZE = Limit(
    "max_queue_size", 512, "requests", "most waiting requests; one more is 503", "--max-queue-size"
)
DRAFT_TOKENS_MAX = Limit(
    "draft_tokens_max",
    7,
    "tokens",
    "most tokens that --speculative-mode ngram guesses ahead",
    "--spec-draft-length",
)
THREADS = Limit("threads", 0, "threads", "compute threads; 0 is one per core", "--threads")

# One request's counts.
MAX_CHOICES = Limit("n", 16, "choices", "most choices of one request")
MAX_STOP_STRINGS = Limit("stop", 16, "strings", "most stop strings")
MAX_STOP_BYTES = Limit("stop", 1024, "bytes of UTF-8", "longest stop string")
MAX_STOP_TOKEN_IDS = Limit("stop_token_ids", 256, "ids", "most stop token ids")
MAX_TOP_LOGPROBS = Limit("top_logprobs", 20, "tokens", "most alternatives per token")
MAX_COMPLETION_LOGPROBS = Limit(
    "logprobs", 5, "tokens", "most alternatives of a completion's token"
)
MAX_PROMPT_LOGPROBS = Limit("prompt_logprobs", 20, "tokens", "most alternatives per prompt token")
MAX_SCORED_TOKENS = Limit(
    "prompt_logprobs", 65536, "tokens", "most prompt tokens with log-probabilities in one answer"
)
MAX_PROMPTS = Limit("prompt", 256, "prompts", "most prompts of one completion request")
MAX_TOKENIZED = Limit(
    "prompt", 1 << 17, "tokens", "longest text of a /tokenize request, or one context if longer"
)
MAX_DETOKENIZED = Limit("tokens", 1 << 20, "tokens", "most tokens of one /detokenize request")
MAX_LOGIT_BIAS = Limit("logit_bias", 1024, "entries", "most biased tokens")
MAX_MESSAGES = Limit("messages", 4096, "messages", "most messages")
MAX_CONTENT_PARTS = Limit("content", 1024, "parts", "most parts of one message")
MAX_NAME_LENGTH = Limit("name", 256, "characters", "longest name or identifier")
MAX_TEMPLATE_VARIABLES = Limit(
    "chat_template_kwargs", 64, "variables", "most variables of a chat template"
)
MAX_METADATA = Limit("metadata", 64, "entries", "most metadata entries")
MAX_TOOLS = Limit("tools", 128, "tools", "most tools of a request, and most calls of a message")
MAX_TOOL_TEXT = Limit("description", 65536, "characters", "longest description of a tool")
MAX_TOOL_DEPTH = Limit("parameters", 100, "levels", "deepest nesting of a tool's parameters")
MAX_TOOL_CALLS = Limit("tool_calls", 16, "calls", "most calls of one answer that must call tools")

# Grammars. What they do not bound takes the compiler seconds, or its stack.
MAX_GRAMMAR_BYTES = Limit("grammar", 64 * 1024, "bytes of UTF-8", "longest schema or grammar")
MAX_CALL_GRAMMAR_BYTES = Limit(
    "tools", 256 * 1024, "bytes of UTF-8", "longest grammar made of a request's tools"
)
MAX_SCHEMA_DEPTH = Limit("schema", 32, "levels", "deepest nesting of a schema's JSON")
MAX_SCHEMA_NODES = Limit("schema", 5000, "values", "most JSON values in a schema")
MAX_SCHEMA_PROPERTIES = Limit("properties", 512, "entries", "most properties of one object")
MAX_PATTERN_CHARACTERS = Limit("regex", 2048, "characters", "all regular expressions together")
MAX_MULTIPLE = Limit("multipleOf", 1000, "steps", "least common multiple of all, in their unit")
MAX_LARK_RULES = Limit("grammar", 1024, "rules", "most rules, or repetitions, of a Lark grammar")
MAX_CHOICE_TEXTS = Limit("choice", 1000, "strings", "most texts to choose from")
GRAMMAR_CPU_MS = Limit("grammar", 80, "milliseconds of CPU time", "longest work to compile one")
# One that has not come to an end by then is told 503, since others are the reason.
GRAMMAR_WALL_MS = Limit("grammar", 200, "milliseconds", "longest time for that work")
GRAMMAR_MEMORY_BYTES = Limit("grammar", 256 * 1024 * 1024, "bytes", "most memory for that work")
# As in cpp/engine/grammar_workers.h.
GRAMMAR_STEP_MS = Limit(
    "grammar", 100, "milliseconds of CPU time", "longest work on what may follow one token"
)
GRAMMAR_CACHE_ENTRIES = Limit("grammars", 128, "grammars", "most grammars kept compiled")
GRAMMAR_CACHE_BYTES = Limit(
    "grammars", 64 * 1024 * 1024, "bytes", "these and their sources together"
)
GRAMMAR_USE_BYTES = Limit(
    "grammars", 256 * 1024 * 1024, "bytes", "all that are kept or that requests hold; more is 503"
)

# One request's numbers.
TEMPERATURE = Range("temperature", low=0.0, high=2.0)
TOP_P = Range("top_p", low=0.0, high=1.0)
TOP_K = Range("top_k", low=-1, high=INT32_MAX)
MIN_P = Range("min_p", low=0.0, high=1.0)
REPETITION_PENALTY = Range("repetition_penalty", above=0.0, high=2.0)
PRESENCE_PENALTY = Range("presence_penalty", low=-2.0, high=2.0)
FREQUENCY_PENALTY = Range("frequency_penalty", low=-2.0, high=2.0)
LOGIT_BIAS = Range("logit_bias", low=-100.0, high=100.0)
MAX_TOKENS = Range("max_tokens", low=1, high=INT32_MAX)
MIN_TOKENS = Range("min_tokens", low=0, high=INT32_MAX)
RANGES = {
    item.field: item
    for item in (
        TEMPERATURE,
        TOP_P,
        TOP_K,
        MIN_P,
        REPETITION_PENALTY,
        PRESENCE_PENALTY,
        FREQUENCY_PENALTY,
        LOGIT_BIAS,
        MAX_TOKENS,
        MIN_TOKENS,
    )
}

# HTTP.
MAX_BODY_BYTES = Limit(
    "max_body_size", 4 * 1024 * 1024, "bytes", "largest request body", "--max-body-size"
)
MAX_HEADER_BYTES = Limit("headers", 64 * 1024, "bytes", "request line and headers together")
HEADER_TIMEOUT_S = Limit("header_timeout", 10, "seconds", "a request's headers must be in by then")
BODY_TIMEOUT_S = Limit("body_timeout", 30, "seconds", "a request's body must be in by then")
KEEP_ALIVE_S = Limit("keep_alive", 75, "seconds", "an idle connection is closed after this")
WRITE_STALL_S = Limit(
    "write_stall", 30, "seconds", "a client that reads nothing this long is cut off"
)
SHUTDOWN_S = Limit(
    "shutdown_timeout",
    30,
    "seconds",
    "open requests may finish for this long after SIGTERM",
    "--shutdown-timeout",
)
HEARTBEAT_STALE_S = Limit(
    "heartbeat", 20, "seconds", "an engine with work that has not stepped for this long is dead"
)
RETRY_AFTER_S = Limit("retry_after", 1, "seconds", "Retry-After of a 503")

# Text. Longer prompts are tokenised in a worker thread so that other streams go on meanwhile.
ENCODE_INLINE_CHARACTERS = Limit(
    "encode_inline", 2048, "characters", "longest prompt tokenised on the event loop"
)
TOOLS_INLINE = Limit("tools_inline", 16, "tools", "most whose grammar is written on the event loop")
PROMPT_THREADS = Limit("prompt_threads", 2, "threads", "threads that tokenise longer prompts")
MAX_INLINE_MESSAGES = Limit(
    "messages_inline", 64, "messages", "longest conversation rendered on the event loop"
)
MAX_RENDERED_CHARACTERS = Limit(
    "rendered_prompt", 16 * 1024 * 1024, "characters", "longest prompt a chat template may produce"
)
RENDER_TIMEOUT_MS = Limit(
    "rendering", 1000, "milliseconds", "most processor time a chat template may take"
)

# Errors.
MAX_ERROR_TEXT = Limit("error", 512, "characters", "longest error message")
MAX_ERROR_BYTES = Limit("error", 1024, "bytes", "largest error body")
MAX_ERROR_VALUE = Limit("error value", 64, "characters", "longest excerpt of a refused value")
