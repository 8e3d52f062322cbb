"""Vector instruction sets: what the hand-scheduled kernels need to know about a target.

Contents:
    LEVELS          names of the levels, best first.
    VectorIsa       lanes, register budget and the byte dot product of one level.
    select_isa      the best level a target can run, or one asked for by name.
    restrict_target a target of the same architecture that can only run up to a level.

Every level computes the same numbers: integer dot products are exact, and floating-point work is
written lane by lane with explicit fma (`vector_ops`). Kernels that do not use `dot4` may use
vectors wider than `VectorIsa.lanes`; LLVM splits them without changing a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.target import Target, codegen

from mlc_server.build.kernels.cpu.vector_ops import let, splat
from mlc_server.errors import CompileError

Expr = Any  # a TIR expression (tvm ships no types)
Operands = tuple[Expr, ...]

LEVELS = ("avx512vnni", "avxvnni", "avx2", "neon", "portable")

_REQUIRED_FEATURES: dict[str, tuple[str, ...]] = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma", "f16c"),
    "avxvnni": ("avx2", "avxvnni", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
    "neon": ("neon", "dotprod"),
    "portable": (),
}


@dataclass(frozen=True)
class VectorIsa:
    """One level: sizes, and the operations whose instructions differ between levels.

    `lanes` is the number of 32-bit lanes of one register, `registers` how many registers there
    are; `row_vectors` x `max_tokens` is the register block of the matrix kernels (vectors of
    outputs x rows of activations; `vectors_for`), `row_vectors` x `expanded_tokens` that over
    unpacked weights. Tasks of fewer than `min_expanded_rows` rows unpack weights for each block:
    measured to be faster below. A dot product works on 4 bytes per 32-bit lane.
    """

    name: str
    lanes: int
    registers: int
    row_vectors: int
    max_tokens: int
    expanded_tokens: int
    min_expanded_rows: int
    dot4_emitter: Callable[[VectorIsa, Expr, Operands, Expr], Expr]

    @property
    def f32(self) -> str:
        """TIR type of one register of f32."""
        return f"float32x{self.lanes}"

    @property
    def i32(self) -> str:
        """TIR type of one register of i32."""
        return f"int32x{self.lanes}"

    def vectors_for(self, tokens: int, bits: int) -> int:
        """Vectors of outputs of a register block for `tokens` rows of weights of `bits` bits.

        One row reads a whole panel of 32 outputs at once where accumulators (integer and float)
        leave registers for the operands, so that memory is one linear stream.
        """
        whole_panel = 32 // self.lanes
        if tokens == 1 and 2 * whole_panel + 4 <= self.registers:
            return whole_panel
        return self.row_vectors

    def vectors_together(self, tokens: int, vectors: int) -> int:
        """Vectors of outputs whose dot products of a group are made and rescaled together.

        Where a quad is a lane of a register, halves of a panel read it again at no cost, and
        LLVM keeps half the integer sums in registers. Elsewhere it would be broadcast twice.
        """
        return vectors // 2 if self.dots_take_lanes and tokens == 1 else vectors

    @property
    def has_f16(self) -> bool:
        """Whether the target converts vectors between f16 and f32 in hardware."""
        return self.name != "portable"

    @property
    def widens_ahead(self) -> bool:
        """Whether f16 that several register blocks read is widened once, into memory.

        On Zen 1 vcvtph2ps and fma take turns: two of it in a loop of 12 fma take a quarter of the
        time. Wider vectors meet more factors each.
        """
        return self.name == "avx2"

    def loops_over_quads(self, bits: int) -> bool:
        """Whether the dot products of a group are a loop over its quads of columns.

        Of straight code LLVM finishes one row's sums before the next one's, while the weights of
        the whole group wait in memory where registers are few; and it asks for all the memory of
        a group at once, more than a core can have on its way.
        """
        return self.name == "avx2" and bits <= 8

    @property
    def dots_take_lanes(self) -> bool:
        """Whether a dot product takes its quad from a lane of a register, without a broadcast."""
        return self.name == "neon"

    def dot_begin(self, start: Expr, bits: int) -> Expr:
        """A sum whose value is `start` (i32 x lanes), to pass through `dot4`; bits is 4 or 8."""
        return splat(0, 2 * self.lanes, "int16") if self._sums_nibbles(bits) else start

    def dot_operands(self, weights: Expr, bits: int) -> Operands:
        """What `dot4` takes of weights u8 x (4 * lanes), values below 2**bits."""
        if self.dot_bias(bits):
            weights = let(weights ^ splat(0x80, 4 * self.lanes, "uint8"))
        if self.name == "avx2" and bits == 8:
            signed = let(tirx.reinterpret(f"int8x{4 * self.lanes}", weights))
            overflows = tirx.const(0, "bool")  # -128 stays, which is 128 unsigned
            return signed, let(_intrinsic("int8x32", "llvm.abs", signed, overflows))
        return (weights,)

    def dot4(self, total: Expr, operands: Operands, quad: Expr) -> Expr:
        """Adds `sum_{i<4} (weights[4l+i] - dot_bias(bits)) * quad[i]` to lane l, exactly.

        operands: `dot_operands` of the weights; quad: scalar int32 holding 4 signed bytes, lowest
        byte first, each in [-127, 127]. At most 8 calls (a group of 32) between `dot_begin` and
        `dot_end`.
        """
        return let(self.dot4_emitter(self, total, operands, quad))

    def dot_end(self, total: Expr, start: Expr, bits: int) -> Expr:
        """The sum, i32 x lanes; `start` as given to `dot_begin`."""
        if not self._sums_nibbles(bits):
            return total
        return start + _add_pairs(self, total)

    def _sums_nibbles(self, bits: int) -> bool:
        """Whether a dot product is kept in sums of 16 bits: 8 * 2 * 15 * 127 = 30480 fits."""
        return self.name == "avx2" and bits == 4

    def dot_bias(self, bits: int) -> int:
        """What `dot4` subtracts from each byte of weights.

        sdot has no unsigned operand, and vpmaddubsw would saturate: 2 * 255 * 127 > 2**15.
        """
        return 128 if self.name in {"neon", "avx2"} and bits == 8 else 0


def _intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def _broadcast_quad(quad: Expr, lanes: int) -> Expr:
    return tirx.reinterpret(f"int8x{4 * lanes}", tirx.Broadcast(quad, lanes))


def _add_pairs(isa: VectorIsa, words: Expr) -> Expr:
    """i16 x (2 * lanes) -> i32 x lanes: the sums of words 2 i and 2 i + 1."""
    ones = splat(1, 2 * isa.lanes, "int16")
    return _intrinsic(isa.i32, "llvm.x86.avx2.pmadd.wd", words, ones)


def _dot4_vnni(isa: VectorIsa, acc: Expr, operands: Operands, quad: Expr) -> Expr:
    lanes = isa.lanes
    # LLVM 22 takes the multiplicands as byte vectors; an i32 operand fails verification.
    bytes_type = f"int8x{4 * lanes}"
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    unsigned = tirx.reinterpret(bytes_type, operands[0])
    return _intrinsic(isa.i32, name, acc, unsigned, _broadcast_quad(quad, lanes))


def _dot4_avx2(isa: VectorIsa, acc: Expr, operands: Operands, quad: Expr) -> Expr:
    """Nibbles: `acc` is i16 x (2 * lanes), the sums of bytes 2 i and 2 i + 1.

    Bytes come as (signed, magnitude) and take the sign to the activations; a pair of products is
    at most 2 * 128 * 127 = 32512.
    """
    activations = _broadcast_quad(quad, isa.lanes)
    unsigned = tirx.reinterpret("int8x32", operands[-1])
    if len(operands) == 2:
        activations = _intrinsic("int8x32", "llvm.x86.avx2.psign.b", activations, operands[0])
    pairs = _intrinsic("int16x16", "llvm.x86.avx2.pmadd.ub.sw", unsigned, activations)
    return acc + (_add_pairs(isa, pairs) if len(operands) == 2 else pairs)


def _dot4_neon(isa: VectorIsa, acc: Expr, operands: Operands, quad: Expr) -> Expr:
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    signed = tirx.reinterpret("int8x16", operands[0])
    return _intrinsic(isa.i32, name, acc, signed, _broadcast_quad(quad, isa.lanes))


def _dot4_portable(isa: VectorIsa, acc: Expr, operands: Operands, quad: Expr) -> Expr:
    lanes = isa.lanes

    def constant(value: int) -> Expr:
        return splat(value, lanes, "int32")

    words = tirx.reinterpret(isa.i32, operands[0])
    for i in range(4):
        weight = (words >> constant(8 * i)) & constant(0xFF)
        activation = (quad << tirx.const(24 - 8 * i, "int32")) >> tirx.const(24, "int32")
        acc = acc + weight * tirx.Broadcast(activation, lanes)
    return acc


_ISAS: dict[str, VectorIsa] = {
    "avx512vnni": VectorIsa("avx512vnni", 16, 32, 2, 5, 6, 8, _dot4_vnni),
    "avxvnni": VectorIsa("avxvnni", 8, 16, 2, 3, 3, 8, _dot4_vnni),
    "avx2": VectorIsa("avx2", 8, 16, 2, 4, 3, 24, _dot4_avx2),
    "neon": VectorIsa("neon", 4, 32, 2, 5, 5, 8, _dot4_neon),
    "portable": VectorIsa("portable", 4, 16, 4, 1, 1, 8, _dot4_portable),
}


def select_isa(target: Target, level: str | None = None) -> VectorIsa:
    """The best level `target` can run, or `level` when given.

    Raises CompileError when `level` is not a level or needs features the target lacks.
    """
    if level is None:
        level = next(name for name in LEVELS if not _missing_features(target, name))
    if level not in _ISAS:
        raise CompileError(
            "unknown instruction set level", seen=level, hint=f"one of {', '.join(LEVELS)}"
        )
    missing = _missing_features(target, level)
    if missing:
        raise CompileError(
            f"the target cannot run the instruction set level {level}",
            seen=f"{target} lacks {', '.join(missing)}",
            hint="leave the level out, or name a target that has these features",
        )
    return _ISAS[level]


def restrict_target(target: Target, level: str) -> Target:
    """`target` without the features above `level`, so that `select_isa` gives at most `level`."""
    removed: dict[str, tuple[str, ...]] = {
        "avx512vnni": (),
        "avxvnni": ("avx512f",),
        "avx2": ("avx512f", "avxvnni"),
        "neon": (),
        "portable": ("dotprod",) if _is_arm(target) else ("avx512f", "avxvnni", "avx2"),
    }
    config = dict(target.export())
    attributes = [str(item) for item in config.get("mattr", [])]
    config["mattr"] = attributes + [f"-{feature}" for feature in removed[level]]
    return Target(config)


def _is_arm(target: Target) -> bool:
    return "aarch64" in str(target.attrs.get("mtriple", codegen.llvm_get_system_triple()))


def _missing_features(target: Target, level: str) -> list[str]:
    return [
        feature
        for feature in _REQUIRED_FEATURES[level]
        if not codegen.target_has_features(feature, target)
    ]
