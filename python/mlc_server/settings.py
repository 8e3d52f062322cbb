"""What the server was told on the command line, after checking and before any model is loaded."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlc_server import limits

# How tool calls are answered: as OpenAI does, or with arguments as an object and streamed as text.
ToolCallStyle = Literal["openai", "mlc"]


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
    # The first is its id in the API, the others are aliases; empty is the folder's name.
    served_model_names: tuple[str, ...] = ()
    allow_any_model: bool = False
    chat_template: str | None = None
    # "auto" or a name of text.tools.formats.PARSERS.
    tool_call_parser: str = "auto"
    tool_call_style: ToolCallStyle = "openai"
    # Converted models and compiled libraries; None is the user's cache folder.
    cache_dir: Path | None = None

    # The engine.
    threads: int = limits.THREADS.default
    max_batch_size: int = limits.MAX_BATCH_SIZE.default
    max_total_seq_length: int = limits.MAX_TOTAL_SEQ_LENGTH.default
    prefill_chunk_size: int = limits.PREFILL_CHUNK_SIZE.default
    context_window_size: int = limits.CONTEXT_WINDOW_SIZE.default
    max_queue_size: int = limits.MAX_QUEUE_SIZE.default
    speculative_mode: str = "disable"
    draft_tokens_max: int = limits.DRAFT_TOKENS_MAX.default

    # HTTP.
    host: str = "127.0.0.1"
    port: int = 8000
    cors: CorsSettings = CorsSettings()
    # Bearer keys that every request but a health check must have one of; empty is no check.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    # Hosts that requests may be addressed to besides loopback names; ("*",) is any.
    allowed_hosts: tuple[str, ...] = ()
    max_body_size: int = limits.MAX_BODY_BYTES.default
    shutdown_timeout_s: int = limits.SHUTDOWN_S.default
    # Seconds of silence after which a stream gets an SSE comment; 0 is never.
    stream_ping_interval_s: int = 0

    # Reports.
    enable_tracing: bool = False
    log_level: str = "info"
    log_json: bool = False
    # Routes under /debug.
    enable_debug: bool = False
    debug: bool = False


def is_loopback(host: str) -> bool:
    """Whether a host name or address stands for this machine only."""
    if host in {"localhost", "ip6-localhost"} or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
