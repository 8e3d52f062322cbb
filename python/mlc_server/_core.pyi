"""Types of the compiled core (cpp/bindings)."""

from collections.abc import Callable, Sequence
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

class CoreError(Exception):
    code: Literal[
        "invalid_value",
        "context_overflow",
        "queue_full",
        "unavailable",
        "not_found",
        "incompatible",
        "resource_exhausted",
    ]
    param: str
    message: str

@final
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Sequence[tuple[int, float]]
    seed: int
    max_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_str_in_output: bool
    top_logprobs: int
    prompt_logprobs: int

    def __init__(
        self,
        *,
        temperature: float = ...,
        top_p: float = ...,
        top_k: int = ...,
        min_p: float = ...,
        repetition_penalty: float = ...,
        presence_penalty: float = ...,
        frequency_penalty: float = ...,
        logit_bias: Sequence[tuple[int, float]] = ...,
        seed: int = ...,
        max_tokens: int = ...,
        min_tokens: int = ...,
        stop: Sequence[str] = ...,
        stop_token_ids: Sequence[int] = ...,
        ignore_eos: bool = ...,
        include_stop_str_in_output: bool = ...,
        top_logprobs: int = ...,
        prompt_logprobs: int = ...,
    ) -> None: ...
    def validate(self, vocab_size: int) -> None: ...

@final
class EngineConfig:
    max_batch_size: int
    prefill_chunk_size: int
    max_sequence_length: int
    page_size: int
    num_pages: int
    max_queue_size: int
    max_choices: int
    vocab_size: int
    eos_token_ids: Sequence[int]
    strip_leading_space: bool
    speculative_mode: str
    draft_tokens_max: int
    ngram_min: int
    ngram_max: int
    speculative_rows_max: int
    scored_rows_max: int
    check_every_step: bool

    def __init__(
        self,
        *,
        max_batch_size: int = ...,
        prefill_chunk_size: int = ...,
        max_sequence_length: int = ...,
        page_size: int = ...,
        num_pages: int = ...,
        max_queue_size: int = ...,
        max_choices: int = ...,
        vocab_size: int = ...,
        eos_token_ids: Sequence[int] = ...,
        strip_leading_space: bool = ...,
        speculative_mode: str = ...,
        draft_tokens_max: int = ...,
        ngram_min: int = ...,
        ngram_max: int = ...,
        speculative_rows_max: int = ...,
        scored_rows_max: int = ...,
        check_every_step: bool = ...,
    ) -> None: ...
    def validate(self) -> None: ...

@final
class Vocabulary:
    def __init__(self, token_bytes: Sequence[bytes], is_special: Sequence[bool]) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, token_id: int) -> bytes: ...
    def is_special(self, token_id: int) -> bool: ...
    def special_ids(self) -> list[int]: ...
    def serialize(self) -> bytes: ...
    @staticmethod
    def parse(serialized: bytes) -> Vocabulary: ...

@final
class Grammar: ...

@final
class GrammarCompiler:
    def __init__(
        self,
        library_path: str,
        vocabulary: Vocabulary,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        for_trial: bool = False,
    ) -> None: ...
    def compile(self, kind: Literal["json_schema", "regex", "lark"], source: str) -> Grammar: ...

def heap_bytes() -> int: ...
def trim_heap() -> None: ...

@final
class ModelInfo:
    @property
    def vocab_size(self) -> int: ...
    @property
    def page_size(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_logit_rows(self) -> int: ...
    @property
    def context_window(self) -> int: ...
    @property
    def bytes_per_page(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...

class ModelRunner:
    @property
    def info(self) -> ModelInfo: ...
    def allocate_kv(self, num_pages: int) -> None: ...
    def forward(
        self,
        token_ids: ArrayLike,
        positions: ArrayLike,
        write_slots: ArrayLike,
        query_offsets: ArrayLike,
        page_offsets: ArrayLike,
        page_table: ArrayLike,
        logit_rows: ArrayLike,
        page_copies: ArrayLike | None = None,
    ) -> NDArray[np.float32]: ...

@final
class FakeRunner(ModelRunner):
    def __init__(
        self,
        *,
        vocab_size: int = 256,
        page_size: int = 16,
        max_rows: int = 4096,
        max_logit_rows: int = 512,
        context_window: int = 8192,
        step_ns: int = 0,
        throw_at_step: int = -1,
        eos_token_id: int = -1,
        eos_probability: float = 0.0,
        poison_token_id: int = -1,
        copy_probability: float = 0.0,
    ) -> None: ...

@final
class TvmRunner(ModelRunner):
    def __init__(
        self,
        library_path: str,
        model_folder: str,
        num_threads: int,
        *,
        tvm_library_path: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> None: ...
    @property
    def metadata_json(self) -> str: ...

@final
class EngineStats:
    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_open(self) -> int: ...
    @property
    def free_pages(self) -> int: ...
    @property
    def total_pages(self) -> int: ...
    @property
    def last_batch_sequences(self) -> int: ...
    @property
    def last_batch_tokens(self) -> int: ...
    @property
    def last_step_ns(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def heartbeat_age_ns(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def busy_ns(self) -> int: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def drafted_tokens(self) -> int: ...
    @property
    def accepted_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def finished_stop(self) -> int: ...
    @property
    def finished_length(self) -> int: ...
    @property
    def finished_cancelled(self) -> int: ...
    @property
    def finished_error(self) -> int: ...

# token_id, logprob, alternatives, rank
Logprobs = list[tuple[int, float, list[tuple[int, float]], int]]

# request_id, choice, text, token_ids, logprobs, finish_reason, stop_reason, prompt_tokens,
# completion_tokens, error, prompt
StepOutput = tuple[
    int,
    int,
    str,
    list[int],
    Logprobs | None,
    str | None,
    int | str | None,
    int,
    int,
    str | None,
    tuple[float | None, Logprobs | None] | None,
    bytes | None,
]

@final
class Engine:
    def __init__(
        self, runner: ModelRunner, vocabulary: Vocabulary, config: EngineConfig
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self, timeout_s: float = 10.0) -> bool: ...
    def submit(
        self,
        request_id: int,
        prompt_ids: Sequence[int] | bytes,
        sampling: SamplingParams,
        num_choices: int = 1,
        priority: int = 0,
        grammar: Grammar | None = None,
        begins_text: bool = True,
        events: tuple[Sequence[bytes], bytes] | None = None,
    ) -> None: ...
    def cancel(self, request_id: int) -> None: ...
    def wake_fd(self) -> int: ...
    def drain(self) -> list[StepOutput]: ...
    def stats(self) -> EngineStats: ...
    def health(self) -> str: ...

def measure_empty_region_ns(num_threads: int, num_tasks: int, repeats: int) -> float: ...
