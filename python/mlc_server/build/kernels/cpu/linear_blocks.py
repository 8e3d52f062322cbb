"""Register blocks: the inner loops of the linear kernels.

Contents:
    RegisterBlock     what a block computes.
    QuantizedBlock    integer dot products per group of 32 columns, then one rescale.
    FloatBlock        f32 fma over columns, for f16 and f32 weights.

A block holds `vectors_for(tokens)` vectors of outputs x `tokens` rows of f32 accumulators in
registers; on avx2 they may wait on the stack while a group's 16-bit sums are made.
Weights are loaded (and nibbles split) once for all its tokens; activations are broadcast from
memory, four int8 or one f32 at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import Variable, scratch
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import GROUP, f16_to_f32, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any


# Bytes between a block's load and its prefetch, at most: enough to cover DRAM latency. A panel's
# second pass (more rows than one register block) prefetches the next panel, if it is no longer.
PREFETCH_DISTANCE = 16384
CACHE_LINE = 64


class RegisterBlock(ABC):
    """Computes some consecutive outputs of one panel for a few rows of activations."""

    def __init__(
        self,
        matrix: PackedMatrix,
        isa: VectorIsa,
        activations: list[Buffer],
        arena: Buffer,
        offset: Expr,
    ) -> None:
        self._matrix = matrix
        self._isa = isa
        self._activations = activations
        self._arena = arena
        self._offset = offset
        self._first: Expr = None
        self._row: Expr = None

    def vectors_for(self, tokens: int) -> int:
        """Vectors of outputs that a block of `tokens` rows computes."""
        return self._isa.vectors_for(tokens, self._matrix.bits)

    def emit(self, panel: Expr, first: Expr, row: Expr, tokens: int) -> list[list[Expr]]:
        """Emits the loop over K; returns acc[token][vector], each f32 x lanes.

        panel, first: outputs `first`.. of that panel, `vectors_for(tokens)` vectors of them;
        row: first row of the activations. All i32.
        """
        lanes, vectors = self._isa.lanes, self.vectors_for(tokens)
        self._first, self._row = first, row
        base = let(self._offset + tirx.Cast("int64", panel) * self._matrix.panel_bytes)
        zeros = [[splat(0.0, lanes)] * vectors for _ in range(tokens)]
        return self._accumulate(zeros, base, self._matrix.steps)

    def _accumulate(self, initial: list[list[Expr]], base: Expr, steps: Expr) -> list[list[Expr]]:
        """Loops over `steps` blocks from byte `base` of the arena, from acc = `initial`."""
        lanes, vectors = self._isa.lanes, len(initial[0])
        # Indexed by constants only, so LLVM keeps it in registers.
        acc = scratch((len(initial) * vectors * lanes,))
        slots = [
            [tirx.Ramp((t * vectors + v) * lanes, 1, lanes) for v in range(vectors)]
            for t in range(len(initial))
        ]
        flat = [slot for row_slots in slots for slot in row_slots]
        for slot, value in zip(flat, [v for r in initial for v in r], strict=True):
            builder.buffer_store(acc, value, [slot])
        with builder.serial(0, steps) as step:
            block = let(base + step * self._matrix.block_bytes)
            self._prefetch(block, step, vectors * lanes)
            values = self._emit_step(block, step, [[acc[s] for s in r] for r in slots])
            for slot, value in zip(flat, [v for r in values for v in r], strict=True):
                builder.buffer_store(acc, value, [slot])
        return [[let(acc[slot]) for slot in row_slots] for row_slots in slots]

    @abstractmethod
    def _emit_step(self, block: Expr, step: Expr, acc: list[list[Expr]]) -> list[list[Expr]]:
        """One iteration over K; `block` is its first byte in the arena. Returns the new acc."""

    def _prefetch(self, block: Expr, step: Expr, outputs: int) -> None:
        """Asks for what the block of `step` needs of memory, some steps before it."""
        del step
        self._prefetch_ahead(block, outputs * self._matrix.block_bytes // PANEL_ROWS)

    def _prefetch_ahead(self, block: Expr, nbytes: int, part: Expr = 0) -> None:
        """Part `part` of the same, of `nbytes`: a fixed distance ahead, these outputs' share.

        An address past the arena is no error.
        """
        distance = min(PREFETCH_DISTANCE, self._matrix.panel_bytes)
        row_bytes = self._matrix.block_bytes // PANEL_ROWS
        start = let(block + self._first * row_bytes + (part * nbytes + distance))
        for line in range(0, nbytes, CACHE_LINE):
            self._ask_for(start + line)

    def _ask_for(self, place: Expr) -> None:
        """Prefetches the cache line of byte `place` of the arena, or beyond it."""
        read, keep, data = (tirx.const(value, "int32") for value in (0, 3, 1))
        address = tirx.address_of(self._arena[place])
        request = tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, keep, data)
        builder.evaluate(request)

    def _load_bytes(self, index: Expr, nbytes: int) -> Expr:
        return let(self._arena[tirx.Ramp(index, 1, nbytes)])

    def _load_floats(self, index: Expr, dtype: str) -> Expr:
        """`lanes` f16 or f32 values of the arena as f32."""
        lanes = self._isa.lanes
        if dtype == "float32":
            raw = self._arena[tirx.Ramp(index, 1, 4 * lanes)]
            return let(tirx.reinterpret(self._isa.f32, raw))
        raw = self._arena[tirx.Ramp(index, 1, 2 * lanes)]
        halves = let(tirx.reinterpret(f"float16x{lanes}", raw))
        return f16_to_f32(halves, lanes, native=self._isa.has_f16)


class QuantizedBlock(RegisterBlock):
    def _prefetch(self, block: Expr, step: Expr, outputs: int) -> None:
        if not self._isa.loops_over_quads(self._matrix.bits):
            super()._prefetch(block, step, outputs)

    def _prefetch_pass(self, block: Expr, passed: Expr, outputs: int) -> None:
        """Its share for one pass of a loop over quads: evenly, so that requests do not queue."""
        row_bytes = self._matrix.block_bytes // PANEL_ROWS
        self._prefetch_ahead(block, -(-outputs * row_bytes // self._passes), passed)

    def _emit_step(self, block: Expr, step: Expr, acc: list[list[Expr]]) -> list[list[Expr]]:
        together = self._isa.vectors_together(len(acc), len(acc[0]))
        result: list[list[Expr]] = [[] for _ in acc]
        first = self._first
        for begin in range(0, len(acc[0]), together):
            self._first = first + begin * self._isa.lanes
            part = [sums[begin : begin + together] for sums in acc]
            values = self._emit_group(block, step, part)
            result = [[*done, *more] for done, more in zip(result, values, strict=True)]
        self._first = first
        return result

    def _emit_group(self, block: Expr, step: Expr, acc: list[list[Expr]]) -> list[list[Expr]]:
        """The same for the vectors of outputs from `_first`, as many as `acc` has."""
        isa, bits, vectors = self._isa, self._matrix.bits, len(acc[0])
        starts = [self._dot_start(token, step) for token in range(len(acc))]
        dots = self._dots(block, step, starts, vectors)
        ends = [
            [let(isa.dot_end(value, start, bits)) for value in sums]
            for start, sums in zip(starts, dots, strict=True)
        ]
        return self._rescale(block, step, ends, acc)

    def _dots(self, block: Expr, step: Expr, starts: list[Expr], vectors: int) -> list[list[Expr]]:
        """The group's sums [token][vector], to be ended."""
        isa, bits = self._isa, self._matrix.bits
        quads = [self._quads(token, step) for token in range(len(starts))]
        dots = [[isa.dot_begin(start, bits)] * vectors for start in starts]
        if not isa.loops_over_quads(bits):
            for passed in range(self._passes):
                self._add_quads(dots, quads, self._weights(block, step, vectors, passed))
            return dots
        sums = [[Variable(value) for value in values] for values in dots]
        # Always `_passes`, but LLVM must not know: it would unroll the loop.
        passes = let(tirx.Cast("int32", tirx.min(self._arena.shape[0], self._passes)))
        with builder.serial(0, passes) as passed:
            self._prefetch_pass(block, passed, vectors * isa.lanes)
            dots = [[place.load() for place in places] for places in sums]
            self._add_quads(dots, quads, self._weights(block, step, vectors, passed))
            for places, values in zip(sums, dots, strict=True):
                for place, value in zip(places, values, strict=True):
                    place.store(value)
        return [[place.load() for place in places] for places in sums]

    def _add_quads(
        self,
        dots: list[list[Expr]],
        quads: list[Callable[[Expr], Expr]],
        weights: Iterable[tuple[Expr, list[Expr]]],
    ) -> None:
        """Adds to `dots` what `weights` of some quads of columns make."""
        isa, bits = self._isa, self._matrix.bits
        for index, vectors in weights:
            shared = [isa.dot_operands(weight, bits) for weight in vectors]
            for token, sums in enumerate(dots):
                quad = let(quads[token](index))
                for v, operand in enumerate(shared):
                    sums[v] = isa.dot4(sums[v], operand, quad)

    def _activation_group(self, step: Expr) -> Expr:
        """The group of the activations that step `step` of the loop multiplies."""
        return step

    def _quads(self, token: int, step: Expr) -> Callable[[Expr], Expr]:
        """Index -> four activations of the row's group as an int32, the same for every output."""
        xq, row = self._activations[0], self._row + token
        first = self._activation_group(step) * GROUP
        if not self._isa.dots_take_lanes:
            return lambda i: tirx.reinterpret("int32", xq[row, tirx.Ramp(first + 4 * i, 1, 4)])
        raw = [xq[row, tirx.Ramp(first + start, 1, 16)] for start in (0, 16)]
        halves = [let(tirx.reinterpret("int32x4", half)) for half in raw]
        return lambda i: tirx.Shuffle([halves[i // 4]], [i % 4])

    def _dot_start(self, token: int, step: Expr) -> Expr:
        """The zero point's share of a row's dot products, exact; the same for every output."""
        total = self._zero_point_total(token, step)
        return let(splat(0 if total is None else total, self._isa.lanes, "int32"))

    def _zero_point_total(self, token: int, step: Expr) -> Expr | None:
        """The same as a scalar; None: always 0."""
        zero_point = self._matrix.zero_point - self._isa.dot_bias(self._matrix.bits)
        if not zero_point:
            return None
        return let(
            self._activations[2][self._row + token, self._activation_group(step)] * -zero_point
        )

    @property
    def _passes(self) -> int:
        """Passes that a group's weights are taken in."""
        return 4 if self._matrix.bits == 4 else 8

    def _weights(
        self, block: Expr, step: Expr, vectors: int, passed: Expr
    ) -> Iterator[tuple[Expr, list[Expr]]]:
        """(quad of columns, weights of each vector as u8 x 4 lanes) of pass `passed`.

        Emitted as they are taken: 16 registers do not hold the weights of a whole group.
        """
        del step
        return self._packed_weights(block, vectors, passed)

    def _packed_weights(
        self, block: Expr, vectors: int, passed: Expr
    ) -> Iterator[tuple[Expr, list[Expr]]]:
        """The same of weights in the arena."""
        size = 4 * self._isa.lanes
        start = block + self._first * 4 + passed * (4 * PANEL_ROWS)
        packed = [self._load_bytes(start + v * size, size) for v in range(vectors)]
        if self._matrix.bits == 8:
            yield passed, packed
            return
        mask = splat(0x0F, size, "uint8")
        yield passed, [let(p & mask) for p in packed]
        # Shifted as 16-bit words: a byte shift costs LLVM one more constant register.
        words = [tirx.reinterpret(f"uint16x{size // 2}", p) for p in packed]
        shifted = [word >> splat(4, size // 2, "uint16") for word in words]
        yield passed + 4, [let(tirx.reinterpret(f"uint8x{size}", s) & mask) for s in shifted]

    def _rescale(
        self, block: Expr, step: Expr, dots: list[list[Expr]], acc: list[list[Expr]]
    ) -> list[list[Expr]]:
        """acc + scale * xs * dot (+ min * xss), in the order of the formula."""
        lanes = self._isa.lanes
        _, xs, _, xss = self._activations
        group = self._activation_group(step)
        result: list[list[Expr]] = [[] for _ in acc]
        for v in range(len(acc[0])):
            product, minimum = self._rescale_factors(block, step, v)
            for token, sums in enumerate(dots):
                dot = let(product(sums[v]))
                factor = tirx.Broadcast(xs[self._row + token, group], lanes)
                total = let(fma(dot, factor, acc[token][v], lanes))
                if minimum is not None:
                    factor = tirx.Broadcast(xss[self._row + token, group], lanes)
                    total = let(fma(minimum, factor, total, lanes))
                result[token].append(total)
        return result

    def _rescale_factors(
        self, block: Expr, step: Expr, vector: int
    ) -> tuple[Callable[[Expr], Expr], Expr | None]:
        """What makes f32 scale * dot of an int32 dot, and the minima if the scheme has them."""
        del step
        scale, minimum = self._scale_and_minimum(block, vector)
        return lambda dot: tirx.Cast(self._isa.f32, dot) * scale, minimum

    def _scale_and_minimum(self, block: Expr, vector: int) -> tuple[Expr, Expr | None]:
        matrix = self._matrix
        row_offset = (self._first + vector * self._isa.lanes) * matrix.scale_bytes
        start = block + (row_offset + matrix.quant_bytes)
        scale = self._load_floats(start, matrix.scale_dtype)
        if not matrix.has_minimum:
            return scale, None
        return scale, self._load_floats(start + matrix.scales_bytes, matrix.scale_dtype)


class FloatBlock(RegisterBlock):
    def _emit_step(self, block: Expr, step: Expr, acc: list[list[Expr]]) -> list[list[Expr]]:
        matrix, lanes = self._matrix, self._isa.lanes
        starts = [(self._first + v * lanes) * matrix.float_bytes for v in range(len(acc[0]))]
        weights = [self._load_floats(block + start, matrix.float_dtype) for start in starts]
        result = []
        for token, sums in enumerate(acc):
            x = let(tirx.Broadcast(self._activations[0][self._row + token, step], lanes))
            pairs = zip(weights, sums, strict=True)
            result.append([let(fma(weight, x, total, lanes)) for weight, total in pairs])
        return result
