"""Speed of the core without HTTP: prefill and decode, beside what the machine could do at best.

    python benchmarks/engine.py [MODEL] [--threads N] [--repeats N] [--json]

MODEL is whatever `serve` takes; without one it is the default model. "prefill N" is a prompt of N
tokens up to its first output token; "decode xB at C" is B sequences decoding together, each after a
prompt of C tokens, output tokens of all of them. Every figure is the median of the repeats with
their extremes. Prompts are random tokens, each used once; sampling is greedy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core_harness import Harness
from mlc_server import _core
from mlc_server.build.compile import library_for
from mlc_server.build.manifest import load_manifest
from mlc_server.build.sources.prepare import prepare_model
from mlc_server.build.sources.resolve import DEFAULT_MODEL
from mlc_server.cli.common import default_cache_dir

PREFILL_TOKENS = (128, 512, 2048)
DECODE_CONTEXTS = (0, 1000, 4000)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
BATCH_PROMPT_TOKENS = 32
DECODE_TOKENS = 64  # timed tokens of one sequence
PAGE_TOKENS = 16


@dataclass(frozen=True)
class Row:
    """One workload: tokens a second, and the share of the machine's ceiling that takes.

    `of_bandwidth`: bytes of weights and KV that must be read, over the read bandwidth of all
    threads. `of_int8`: multiplications and additions of the layers' matrices, over the int8 peak.
    Percent; None where another resource is the limit or the machine was not measured.
    """

    name: str
    tokens_s: float
    low: float
    high: float
    of_bandwidth: float | None = None
    of_int8: float | None = None


@dataclass(frozen=True)
class Report:
    model: str
    library: str
    threads: int
    repeats: int
    load_s: float
    weight_mb: float
    kv_mb: float
    peak_rss_mb: float
    rows: list[Row]
    machine: dict[str, Any] | None


@dataclass(frozen=True)
class Traffic:
    """What one step has to do at least, from the library's metadata."""

    weight_bytes: int  # read by a decode step, whatever its batch
    kv_bytes_per_token: int  # read for every token of context
    operations_per_token: int  # of the layers' matrices that a prompt's tokens pass through

    @staticmethod
    def of(metadata: dict[str, Any]) -> Traffic:
        entries = metadata["weights"]["entries"]
        untied = any(entry["name"] == "lm_head" for entry in entries)
        last = f"model.layers.{metadata['num_layers'] - 1}."
        streamed = operations = 0
        for entry in entries:
            is_embedding = entry["name"] == "model.embed_tokens"
            if not (is_embedding and untied):  # a lookup reads single rows
                streamed += entry["nbytes"]
            shape = entry["source_shapes"][0]
            # Behind the last layer's attention go only rows whose logits are wanted.
            is_passed = not entry["name"].startswith(last) or "qkv_proj" in entry["name"]
            if entry["name"].startswith("model.layers.") and len(shape) == 2 and is_passed:
                per_word = 8 if entry["source_dtypes"][0] == "uint32" else 1
                operations += 2 * shape[0] * shape[1] * per_word
        kv_bytes = metadata["kv"]["bytes_per_page"] // metadata["kv"]["page_size"]
        return Traffic(streamed, kv_bytes, operations)


def _percent(part: float, whole: float | None) -> float | None:
    return None if whole is None else 100 * part / whole


class Benchmark:
    """The workloads, on one loaded model."""

    def __init__(
        self, harness: Harness, traffic: Traffic, machine: dict[str, Any] | None, repeats: int
    ) -> None:
        self._harness = harness
        self._traffic = traffic
        self._repeats = repeats
        self._read = None if machine is None else machine["read_all"]["median"] * 1e9
        self._int8 = None if machine is None else machine["int8_all"]["median"] * 1e9

    def prefill(self, tokens: int) -> Row:
        rates = []
        for _ in range(self._repeats + 1):
            rates.append(tokens / self._harness.generate(tokens, 1).first_token_s)
        operations = self._traffic.operations_per_token * statistics.median(rates[1:])
        return self._row(f"prefill {tokens}", rates, None, _percent(operations, self._int8))

    def decode(self, context: int, batch: int) -> Row:
        """`context` 0 is a prompt of one token; a batch has short prompts of its own."""
        prompt = max(1, context)
        rates = []
        for _ in range(self._repeats + 1):
            timeline = self._harness.generate(prompt, DECODE_TOKENS + 1, batch)
            rates.append(timeline.decode_tokens_s)
        kv_tokens = batch * (prompt + DECODE_TOKENS / 2)
        step_bytes = self._traffic.weight_bytes + kv_tokens * self._traffic.kv_bytes_per_token
        read = step_bytes * statistics.median(rates[1:]) / batch
        name = f"decode x{batch} at {context}"
        return self._row(name, rates, _percent(read, self._read), None)

    def _row(self, name: str, rates: list[float], read: float | None, int8: float | None) -> Row:
        timed = rates[1:]  # the first one warms up
        return Row(name, statistics.median(timed), min(timed), max(timed), read, int8)

    def all(self) -> Iterator[Row]:
        longest = self._harness.num_pages * PAGE_TOKENS
        for tokens in PREFILL_TOKENS:
            if tokens < longest:
                yield self.prefill(tokens)
        for context in DECODE_CONTEXTS:
            if context + DECODE_TOKENS + 1 < longest:
                yield self.decode(context, 1)
        for batch in BATCH_SIZES[1:]:
            yield self.decode(BATCH_PROMPT_TOKENS, batch)


