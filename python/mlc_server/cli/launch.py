"""From settings to a running engine: find the model, find or compile its library, load both.

`load_model` blocks for seconds and runs on a thread of its own; `LoadedModel.serve` must run on the
event loop that will serve.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

# Before `tokenizers` is imported: one prompt at a time gains nothing from its thread pool, and its
# threads would take cores from the kernels.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mlc_server import __version__, _core
from mlc_server.api.service import ServedModel, model_names
from mlc_server.build.compile import library_key
from mlc_server.build.manifest import Manifest, load_manifest
from mlc_server.build.sources import DEFAULT_MODEL, prepare_model
from mlc_server.cli.common import default_cache_dir, show_bytes
from mlc_server.cli.compile_worker import compile_apart
from mlc_server.cli.memory import KvPlan, available_bytes, plan_kv
from mlc_server.cli.phases import Phases
from mlc_server.cli.progress import ProgressReport
from mlc_server.cli.vocabulary_cache import load_vocabulary
from mlc_server.cli.warm_up import warm_up
from mlc_server.engine import AsyncEngine, GrammarCompiler, TokenBytes
from mlc_server.errors import UserError
from mlc_server.settings import ServerSettings, ToolCallStyle
from mlc_server.text.prompt import PromptBuilder

if TYPE_CHECKING:
    from mlc_server.build.progress import ProgressCallback

_T = TypeVar("_T")

DEFAULT_MODEL_ID = "SmolLM2-135M-Instruct"
# Prompt tokens scored in a step. A row of logits has the vocabulary's size: 32 MiB for 128k tokens.
_SCORED_ROWS_MAX = 64


@dataclass(frozen=True)
class LoadedModel:
    """A core engine with its model in memory, and what else serving it takes."""

    core: _core.Engine
    prompts: PromptBuilder
    token_bytes: TokenBytes
    hidden_ids: frozenset[int]
    kv: KvPlan
    id: str
    names: frozenset[str]
    system_fingerprint: str
    aliases: tuple[str, ...] = ()
    grammars: GrammarCompiler | None = None
    tool_call_style: ToolCallStyle = "openai"

    def serve(self) -> RunningModel:
        """Hands the engine's output to the running event loop."""
        engine = AsyncEngine(self.core, self.grammars)
        engine.start()
        model = ServedModel(
            id=self.id,
            names=self.names,
            aliases=self.aliases,
            context_window_size=self.kv.context_window,
            system_fingerprint=self.system_fingerprint,
            prompts=self.prompts,
            token_bytes=self.token_bytes,
            hidden_ids=self.hidden_ids,
            engine=engine,
            page_size=self.kv.page_size,
            tool_call_style=self.tool_call_style,
        )
        return RunningModel(engine, model, self.kv)


@dataclass(frozen=True)
class RunningModel:
    """A model that answers."""

    engine: AsyncEngine
    model: ServedModel
    kv: KvPlan

    def ready_lines(self, url: str, *, needs_key: bool = False) -> list[str]:
        """What the user sees when the server is ready, besides the URL."""
        body = f'{{"model": "{self.model.id}", "messages": [{{"role": "user", "content": "Hi"}}]}}'
        key = "-H 'Authorization: Bearer KEY' " if needs_key else ""
        return [
            f"model    {self.model.id}, context {self.model.context_window_size:,} tokens",
            f"KV cache {self.kv.describe()}",
            f"docs     {url}/docs",
            f"try      curl {url}/v1/chat/completions {key}"
            f"-H 'Content-Type: application/json' -d '{body}'",
        ]

    def close(self) -> None:
        """Ends the engine's thread; open requests end with an error."""
        self.engine.close()


def load_model(settings: ServerSettings, phases: Phases) -> LoadedModel:
    """Raises UserError for whatever the user can mend."""
    cache_dir = settings.cache_dir or default_cache_dir()
    with ProgressReport() as progress:
        with phases.phase("model") as phase:
            folder = prepare_model(settings.model or DEFAULT_MODEL, cache_dir, progress)
            manifest = load_manifest(folder)
            prompts = PromptBuilder.from_folder(
                folder,
                manifest.chat_config,
                chat_template=settings.chat_template,
                tool_format=settings.tool_call_parser,
            )
            vocab_size = manifest.model.vocab_size
            tokenizer = folder / "tokenizer.json"
            vocabulary = load_vocabulary(tokenizer, vocab_size, cache_dir)
            grammars = GrammarCompiler(vocabulary, _eos_token_ids(prompts, vocab_size), vocab_size)
            # While the weights load, so that the first requests have the cores to themselves.
            grammars.warm_up()
            phase.note = str(folder)
        with phases.phase("model library") as phase:
            library, phase.note = _find_library(manifest, settings, cache_dir)
        with phases.phase("load weights") as phase:
            threads = settings.threads or len(os.sched_getaffinity(0))
            runner = _load_runner(library, folder, threads, progress)
            phase.note = f"{show_bytes(runner.info.weight_bytes)}, {threads} threads"
    with phases.phase("KV cache") as phase:
        kv = _plan_kv(settings, manifest, runner.info)
        core = _make_engine(settings, runner, prompts, vocabulary, kv)
        phase.note = kv.describe()
    with phases.phase("warm up") as phase:
        phase.note = warm_up(core, prompts, settings.max_queue_size)
    own_name = DEFAULT_MODEL_ID if settings.model is None else folder.name
    model_id, *others = settings.served_model_names or (own_name,)
    aliases = tuple(name for name in dict.fromkeys(others) if name != model_id)
    given = (*aliases, folder.name, settings.model or DEFAULT_MODEL_ID)
    return LoadedModel(
        core=core,
        prompts=prompts,
        token_bytes=vocabulary,
        hidden_ids=frozenset(vocabulary.special_ids()),
        kv=kv,
        id=model_id,
        names=model_names(model_id, *given),
        aliases=aliases,
        system_fingerprint=_fingerprint(library, runner.metadata_json),
        grammars=grammars,
        tool_call_style=settings.tool_call_style,
    )


