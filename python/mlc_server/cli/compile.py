"""`compile`: writes the model library of a model for a target."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlc_server.cli.common import default_cache_dir, say, show_bytes
from mlc_server.cli.progress import ProgressReport


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compile",
        help="compile a model library for a target",
        description="Compiles the kernels a model needs into a shared object for `serve "
        "--model-lib`. `serve` does this by itself; use it to compile ahead or for another CPU.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model folder, Hugging Face folder, GGUF file or known name, as for serve",
    )
    parser.add_argument(
        "--quantization",
        metavar="Q",
        help="of a source that is not a model folder yet; as for convert_weight",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="TARGET",
        help='"auto" or "cpu" for this machine, an LLVM CPU name such as znver4, or '
        '"llvm -mcpu=<CPU> -mattr=+a,-b"; default: auto',
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the .so file to write"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    # Imported late: `--help` and wrong flags need not wait for NumPy and TVM.
    from mlc_server.build.compile import compile_library  # noqa: PLC0415
    from mlc_server.build.manifest import load_manifest  # noqa: PLC0415
    from mlc_server.build.sources import prepare_model  # noqa: PLC0415

    cache_dir = default_cache_dir()
    with ProgressReport() as progress:
        folder = prepare_model(args.model, cache_dir, progress, quantization=args.quantization)
        manifest = load_manifest(folder)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        compile_library(manifest, args.device, args.output, progress)
    say(f"{args.output}: {show_bytes(args.output.stat().st_size)}")
    return 0
