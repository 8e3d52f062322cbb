"""Compiles a model library for a model folder and a target, and caches it by content.

Importing this module, and finding a library in the cache, does not import TVM.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_server.build.manifest import Manifest
from mlc_server.build.progress import ProgressCallback, no_progress
from mlc_server.build.targets import CompileTarget, resolve_target, target_key
from mlc_server.errors import CompileError

if TYPE_CHECKING:
    from mlc_server.build.library_metadata import WeightLayout

_PHASE = "compiling kernels"
_STEPS = 4
# Everything that decides what a library holds, relative to this file's folder.
_SOURCES = ("kernels", "models", "compile.py", "library_metadata.py", "targets.py", "rope.py")


def library_for(
    manifest: Manifest,
    target: str,
    cache_dir: Path,
    progress: ProgressCallback = no_progress,
) -> Path:
    """The library of `manifest` for `target` (see `resolve_target`), compiled unless cached.

    Raises CompileError.
    """
    path = cache_dir / f"{library_key(manifest, target)}.so"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        compile_library(manifest, target, path, progress)
    return path


def library_key(manifest: Manifest, target: str) -> str:
    """File name, without suffix, that is the same only for libraries that are the same."""
    content = {
        "sources": _sources_hash(),
        "compiler": [metadata.version("apache-tvm"), metadata.version("apache-tvm-ffi")],
        "target": target_key(target),
        "model": asdict(manifest.model),
        "quantization": manifest.quantization,
        "schemes": dict(manifest.schemes),
        "tensors": {name: [r.shape, r.dtype] for name, r in manifest.tensors.items()},
    }
    text = json.dumps(content, sort_keys=True, default=dict)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{manifest.model.model_type}-{manifest.quantization}-{digest[:32]}"


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in _source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _source_files() -> Iterator[Path]:
    folder = Path(__file__).parent
    for name in _SOURCES:
        path = folder / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else (path,)


def compile_library(
    manifest: Manifest,
    target: str | CompileTarget,
    out_path: Path,
    progress: ProgressCallback = no_progress,
) -> None:
    """Writes the library of `manifest` for `target` to `out_path`, whole or not at all.

    Takes seconds, and a C++ compiler as linker. `progress` counts steps. Raises CompileError when
    the target is unknown, the model has sizes no kernel takes, or there is no linker.
    """
    linker = _find_linker()
    progress(_PHASE, 0, _STEPS)
    from mlc_server.build.kernels.cpu.pipeline import build_library  # noqa: PLC0415 - imports TVM

    resolved = resolve_target(target) if isinstance(target, str) else target
    progress(_PHASE, 1, _STEPS)
    module = _library_module(manifest, resolved)
    progress(_PHASE, 2, _STEPS)
    executable = build_library(module, resolved.target)
    progress(_PHASE, 3, _STEPS)
    _link(executable, out_path, linker)
    progress(_PHASE, _STEPS, _STEPS)


def _library_module(manifest: Manifest, target: CompileTarget) -> Any:
    """`forward`, `metadata`, the kernels and the pack functions as one IRModule."""
    from tvm import relax  # noqa: PLC0415 - takes more than a second
    from tvm.ir import StringImm  # noqa: PLC0415

    from mlc_server.build.kernels.cpu.isa import select_isa  # noqa: PLC0415 - imports TVM
    from mlc_server.build.library_metadata import (  # noqa: PLC0415 - imports TVM
        Limits,
        library_metadata,
        plan_weights,
    )
    from mlc_server.build.models.registry import build_network  # noqa: PLC0415 - imports TVM

    limits = Limits()
    layout = plan_weights(manifest)
    isa = select_isa(target.target, target.feature_level)
    module = build_network(manifest.model, layout, isa, target.target, limits)
    described = json.dumps(library_metadata(manifest, layout, target, limits))
    builder = relax.BlockBuilder()
    with builder.function("metadata", params=[]):
        builder.emit_func_output(StringImm(described))
    module.update(builder.get())
    for name, function in _pack_functions(layout).items():
        module[name] = function.with_attr("global_symbol", name)
    return module


def _pack_functions(layout: WeightLayout) -> dict[str, Any]:
    from mlc_server.build.kernels.cpu.pack import (  # noqa: PLC0415 - imports TVM
        pack_function,
        pack_vector_function,
    )

    functions: dict[str, Any] = {}
    for entry in layout.entries.values():
        if entry.pack in functions:
            continue
        if entry.matrix is None:
            ((length,),) = entry.source_shapes
            functions[entry.pack] = pack_vector_function(length, entry.source_dtypes[0])
        else:
            functions[entry.pack] = pack_function(entry.matrix)
    return functions


def _find_linker() -> str:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    for name in names:
        for folder in ["", *os.get_exec_path()]:
            path = Path(folder) / name if name else None
            if path is not None and path.is_file() and os.access(path, os.X_OK):
                return str(path)
    raise CompileError(
        "no C++ compiler to link the model library with",
        seen=f"none of {', '.join(filter(None, names))} in PATH",
        hint="install g++ or clang, or give a compiled library with --model-lib",
    )


def _link(executable: Any, out_path: Path, linker: str) -> None:
    from tvm.support import cc  # noqa: PLC0415 - takes more than a second

    def create_shared(output: str, objects: list[str], **_: Any) -> None:
        cc.create_shared(output, objects, cc=linker)

    create_shared.output_format = "so"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=out_path.parent, prefix=".compile-") as folder:
        temporary = Path(folder) / "library.so"
        try:
            executable.export_library(str(temporary), fcompile=create_shared)
        except (RuntimeError, subprocess.SubprocessError) as error:
            lines = str(error).strip().splitlines() or ["no message"]
            raise CompileError(
                "the C++ compiler could not link the model library",
                seen=lines[-1],
                hint=f"check that {linker} works, or set CXX to another compiler",
            ) from error
        temporary.replace(out_path)
