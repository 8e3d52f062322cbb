"""Ceilings of this machine: what kernels could reach at best, measured by kernels that do nothing.

read bandwidth   bytes summed from a buffer far larger than the caches
int8 peak        byte dot products of the target's best instruction, operands in registers/L1
empty region     a parallel region of empty tasks on the core's thread pool
by place         with --places N: read bandwidth of each 128 MiB of N GiB. The memory of a virtual
                 machine may be unequal below (nodes, small pages) without a word of it; then
                 processes differ in speed by what they got

python benchmarks/machine.py [--threads N] [--repeats N] [--places N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm
from rich.console import Console
from rich.table import Table
from tvm.tirx.script import builder as T  # noqa: N812 - as everywhere in TVM

from mlc_server import _core
from mlc_server.build.kernels.cpu import frame
from mlc_server.build.kernels.cpu.isa import VectorIsa, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.kernels.cpu.vector_ops import let, splat
from mlc_server.build.targets import host_cpu_model, resolve_target

READ_BYTES = 1 << 29  # of all threads together; beyond the last-level cache of any server
READ_STREAMS = 8  # vectors in flight
PLACE_BYTES = 1 << 27
DOT_STEPS = 1 << 21  # of one call: tens of milliseconds
DOT_WORDS = 64  # weight vectors that the loop reads, all in L1
DOTS_PER_GROUP = 8  # of 4 columns each: one group of a quantised matrix
TASKS_PER_THREAD = 8
REGIONS = 20000


@dataclass(frozen=True)
class Measurement:
    """`median` of the repeats, `low` and `high` their extremes, in `unit`."""

    median: float
    low: float
    high: float
    unit: str

    @staticmethod
    def of(values: Sequence[float], unit: str) -> Measurement:
        return Measurement(statistics.median(values), min(values), max(values), unit)

    def __str__(self) -> str:
        return f"{self.median:,.4g} {self.unit}"

    @property
    def spread(self) -> str:
        return f"{self.low:,.4g} to {self.high:,.4g}"


@dataclass(frozen=True)
class Machine:
    """Ceilings with one thread and with all `threads`."""

    cpu: str
    target: str
    feature_level: str
    threads: int
    read_one: Measurement
    read_all: Measurement
    int8_one: Measurement
    int8_all: Measurement
    region: Measurement
    places: list[float] | None = None  # GB/s


def _read_kernel() -> Any:
    """out[lane] = sum over the stream; data int32 [n], n a multiple of 16 * READ_STREAMS."""
    with frame.kernel("read_stream") as ir:
        n = T.int64()
        data = frame.tensor("data", [n], "int32")
        out = frame.tensor("out", [frame.LANES], "int32")
        sums = [frame.scratch([frame.LANES], "int32") for _ in range(READ_STREAMS)]
        zero = tvm.tirx.Broadcast(tvm.tirx.const(0, "int32"), frame.LANES)
        for total in sums:
            frame.store(total, zero, 0)
        width = frame.LANES * READ_STREAMS
        with T.serial(0, n // width) as block:
            for stream, total in enumerate(sums):
                vector = frame.load(data, block * width + stream * frame.LANES)
                frame.store(total, frame.load(total, 0) + vector, 0)
        result = zero
        for total in sums:
            result = result + frame.load(total, 0)
        frame.store(out, result, 0)
    return ir.get()


def _dot_kernel(isa: VectorIsa) -> Any:
    """`steps` times the register block of the matrix kernels, row_vectors x max_tokens groups of
    DOTS_PER_GROUP dot products of 4-bit weights, without loading activations or rescaling."""
    lanes, size = isa.lanes, 4 * isa.lanes
    with frame.kernel("dot_loop") as ir:
        steps = frame.scalar("steps")
        weights = frame.tensor("weights", [DOT_WORDS * size], "uint8")
        quads = frame.tensor("quads", [isa.max_tokens], "int32")
        out = frame.tensor("out", [lanes], "int32")
        block = [
            [frame.scratch([lanes], "int32") for _ in range(isa.max_tokens)]
            for _ in range(isa.row_vectors)
        ]
        zero = splat(0, lanes, "int32")
        for row in block:
            for total in row:
                frame.store(total, zero, 0, lanes=lanes)
        with T.serial(0, steps) as step:
            for r, row in enumerate(block):
                first = let((step * isa.row_vectors + r) * DOTS_PER_GROUP % DOT_WORDS)
                starts = [frame.load(total, 0, lanes=lanes) for total in row]
                sums = [isa.dot_begin(start, 4) for start in starts]
                for i in range(DOTS_PER_GROUP):
                    vector = frame.load(weights, (first + i) * size, lanes=size)
                    operands = isa.dot_operands(vector, 4)
                    for token in range(isa.max_tokens):
                        quad = let(quads[token])
                        sums[token] = isa.dot4(sums[token], operands, quad)
                for total, dots, start in zip(row, sums, starts, strict=True):
                    frame.store(total, isa.dot_end(dots, start, 4), 0, lanes=lanes)
        result = zero
        for row in block:
            for total in row:
                result = result + frame.load(total, 0, lanes=lanes)
        frame.store(out, result, 0, lanes=lanes)
    return ir.get()


def _time_on_threads(call: Callable[[int], None], threads: int) -> float:
    """Seconds from the first start to the last end of call(0) ... call(threads - 1)."""
    barrier = threading.Barrier(threads + 1)
    spans: list[tuple[float, float]] = [(0.0, 0.0)] * threads

    def work(index: int) -> None:
        barrier.wait()
        start = time.perf_counter()
        call(index)
        spans[index] = (start, time.perf_counter())

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _repeat(call: Callable[[int], None], threads: int, repeats: int) -> list[float]:
    _time_on_threads(call, threads)  # first touch of caches and clocks
    return [_time_on_threads(call, threads) for _ in range(repeats)]


def measure_read_bandwidth(module: Any, threads: int, repeats: int) -> Measurement:
    """Bytes a second that `threads` threads read together, each a stretch of its own."""
    step = frame.LANES * READ_STREAMS
    count = READ_BYTES // 4 // threads // step * step
    parts = [tvm.runtime.tensor(np.ones(count, "int32")) for _ in range(threads)]
    sums = [tvm.runtime.tensor(np.zeros(frame.LANES, "int32")) for _ in range(threads)]
    read = module["read_stream"]
    seconds = _repeat(lambda i: read(parts[i], sums[i]), threads, repeats)
    assert int(sums[0].numpy().sum()) == count  # the loop was not optimised away
    return Measurement.of([4 * count * threads / s / 1e9 for s in seconds], "GB/s")


def measure_places(module: Any, threads: int, repeats: int, nbytes: int) -> list[float]:
    """Bytes a second that `threads` threads read together of each PLACE_BYTES of new memory, the
    best of the repeats. Raises MemoryError."""
    step = frame.LANES * READ_STREAMS
    count = PLACE_BYTES // 4 // threads // step * step
    places = [
        [tvm.runtime.tensor(np.ones(count, "int32")) for _ in range(threads)]
        for _ in range(nbytes // PLACE_BYTES)
    ]
    sums = [tvm.runtime.tensor(np.zeros(frame.LANES, "int32")) for _ in range(threads)]
    read = module["read_stream"]
    rates = []
    for parts in places:

        def call(index: int, parts: list[Any] = parts) -> None:
            read(parts[index], sums[index])

        rates.append(4 * count * threads / min(_repeat(call, threads, repeats)) / 1e9)
    return rates


def measure_int8_peak(module: Any, isa: VectorIsa, threads: int, repeats: int) -> Measurement:
    """Byte multiplications and additions a second of `threads` threads together."""
    weights = tvm.runtime.tensor(np.ones(DOT_WORDS * 4 * isa.lanes, "uint8"))
    quads = tvm.runtime.tensor(np.full(isa.max_tokens, 0x01010101, "int32"))
    sums = [tvm.runtime.tensor(np.zeros(isa.lanes, "int32")) for _ in range(threads)]
    dots = isa.row_vectors * isa.max_tokens * DOTS_PER_GROUP
    loop = module["dot_loop"]
    seconds = _repeat(lambda i: loop(DOT_STEPS, weights, quads, sums[i]), threads, repeats)
    expected = np.array(4 * dots * DOT_STEPS).astype("int32")
    np.testing.assert_array_equal(sums[0].numpy(), np.full(isa.lanes, expected))
    operations = 2 * 4 * isa.lanes * dots * DOT_STEPS * threads
    return Measurement.of([operations / s / 1e9 for s in seconds], "GOPS")


def measure_region(threads: int, repeats: int) -> Measurement:
    """Cost of one parallel region inside a step."""
    tasks = threads * TASKS_PER_THREAD
    values = [_core.measure_empty_region_ns(threads, tasks, REGIONS) for _ in range(repeats)]
    return Measurement.of(values, "ns")


def measure_machine(threads: int, repeats: int = 5, places_gib: int = 0) -> Machine:
    """Takes some seconds; wants the machine to itself."""
    target = resolve_target("auto")
    isa = select_isa(target.target, target.feature_level)
    functions = {"read_stream": _read_kernel(), "dot_loop": _dot_kernel(isa)}
    module = build_functions(functions, target.target)
    return Machine(
        cpu=host_cpu_model(),
        target=target.description,
        feature_level=isa.name,
        threads=threads,
        read_one=measure_read_bandwidth(module, 1, repeats),
        read_all=measure_read_bandwidth(module, threads, repeats),
        int8_one=measure_int8_peak(module, isa, 1, repeats),
        int8_all=measure_int8_peak(module, isa, threads, repeats),
        region=measure_region(threads, repeats),
        places=measure_places(module, threads, repeats, places_gib << 30) if places_gib else None,
    )


def machine_table(machine: Machine) -> Table:
    title = f"{machine.cpu}, {machine.target} ({machine.feature_level})"
    table = Table("ceiling", "threads", "median", "spread", title=title)
    rows = (
        ("read from memory", 1, machine.read_one),
        ("read from memory", machine.threads, machine.read_all),
        ("int8 dot products", 1, machine.int8_one),
        ("int8 dot products", machine.threads, machine.int8_all),
        ("empty parallel region", machine.threads, machine.region),
    )
    for name, threads, measurement in rows:
        table.add_row(name, str(threads), str(measurement), measurement.spread)
    if machine.places:
        by_place = Measurement.of(machine.places, "GB/s")
        table.add_row("read, by place", str(machine.threads), str(by_place), by_place.spread)
    return table


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="default: all CPUs")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--places", type=int, default=0, metavar="GIB", help="look at so much memory; default: 0"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    machine = measure_machine(args.threads, args.repeats, args.places)
    if args.json:
        print(json.dumps(asdict(machine), indent=2))
    else:
        Console().print(machine_table(machine))


if __name__ == "__main__":
    main()