def prepare(spec: str, cache_dir: Path) -> tuple[str, str]:
    """Model folder and library of `spec`, converted and compiled unless cached."""
    folder = prepare_model(spec, cache_dir)
    return str(folder), str(library_for(load_manifest(folder), "auto", cache_dir / "libraries"))


def measure_machine_apart(threads: int, repeats: int) -> dict[str, Any]:
    """Machine ceilings, measured in a process of their own so that its memory is not ours."""
    command = [sys.executable, str(Path(__file__).parent / "machine.py"), "--json"]
    command += ["--threads", str(threads), "--repeats", str(repeats)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    machine: dict[str, Any] = json.loads(output)
    return machine


def tvm_runtime_path() -> str:
    """libtvm_runtime.so of the installed TVM, found without importing it."""
    spec = find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("apache-tvm is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so")


def measure(args: argparse.Namespace) -> Report:
    # In a process of its own: the compiler's memory would be in our peak.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        folder, library = pool.submit(prepare, args.model, args.cache_dir).result()
    machine = measure_machine_apart(args.threads, args.repeats) if args.machine else None
    start = time.perf_counter()
    runner = _core.TvmRunner(library, folder, args.threads, tvm_library_path=tvm_runtime_path())
    load_s = time.perf_counter() - start
    metadata = json.loads(runner.metadata_json)
    needed_tokens = max(
        max(*DECODE_CONTEXTS, *PREFILL_TOKENS) + DECODE_TOKENS + PAGE_TOKENS,
        max(BATCH_SIZES) * (BATCH_PROMPT_TOKENS + DECODE_TOKENS + PAGE_TOKENS),
    )
    num_pages = min(needed_tokens, runner.info.context_window) // PAGE_TOKENS + 1
    harness = Harness(runner, num_pages=num_pages, max_batch_size=max(BATCH_SIZES))
    try:
        rows = list(Benchmark(harness, Traffic.of(metadata), machine, args.repeats).all())
    finally:
        harness.stop()
    return Report(
        model=Path(folder).name,
        library=Path(library).name,
        threads=args.threads,
        repeats=args.repeats,
        load_s=load_s,
        weight_mb=runner.info.weight_bytes / 1e6,
        kv_mb=num_pages * runner.info.bytes_per_page / 1e6,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        rows=rows,
        machine=machine,
    )


def report_table(report: Report) -> Table:
    title = f"{report.model}, {report.threads} threads, median of {report.repeats}"
    caption = (
        f"loaded in {report.load_s:.2f} s; peak RSS {report.peak_rss_mb:.0f} MB with "
        f"{report.weight_mb:.0f} MB of weights and {report.kv_mb:.0f} MB of KV"
    )
    table = Table(title=title, caption=caption)
    table.add_column("workload", no_wrap=True)
    for column in ("tokens/s", "spread", "bandwidth", "int8 peak"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        shares = (row.of_bandwidth, row.of_int8)
        table.add_row(
            row.name,
            f"{row.tokens_s:,.0f}",
            f"{row.low:,.0f} to {row.high:,.0f}",
            *("" if share is None else f"{share:.0f} %" for share in shares),
        )
    return table


def main() -> None:
    cpus = multiprocessing.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="as `serve` takes it")
    parser.add_argument("--threads", type=int, default=cpus, help=f"default: {cpus}")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    parser.add_argument(
        "--no-machine", dest="machine", action="store_false", help="leave the ceilings out"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    report = measure(args)
    if args.json:
        print(json.dumps(asdict(report), indent=2))
        return
    console = Console()
    console.print(report_table(report))
    if report.machine is not None:
        for name in ("read_all", "int8_all", "region"):
            value = report.machine[name]
            console.print(f"{name}: {value['median']:,.4g} {value['unit']}")


if __name__ == "__main__":
    main()
