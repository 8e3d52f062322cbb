"""The core without HTTP as a process that measures what it is told to, one JSON object a line.

    echo '{"workload": "prefill", "tokens": 512}' | python benchmarks/in_process.py [MODEL]

Its first line describes the model. Then each line on standard input is answered by one with
`tokens_s`. Workloads: prefill (tokens), decode (context, batch), closed_loop (streams, requests,
input_len, output_len). Between two lines the engine sleeps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from core_harness import CoreDriver, Harness
from engine import DECODE_TOKENS, PAGE_TOKENS, prepare, tvm_runtime_path
from mlc_server import _core, limits
from mlc_server.build.sources.resolve import DEFAULT_MODEL
from mlc_server.cli.common import default_cache_dir


def tokens_s(driver: CoreDriver, job: dict[str, Any]) -> float:
    """Tokens a second of a workload. Raises KeyError for an unknown one."""
    match job["workload"]:
        case "prefill":
            return float(job["tokens"] / driver.generate(job["tokens"], 1).first_token_s)
        case "decode":
            prompt = max(1, job["context"])
            return driver.generate(prompt, DECODE_TOKENS + 1, job["batch"]).decode_tokens_s
        case "closed_loop":
            timeline = driver.closed_loop(
                job["input_len"],
                job["output_len"],
                streams=job["streams"],
                requests=job["requests"],
            )
            return timeline.tokens_s
    raise KeyError(job["workload"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="as `serve` takes it")
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--kv-tokens", type=int, default=8192, help="default: 8192")
    parser.add_argument("--max-batch-size", type=int, default=limits.MAX_BATCH_SIZE.default)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    args = parser.parse_args()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        folder, library = pool.submit(prepare, args.model, args.cache_dir).result()
    runner = _core.TvmRunner(library, folder, args.threads, tvm_library_path=tvm_runtime_path())
    harness = Harness(
        runner,
        num_pages=args.kv_tokens // PAGE_TOKENS,
        max_batch_size=args.max_batch_size,
        chunk_tokens=limits.PREFILL_CHUNK_SIZE.default,
    )
    info = {
        "model": Path(folder).name,
        "weight_bytes": runner.info.weight_bytes,
        "kv_bytes": args.kv_tokens // PAGE_TOKENS * runner.info.bytes_per_page,
    }
    try:
        print(json.dumps(info), flush=True)
        for line in sys.stdin:
            print(json.dumps({"tokens_s": tokens_s(harness, json.loads(line))}), flush=True)
    finally:
        harness.stop()


if __name__ == "__main__":
    main()
