"""`serve`: from the command line to a server that answers."""

from __future__ import annotations

import argparse
import difflib
import gc
from pathlib import Path
from typing import Any

from mlc_server import limits
from mlc_server.cli.access import API_KEY_VARIABLE, api_keys, warn_if_open
from mlc_server.cli.arguments import integer, json_strings, size_in_bytes
from mlc_server.cli.common import CACHE_VARIABLE, default_cache_dir
from mlc_server.cli.devices import resolve_device
from mlc_server.cli.logs import configure_logging
from mlc_server.cli.phases import Phases
from mlc_server.errors import UserError
from mlc_server.settings import CorsSettings, ServerSettings
from mlc_server.text.tools.formats import PARSERS

_MAX_DRAFT_TOKENS = 7  # one less than EngineConfig::speculative_rows_max: more never run
# Objects made between two looks for garbage, of which starting leaves next to none.
_GC_THRESHOLD = 100_000
_MAX_TOKENS = 1 << 24  # of a context window or a KV cache; larger numbers are typing errors


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="serve a model over HTTP",
        description="Serves a model over an OpenAI-compatible HTTP API.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model folder, Hugging Face folder, GGUF file or known name; "
        "default: SmolLM2-135M-Instruct",
    )
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", help="the same, as a flag")
    _add_model_flags(parser.add_argument_group("model"))
    _add_engine_flags(parser.add_argument_group("engine"))
    _add_http_flags(parser.add_argument_group("HTTP"))
    _add_access_flags(parser.add_argument_group("access"))
    _add_report_flags(parser.add_argument_group("reports"))
    return parser


def _add_model_flags(group: Any) -> None:
    group.add_argument(
        "--model-lib",
        type=Path,
        metavar="PATH",
        help="compiled model library (.so) to use; default: compile once and cache",
    )
    group.add_argument(
        "--device", default="auto", help='"auto" or "cpu"; default: auto, which is cpu'
    )
    group.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="id of the model in the API; given again: another name, listed and answered to as "
        "well; default: the model's own",
    )
    group.add_argument(
        "--allow-any-model",
        action="store_true",
        help="answer requests whatever model they name, instead of 404",
    )
    group.add_argument(
        "--chat-template",
        metavar="FILE",
        help='Jinja chat template to use, or "mlc" for the conv_template of mlc-chat-config.json',
    )
    group.add_argument(
        "--tool-call-parser",
        choices=("auto", *PARSERS),
        default="auto",
        help="how the model writes tool calls; default: auto, as its chat template has it",
    )
    group.add_argument(
        "--tool-call-style",
        choices=("openai", "mlc"),
        default="openai",
        help="how tool calls are answered; mlc: arguments as an object, streamed calls as a list "
        "of Python calls in the content, and a call required unless tool_choice says otherwise",
    )
    group.add_argument(
        "--cache-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="where converted models and compiled libraries are kept; "
        f"default: ${CACHE_VARIABLE}, else ~/.cache/mlc_server",
    )


def _add_engine_flags(group: Any) -> None:
    def count(limit: limits.Limit, high: int, *aliases: str) -> None:
        automatic = limit.default == 0
        default = "0 (or None)" if automatic else f"{limit.default} {limit.unit}"
        group.add_argument(
            limit.flag,
            *aliases,
            type=integer(0, high, none=0) if automatic else integer(1, high),
            default=limit.default,
            metavar="N",
            help=f"{limit.meaning}; default: {default}",
        )

    count(limits.THREADS, 1024)
    count(limits.MAX_BATCH_SIZE, 4096, "--max-num-seqs")
    count(limits.MAX_TOTAL_SEQ_LENGTH, _MAX_TOKENS)
    count(limits.PREFILL_CHUNK_SIZE, 1 << 16, "--max-num-batched-tokens")
    count(limits.CONTEXT_WINDOW_SIZE, _MAX_TOKENS, "--max-model-len")
    count(limits.MAX_QUEUE_SIZE, 1 << 20)
    group.add_argument(
        "--speculative-mode",
        choices=("disable", "ngram"),
        default="disable",
        help="ngram: guess the next tokens from what followed the same words before and check "
        "several in one step; the same tokens, sooner where text repeats; default: disable",
    )
    count(limits.DRAFT_TOKENS_MAX, _MAX_DRAFT_TOKENS)


def _add_http_flags(group: Any) -> None:
    group.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    group.add_argument(
        "--port", type=integer(0, 65535), default=8000, help="default: 8000; 0 takes a free one"
    )
    group.add_argument(
        "--allow-credentials",
        action="store_true",
        help="let browsers send credentials from other origins (CORS)",
    )
    for what in ("origins", "methods", "headers"):
        group.add_argument(
            f"--allowed-{what}",
            f"--allow-{what}",
            type=json_strings,
            default=("*",),
            metavar="JSON",
            help=f'{what} that browsers may use (CORS), a JSON list; default: ["*"]',
        )
    group.add_argument(
        "--max-body-size",
        type=size_in_bytes,
        default=limits.MAX_BODY_BYTES.default,
        metavar="SIZE",
        help=f"{limits.MAX_BODY_BYTES.meaning}; default: 4MiB",
    )
    group.add_argument(
        "--shutdown-timeout",
        type=integer(0, 3600),
        default=limits.SHUTDOWN_S.default,
        metavar="SECONDS",
        help=f"{limits.SHUTDOWN_S.meaning}; default: {limits.SHUTDOWN_S.default}",
    )
    group.add_argument(
        "--stream-ping-interval",
        type=integer(0, 3600),
        default=0,
        metavar="SECONDS",
        help="send a comment on streams that have been silent this long, for proxies that cut "
        "idle connections; default: 0, never, since simple clients stumble over comments",
    )