def _find_library(
    manifest: Manifest, settings: ServerSettings, cache_dir: Path
) -> tuple[Path, str]:
    """(path, how it came about)."""
    if settings.model_lib is not None:
        return settings.model_lib, str(settings.model_lib)
    libraries = cache_dir / "libraries"
    path = libraries / f"{library_key(manifest, settings.device)}.so"
    if path.exists():
        return path, f"cached {path}"
    compile_apart(manifest.folder, settings.device, libraries)
    return path, f"compiled into {path}"


def _load_runner(
    library: Path, folder: Path, threads: int, progress: ProgressCallback
) -> _core.TvmRunner:
    def report(done: int, total: int) -> None:
        progress("loading weights", done, total)

    return _explained(
        lambda: _core.TvmRunner(
            str(library),
            str(folder),
            threads,
            tvm_library_path=str(_tvm_runtime()),
            progress=report,
        ),
        hint="leave --model-lib out to compile a fitting library, or convert the model again",
    )


def _plan_kv(settings: ServerSettings, manifest: Manifest, info: _core.ModelInfo) -> KvPlan:
    window = min(manifest.model.context_window_size, info.context_window)
    if settings.context_window_size > window:
        raise UserError(
            "the context window is larger than the model's",
            seen=f"--context-window-size {settings.context_window_size}",
            hint=f"--context-window-size {window}",
        )
    return plan_kv(
        page_size=info.page_size,
        bytes_per_page=info.bytes_per_page,
        context_window=settings.context_window_size or window,
        max_batch_size=settings.max_batch_size,
        total_tokens=settings.max_total_seq_length,
        free_bytes=available_bytes(),
    )


def _make_engine(
    settings: ServerSettings,
    runner: _core.TvmRunner,
    prompts: PromptBuilder,
    vocabulary: _core.Vocabulary,
    kv: KvPlan,
) -> _core.Engine:
    info = runner.info
    scored_rows_max = min(_SCORED_ROWS_MAX, max(1, info.max_logit_rows // 2))
    config = _core.EngineConfig(
        max_batch_size=min(settings.max_batch_size, info.max_logit_rows - scored_rows_max),
        prefill_chunk_size=min(settings.prefill_chunk_size, info.max_rows),
        max_sequence_length=kv.context_window,
        page_size=kv.page_size,
        num_pages=kv.num_pages,
        max_queue_size=settings.max_queue_size,
        vocab_size=info.vocab_size,
        eos_token_ids=_eos_token_ids(prompts, info.vocab_size),
        strip_leading_space=prompts.tokenizer.strips_leading_space,
        speculative_mode=settings.speculative_mode,
        draft_tokens_max=settings.draft_tokens_max,
        scored_rows_max=scored_rows_max,
    )
    return _explained(
        lambda: _core.Engine(runner, vocabulary, config),
        hint="a smaller --max-total-seq-length, --max-batch-size or --prefill-chunk-size",
    )


def _eos_token_ids(prompts: PromptBuilder, vocab_size: int) -> list[int]:
    return [token_id for token_id in prompts.stop.token_ids if token_id < vocab_size]


def _explained(build: Callable[[], _T], *, hint: str) -> _T:
    """`build()`, with the core's refusal as a UserError."""
    try:
        return build()
    except _core.CoreError as error:
        raise UserError(error.message, seen=error.param or error.code, hint=hint) from error


def _tvm_runtime() -> Path:
    """libtvm_runtime.so of the installed TVM, found without importing it."""
    spec = importlib.util.find_spec("tvm")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "lib" / "libtvm_runtime.so"
        if path.is_file():
            return path
    raise UserError(
        "TVM's runtime library is missing",
        seen=", ".join(folders) or "no package tvm",
        hint="pip install apache-tvm",
    )


def _fingerprint(library: Path, metadata_json: str) -> str:
    """Identifies what computes the answers: this version, the library and the weights' layout."""
    digest = hashlib.sha256(f"{__version__}\0{library.name}\0{metadata_json}".encode())
    return f"fp_{digest.hexdigest()[:12]}"
