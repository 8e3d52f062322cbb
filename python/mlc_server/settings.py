"""What the server was told on the command line, after checking and before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlc_server import limits


@dataclass(frozen=True)
class CorsSettings:
    """Cross-origin rules, as Starlette's CORSMiddleware takes them."""

    allow_credentials: bool = False
    allowed_origins: tuple[str, ...] = ("*",)
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class ServerSettings:
    """Settings of `serve`. Zero means "work it out" where limits.py says so."""

    # What to serve: None is the default model.
    model: str | None = None
    model_lib: Path | None = None
    device: str = "auto"
    served_model_name: str | None = None
    allow_any_model: bool = False
    chat_template: str | None = None
    # Converted models and compiled libraries; None is the user's cache folder.
    cache_dir: Path | None = None

    # The engine.
    threads: int = limits.THREADS.default
    max_batch_size: int = limits.MAX_BATCH_SIZE.default
    max_total_seq_length: int = limits.MAX_TOTAL_SEQ_LENGTH.default
    prefill_chunk_size: int = limits.PREFILL_CHUNK_SIZE.default
    context_window_size: int = limits.CONTEXT_WINDOW_SIZE.default
    max_queue_size: int = limits.MAX_QUEUE_SIZE.default

    # HTTP.
    host: str = "127.0.0.1"
    port: int = 8000
    cors: CorsSettings = CorsSettings()
    max_body_size: int = limits.MAX_BODY_BYTES.default
    shutdown_timeout_s: int = limits.SHUTDOWN_S.default

    # Reports.
    enable_tracing: bool = False
    log_level: str = "info"
    debug: bool = False
