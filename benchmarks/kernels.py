"""Each kernel of a model against its own roofline.

    python benchmarks/kernels.py [MODEL] [--rows 1 8 512] [--match linear] [--json]

The kernels are those of the compiled model, called one by one on the model's shapes. A matrix lies
at another place for every call, so that it comes from memory as in a step. The floor of a call is
the larger of bytes / read bandwidth and operations / peak, both measured here on as many threads;
percent is floor over time, and says which of the two it is. Float operations are held to a quarter
of the int8 peak (as many instructions, a quarter of the lanes). What fits into the last cache can
beat its floor. A call from Python costs some tenths of a microsecond, which are in the times.
Attention "8x1 at 256": 8 sequences of one row each, after 256 tokens of context.
Threads: one by default; more are TVM's own pool, which the core does not use.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROWS = (1, 2, 4, 8, 32, 128, 512)
# (rows of one sequence, tokens before them, sequences)
ATTENTION = (
    (1, 128, 1),
    (1, 1024, 1),
    (1, 4096, 1),
    (1, 256, 8),
    (1, 256, 32),
    (128, 0, 1),
    (512, 0, 1),
    (64, 4000, 1),
)
ITEM_ROWS = 16  # of one prefill item, as cpp/model/attention_plan.h cuts them
ARENA_ALIGNMENT = 64  # bytes
BOUNDS = {"memory": "mem", "compute": "ops"}  # in the table
MIN_TIMED_S = 0.02
FLOAT_SHARE = 4  # int8 operations in the time of one float operation


@dataclass(frozen=True)
class Work:
    """What one call must do at least."""

    bytes: float
    int8_operations: float = 0.0
    float_operations: float = 0.0


@dataclass(frozen=True)
class Timing:
    """One kernel on one shape: microseconds of a call, median and extremes of the repeats."""

    kernel: str
    shape: str
    time_us: float
    low_us: float
    high_us: float
    floor_us: float
    bound: str  # "memory" or "compute"
    percent: float
    gb_s: float
    gops: float


@dataclass(frozen=True)
class Case:
    """`calls`: argument lists to go through in turn."""

    kernel: str
    label: str
    shape: str
    calls: list[list[Any]]
    work: Work


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="as `serve` takes it; default: the default model")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of the linear layers")
    parser.add_argument("--match", default="", help="only kernels whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


class Kernels:
    """The kernels of a model, compiled for this machine, and arguments to call them with."""

    def __init__(self, spec: str, cache_dir: Path) -> None:
        import numpy as np  # noqa: PLC0415 - these come after the number of threads is set
        import tvm  # noqa: PLC0415

        from mlc_server.build.kernels.cpu.isa import select_isa  # noqa: PLC0415
        from mlc_server.build.kernels.cpu.pipeline import build_functions  # noqa: PLC0415
        from mlc_server.build.library_metadata import Limits, plan_weights  # noqa: PLC0415
        from mlc_server.build.manifest import load_manifest  # noqa: PLC0415
        from mlc_server.build.models.registry import build_network  # noqa: PLC0415
        from mlc_server.build.sources.prepare import prepare_model  # noqa: PLC0415
        from mlc_server.build.targets import resolve_target  # noqa: PLC0415

        self._np, self._tvm = np, tvm
        manifest = load_manifest(prepare_model(spec, cache_dir))
        self.model = manifest.model
        self.layout = plan_weights(manifest)
        target = resolve_target("auto")
        isa = select_isa(target.target, target.feature_level)
        network = build_network(self.model, self.layout, isa, target.target, Limits())
        self.functions = {
            variable.name_hint: function
            for variable, function in network.functions.items()
            if isinstance(function, tvm.tirx.PrimFunc)
        }
        self._module = build_functions(self.functions, target.target)
        # Finite as f16 and f32 scales, and no zeros.
        self._arena = self.tensor(np.full(self.layout.arena_bytes, 0x3C, "uint8"))

    def tensor(self, array: Any) -> Any:
        return self._tvm.runtime.tensor(array)

    def made_up(self, shape: Sequence[int], dtype: str) -> Any:
        """Contents that every kernel takes: row numbers for index vectors, else small values."""
        np = self._np
        if dtype == "int32" and len(shape) == 1:
            return self.tensor(np.arange(shape[0], dtype="int32"))
        if dtype.startswith("float"):
            return self.tensor(np.full(shape, 0.1, dtype))
        return self.tensor(np.resize(np.arange(-100, 100), shape).astype(dtype))

    def arguments(
        self, name: str, rows: int, scalars: Sequence[int], given: Mapping[int, Any] | None = None
    ) -> list[Any]:
        """All arguments of kernel `name`: its scalars, its `given` tensors by position, the rest
        made up. A symbolic dimension is what a given tensor says, else `rows`.
        """
        parameters = list(self.functions[name].params)
        given = dict(given or {})
        is_scalar = [self._tvm.ir.is_prim_expr(parameter) for parameter in parameters]
        for index, parameter in enumerate(parameters):
            if not is_scalar[index] and str(parameter.dtype) == "uint8":
                given[index] = self._arena
        sizes: dict[Any, int] = {}
        for index, tensor in given.items():
            sizes.update(zip(parameters[index].shape, tensor.shape, strict=True))
        scalar = iter(scalars)
        values = []
        for index, parameter in enumerate(parameters):
            if is_scalar[index]:
                values.append(next(scalar))
            elif index in given:
                values.append(given[index])
            else:
                shape = [self._size(dim, sizes, rows) for dim in parameter.shape]
                values.append(self.made_up(shape, str(parameter.dtype)))
        return values

    def _size(self, dim: Any, sizes: Mapping[Any, int], rows: int) -> int:
        return int(sizes.get(dim, rows) if isinstance(dim, self._tvm.ir.Var) else dim)

    def seconds(self, case: Case, repeats: int) -> list[float]:
        """Mean time of a call, once for each repeat."""
        function = self._module[case.kernel]
        calls = [tuple(call) for call in case.calls]

        def run(rounds: int) -> float:
            begin = time.perf_counter()
            for _ in range(rounds):
                for call in calls:
                    function(*call)
            return time.perf_counter() - begin

        run(1)
        rounds = max(1, round(MIN_TIMED_S / max(run(1), 1e-6)))
        return [run(rounds) / rounds / len(calls) for _ in range(repeats)]


def linear_cases(kernels: Kernels, name: str, all_rows: Sequence[int]) -> Iterator[Case]:
    """Matrix `name`, every time at the next place of the arena, which holds the same everywhere."""
    entries = [
        entry
        for entry in kernels.layout.entries.values()
        if entry.matrix is not None and name.startswith(f"linear_{entry.matrix.name}_")
    ]
    nbytes, arena_bytes = entries[0].nbytes, kernels.layout.arena_bytes
    step = -(-nbytes // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
    offsets = range(0, arena_bytes - nbytes + 1, step)
    matrix = entries[0].matrix
    roles = sorted({entry.name.rsplit(".", 1)[-1] for entry in entries})
    for rows in all_rows:
        # A second scalar is the offset of the bias.
        first = kernels.arguments(name, rows, [0, 0])
        calls = [with_scalar(first, offset) for offset in offsets]
        activations = rows * (matrix.cols * (1.25 if matrix.is_quantized else 4) + 4 * matrix.rows)
        operations = 2.0 * rows * matrix.rows * matrix.cols
        kind = "int8_operations" if matrix.is_quantized else "float_operations"
        label = f"{'+'.join(roles)} {matrix.scheme}"
        yield Case(
            name, label, f"M={rows}", calls, Work(nbytes + activations, **{kind: operations})
        )


def attention_cases(kernels: Kernels, name: str) -> Iterator[Case]:
    """One layer's attention; decoding sequences and prompts."""
    import numpy as np  # noqa: PLC0415

    model = kernels.model
    page_size = 16
    for rows, before, sequences in ATTENTION:
        context = before + rows
        pages = -(-context // page_size)
        kv_shape = (model.num_layers, pages * sequences, model.num_kv_heads, 2)
        kv = np.full((*kv_shape, page_size * model.head_dim), 0.1, "float16")
        starts = range(0, rows, ITEM_ROWS)
        items = [
            (sequence, sequence * rows + first, min(ITEM_ROWS, rows - first), -1)
            for sequence in range(sequences)
            for first in starts
        ]
        positions = np.tile(np.arange(before, context, dtype="int32"), sequences)
        table = np.random.default_rng(0).permutation(pages * sequences).astype("int32")
        tables = (
            positions,
            np.arange(sequences + 1, dtype="int32") * pages,
            table,
            np.array(items, "int32"),
            np.array([[-1, 0, 0]], "int32"),  # nothing to combine
            kv,
        )
        given = {index: kernels.tensor(array) for index, array in enumerate(tables, start=1)}
        first = kernels.arguments(name, rows * sequences, [0], given)
        calls = [with_scalar(first, layer) for layer in range(model.num_layers)]
        nbytes = sequences * context * model.num_kv_heads * model.head_dim * 4
        seen = sequences * sum(range(before + 1, context + 1))  # (row, token) pairs
        operations = 4.0 * seen * model.num_q_heads * model.head_dim
        shape = f"{sequences}x{rows} at {before}"
        yield Case(name, "attention", shape, calls, Work(nbytes, float_operations=operations))


def row_cases(kernels: Kernels, name: str, all_rows: Sequence[int]) -> Iterator[Case]:
    """Kernels that only pass over rows: norms, rotary embedding, embedding lookup."""
    label = name.partition("_q")[0] if name.startswith("embedding") else name
    label = label.partition(f"_{kernels.model.hidden_size}_")[0].replace("_", " ")
    for rows in all_rows:
        call = kernels.arguments(name, rows, [0])
        arrays = [a for a in call if not isinstance(a, int)]
        # Of the weights and of the KV cache next to nothing is touched.
        nbytes = sum(_nbytes(a) for a in arrays if str(a.dtype) not in {"uint8", "float16"})
        yield Case(name, label, f"M={rows}", [call], Work(nbytes))


def with_scalar(call: Sequence[Any], value: int) -> list[Any]:
    """`call` with another value for its first scalar."""
    place = next(index for index, argument in enumerate(call) if isinstance(argument, int))
    return [*call[:place], value, *call[place + 1 :]]


def _nbytes(array: Any) -> int:
    size = 1
    for dim in array.shape:
        size *= int(dim)
    return size * {"int8": 1, "uint8": 1, "float16": 2, "float64": 8}.get(str(array.dtype), 4)


def cases(kernels: Kernels, rows: Sequence[int], match: str) -> Iterator[Case]:
    for name in sorted(kernels.functions):
        if match not in name:
            continue
        if name.startswith("linear_"):
            yield from linear_cases(kernels, name, rows)
        elif name.startswith("attention_"):
            yield from attention_cases(kernels, name)
        else:
            yield from row_cases(kernels, name, rows)


def timing_of(case: Case, seconds: Sequence[float], read: float, int8: float) -> Timing:
    """`read` bytes a second, `int8` operations a second."""
    median = statistics.median(seconds)
    operations = case.work.int8_operations + case.work.float_operations
    compute_s = (case.work.int8_operations + FLOAT_SHARE * case.work.float_operations) / int8
    memory_s = case.work.bytes / read
    floor_s = max(compute_s, memory_s)
    return Timing(
        kernel=case.label,
        shape=case.shape,
        time_us=median * 1e6,
        low_us=min(seconds) * 1e6,
        high_us=max(seconds) * 1e6,
        floor_us=floor_s * 1e6,
        bound="compute" if compute_s > memory_s else "memory",
        percent=100 * floor_s / median,
        gb_s=case.work.bytes / median / 1e9,
        gops=operations / median / 1e9,
    )


def timings_table(timings: Sequence[Timing], title: str) -> Table:
    printed = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    printed.add_column("kernel", no_wrap=True)
    printed.add_column("shape", no_wrap=True)
    for header in ("us", "of floor", "GB/s", "GOPS"):
        printed.add_column(header, justify="right", no_wrap=True)
    last = ""
    for timing in timings:
        printed.add_row(
            timing.kernel if timing.kernel != last else "",
            timing.shape,
            f"{timing.time_us:,.1f}",
            f"{timing.percent:.0f} % {BOUNDS[timing.bound]}",
            f"{timing.gb_s:,.1f}",
            f"{timing.gops:,.0f}" if timing.gops else "",
        )
        last = timing.kernel
    return printed


def main() -> None:
    args = parse_arguments()
    os.environ["TVM_NUM_THREADS"] = str(args.threads)  # read once, when TVM is imported
    from machine import measure_machine  # noqa: PLC0415 - imports TVM
    from mlc_server.build.sources.resolve import DEFAULT_MODEL  # noqa: PLC0415
    from mlc_server.cli.common import default_cache_dir  # noqa: PLC0415

    machine = measure_machine(args.threads, args.repeats)
    read, int8 = machine.read_all.median * 1e9, machine.int8_all.median * 1e9
    kernels = Kernels(args.model or DEFAULT_MODEL, default_cache_dir())
    timings = []
    for case in cases(kernels, args.rows, args.match):
        timings.append(timing_of(case, kernels.seconds(case, args.repeats), read, int8))
    if args.json:
        result = {"machine": asdict(machine), "timings": [asdict(timing) for timing in timings]}
        print(json.dumps(result, indent=2))
        return
    title = f"{machine.cpu} ({machine.feature_level}), threads: {args.threads}"
    console = Console()
    console.print(timings_table(timings, title))
    console.print(f"read {machine.read_all}, int8 {machine.int8_all}")
    if not timings:
        sys.exit(f"no kernel has {args.match} in its name: {', '.join(sorted(kernels.functions))}")


if __name__ == "__main__":
    main()
