"""`gen_config`: writes the mlc-chat-config.json and tokenizer files of a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlc_server.cli.arguments import integer
from mlc_server.cli.common import default_cache_dir, say
from mlc_server.cli.progress import ProgressReport

_MAX_TOKENS = 1 << 24


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "gen_config",
        help="write the mlc-chat-config.json of a model folder",
        description="Writes mlc-chat-config.json and the tokenizer's files.",
    )
    parser.add_argument(
        "source",
        metavar="CONFIG",
        help="Hugging Face folder or its config.json, or a GGUF file",
    )
    parser.add_argument("--quantization", metavar="Q", help="as given to convert_weight")
    parser.add_argument(
        "--conv-template",
        metavar="NAME",
        help="conversation template, such as chatml or llama-3; default: guessed",
    )
    tokens = integer(1, _MAX_TOKENS)
    parser.add_argument(
        "--context-window-size", type=tokens, metavar="N", help="tokens; default: the model's"
    )
    parser.add_argument(
        "--sliding-window-size", type=tokens, metavar="N", help="tokens; default: none"
    )
    parser.add_argument(
        "--prefill-chunk-size", type=tokens, metavar="N", help="tokens; default: 2048"
    )
    parser.add_argument(
        "--attention-sink-size",
        type=integer(0, _MAX_TOKENS),
        metavar="N",
        help="written to the file for other servers",
    )
    parser.add_argument(
        "--max-batch-size",
        type=integer(1, 1 << 16),
        default=128,
        metavar="N",
        help="written to the file for other servers; default: 128",
    )
    parser.add_argument(
        "--tensor-parallel-shards",
        type=integer(1, 1024),
        default=1,
        metavar="N",
        help="written to the file for other servers; default: 1",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write into"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    # Imported late: `--help` and wrong flags need not wait for NumPy and tokenizers.
    from mlc_server.build.chat_config import ChatConfigOptions  # noqa: PLC0415
    from mlc_server.build.conv_templates import guess_conv_template  # noqa: PLC0415
    from mlc_server.build.gen_config import generate_config  # noqa: PLC0415
    from mlc_server.build.sources import resolve_source  # noqa: PLC0415
    from mlc_server.build.sources.prepare import open_source  # noqa: PLC0415

    with ProgressReport() as progress:
        model = open_source(resolve_source(args.source, default_cache_dir(), progress))
    options = ChatConfigOptions(
        conv_template=args.conv_template or guess_conv_template(model.chat_template),
        context_window_size=args.context_window_size,
        sliding_window_size=args.sliding_window_size,
        prefill_chunk_size=args.prefill_chunk_size,
        attention_sink_size=args.attention_sink_size,
        max_batch_size=args.max_batch_size,
        tensor_parallel_shards=args.tensor_parallel_shards,
        sampling=model.sampling,
    )
    generate_config(model, args.output, args.quantization, options)
    say(f"{args.output / 'mlc-chat-config.json'} written")
    return 0