def _add_access_flags(group: Any) -> None:
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="key that requests must carry as a bearer token; may be given several times; "
        f"default: ${API_KEY_VARIABLE}, else none",
    )
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="more keys, one a line; unlike --api-key not visible in the list of processes",
    )
    group.add_argument(
        "--allowed-hosts",
        action="extend",
        nargs="+",
        default=[],
        metavar="HOST",
        help='Host headers to answer besides loopback names, "*" for any; default: any, but on a '
        "loopback --host loopback names only",
    )


def _add_report_flags(group: Any) -> None:
    group.add_argument(
        "--enable-tracing",
        action="store_true",
        help="log each request's events (received, submitted, first token, each choice's end, "
        "ended) with microseconds, one JSON object a line on stderr",
    )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="info logs one line per request; default: info",
    )
    group.add_argument(
        "--log-json", action="store_true", help="log one JSON object a line instead of text"
    )
    group.add_argument(
        "--enable-debug",
        action="store_true",
        help="answer POST /debug/dump_event_trace; with --enable-tracing it holds the latest "
        "requests' events as a Chrome trace",
    )
    group.add_argument(
        "--debug", action="store_true", help="show tracebacks of errors on the command line"
    )


def settings_from(args: argparse.Namespace) -> ServerSettings:
    """Checks what needs no model. Raises UserError."""
    if args.model is not None and args.model_flag is not None:
        raise UserError(
            "two models given", seen=f"{args.model} and {args.model_flag}", hint="give one"
        )
    if args.model_lib is not None and not args.model_lib.is_file():
        raise UserError(
            f"model library {args.model_lib} does not exist",
            seen=_listing(args.model_lib.parent),
            hint="leave --model-lib out to compile one",
        )
    return ServerSettings(
        model=args.model if args.model is not None else args.model_flag,
        model_lib=args.model_lib,
        device=resolve_device(args.device),
        served_model_names=tuple(args.served_model_name),
        allow_any_model=args.allow_any_model,
        chat_template=args.chat_template,
        tool_call_parser=args.tool_call_parser,
        tool_call_style=args.tool_call_style,
        cache_dir=args.cache_dir or default_cache_dir(),
        threads=args.threads,
        max_batch_size=args.max_batch_size,
        max_total_seq_length=args.max_total_seq_length,
        prefill_chunk_size=args.prefill_chunk_size,
        context_window_size=args.context_window_size,
        max_queue_size=args.max_queue_size,
        speculative_mode=args.speculative_mode,
        draft_tokens_max=args.spec_draft_length,
        host=args.host,
        port=args.port,
        cors=CorsSettings(
            allow_credentials=args.allow_credentials,
            allowed_origins=args.allowed_origins,
            allowed_methods=args.allowed_methods,
            allowed_headers=args.allowed_headers,
        ),
        api_keys=api_keys(args.api_key, args.api_key_file),
        allowed_hosts=tuple(args.allowed_hosts),
        max_body_size=args.max_body_size,
        shutdown_timeout_s=args.shutdown_timeout,
        stream_ping_interval_s=args.stream_ping_interval,
        enable_tracing=args.enable_tracing,
        enable_debug=args.enable_debug,
        log_level=args.log_level,
        log_json=args.log_json,
        debug=args.debug,
    )


def run(args: argparse.Namespace) -> int:
    """Serves until told to stop; returns 0 after a graceful end."""
    settings = settings_from(args)
    if settings.model is not None:
        check_model_spec(settings.model)
    configure_logging(settings)
    gc.set_threshold(_GC_THRESHOLD)
    # Imported late: `--help` and wrong flags need not wait for it.
    from mlc_server.cli.loading import Loading  # noqa: PLC0415
    from mlc_server.cli.main import STARTED_S  # noqa: PLC0415
    from mlc_server.cli.ports import bind  # noqa: PLC0415

    warn_if_open(settings)
    with bind(settings.host, settings.port) as sock:
        phases = Phases(STARTED_S)
        with phases.phase("imports"):
            pass  # done by now; the line says what they took
        loading = Loading(settings, phases)
        # FastAPI takes longer to import than a small model to load.
        from mlc_server.cli.http_server import serve_forever  # noqa: PLC0415

        return serve_forever(settings, sock, loading)


def check_model_spec(spec: str) -> None:
    """Refuses what is plainly no model: a misspelt command, a path that leads nowhere."""
    from mlc_server.cli.main import COMMANDS  # noqa: PLC0415

    path = Path(spec).expanduser()
    if path.exists():
        return
    looks_like_path = spec.startswith(("/", ".", "~")) or spec.endswith(".gguf") or "\\" in spec
    close = difflib.get_close_matches(spec.replace("-", "_"), list(COMMANDS), n=1)
    if close and "/" not in spec:
        raise UserError(
            f"{spec} is neither a command nor a model",
            seen=spec,
            hint=f"did you mean {close[0]}?",
        )
    if looks_like_path:
        raise UserError(
            f"model {spec} does not exist",
            seen=_listing(path.parent),
            hint="give a model folder, a GGUF file or a known name",
        )


def _listing(folder: Path) -> str:
    """What a folder holds, for the second line of an error."""
    if not folder.is_dir():
        return f"{folder} does not exist either"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{folder} holds {shown or 'nothing'}"
