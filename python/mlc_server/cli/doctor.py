"""`doctor`: checks what serving needs; each line is ok or says exactly how to fix it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mlc_server.cli.arguments import integer
from mlc_server.cli.common import CACHE_VARIABLE, default_cache_dir, say, show_bytes
from mlc_server.errors import UserError

PYTHON_MIN = (3, 10)
MEMORY_MIN_BYTES = 1 << 30
CACHE_MIN_BYTES = 2 << 30
OPEN_FILES_MIN = 1024
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


@dataclass(frozen=True)
class Finding:
    """Outcome of one check. `fix` is what to type or do, None when all is well."""

    name: str
    detail: str
    fix: str | None = None

    def render(self) -> str:
        mark = "ok " if self.fix is None else "FIX"
        line = f"{mark} {self.name:<14}{self.detail}"
        return line if self.fix is None else f"{line}\n    {'':<14}-> {self.fix}"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="check this machine",
        description="Checks what serving needs. Exit code 1 if something needs fixing.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model folder to check as well")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=integer(0, 65535), default=8000, help="default: 8000")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="default: as for serve")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints every finding; returns 1 if one needs fixing."""
    faulty = 0
    for finding in examine(args):
        say(finding.render())
        faulty += finding.fix is not None
    say("all is well" if not faulty else f"{faulty} to fix")
    return 1 if faulty else 0


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """All checks, in the order in which serving would meet their failures."""
    checks: list[Callable[[], Finding]] = [
        check_python,
        check_core,
        check_tvm,
        check_compiler,
        check_cpu,
        check_memory,
        check_open_files,
        lambda: check_port(args.host, args.port),
        lambda: check_cache(args.cache_dir or default_cache_dir()),
    ]
    if args.model is not None:
        checks.append(lambda: check_model(args.model))
    for check in checks:
        yield check()


def check_python() -> Finding:
    fits = sys.version_info >= PYTHON_MIN
    wanted = ".".join(map(str, PYTHON_MIN))
    return Finding(
        "Python", platform.python_version(), None if fits else f"install Python {wanted} or later"
    )


def check_core() -> Finding:
    """The compiled extension is there and loads."""
    try:
        importlib.import_module("mlc_server._core")
    except ImportError as error:
        return Finding("core", str(error), "pip install . in the source folder")
    return Finding("core", "mlc_server._core loads")


def check_tvm() -> Finding:
    """The packages are there; importing the compiler takes seconds and is left out."""
    missing = [name for name in ("tvm", "tvm_ffi") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("TVM", f"{' and '.join(missing)} missing", "pip install apache-tvm")
    return Finding("TVM", f"apache-tvm {metadata.version('apache-tvm')}")


def check_compiler() -> Finding:
    """Linking a compiled model library takes a C or C++ compiler."""
    found = next((path for path in map(shutil.which, COMPILERS) if path), None)
    if found is None:
        return Finding("compiler", "none found", "apt-get install g++, or your system's equivalent")
    return Finding("compiler", found)


def check_cpu() -> Finding:
    """What kernels would be compiled for; imports TVM, so that a broken one is noticed."""
    from mlc_server.build.targets import host_cpu_model, resolve_target  # noqa: PLC0415

    cores = len(os.sched_getaffinity(0))
    seen = f"{cores} cores, {host_cpu_model()}"
    try:
        target = resolve_target("auto")
    except UserError as error:
        return Finding("CPU", f"{seen}: {error.what}", error.hint)
    except (ImportError, OSError) as error:
        fix = "pip install --force-reinstall apache-tvm"
        return Finding("CPU", f"{seen}: TVM does not load ({error})", fix)
    return Finding("CPU", f"{seen}, kernels for {target.feature_level}")


def check_memory() -> Finding:
    from mlc_server.cli.memory import available_bytes  # noqa: PLC0415

    free = available_bytes()
    enough = free >= MEMORY_MIN_BYTES
    return Finding(
        "memory",
        f"{show_bytes(free)} free",
        None if enough else f"free memory: the default model needs {show_bytes(MEMORY_MIN_BYTES)}",
    )


def check_open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= OPEN_FILES_MIN
    return Finding(
        "open files", f"at most {soft}", None if enough else f"ulimit -n {OPEN_FILES_MIN}"
    )


def check_port(host: str, port: int) -> Finding:
    from mlc_server.cli.ports import bind  # noqa: PLC0415

    try:
        bind(host, port).close()
    except UserError as error:
        return Finding("port", f"{error.what} ({error.seen})", error.hint)
    return Finding("port", f"{host}:{port} is free")


def check_cache(folder: Path) -> Finding:
    """The folder can be written to and has room for a model and its library."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        fix = f"chmod u+rwx {existing}, or set {CACHE_VARIABLE} to a folder of yours"
        return Finding("cache", f"{existing} cannot be written to", fix)
    free = shutil.disk_usage(existing).free
    enough = free >= CACHE_MIN_BYTES
    fix = f"free {show_bytes(CACHE_MIN_BYTES - free)}, or set {CACHE_VARIABLE} to another disk"
    return Finding("cache", f"{folder}, {show_bytes(free)} free", None if enough else fix)


def check_model(spec: str) -> Finding:
    """A model folder is complete: configuration, tensors, tokenizer and template."""
    from mlc_server.build.manifest import load_manifest  # noqa: PLC0415
    from mlc_server.text.prompt import PromptBuilder  # noqa: PLC0415

    try:
        manifest = load_manifest(Path(spec).expanduser())
        PromptBuilder.from_folder(manifest.folder, manifest.chat_config)
    except UserError as error:
        return Finding("model", f"{error.what} ({error.seen})", error.hint)
    model = manifest.model
    return Finding(
        "model",
        f"{model.model_type}, {model.num_layers} layers, {manifest.quantization}, "
        f"{len(manifest.tensors)} tensors",
    )
