"""Vector arithmetic shared by the CPU kernels; every function returns TIR expressions.

Contents:
    let                            names a value: common subexpressions are computed once.
    splat, fma, absolute           lane-wise primitives.
    round_product_to_int32         round half to even, in one fma.
    exp, silu                      polynomial exponential and x * sigmoid(x).
    f16_to_f32                     exact widening, also where the target has no instruction for it.
    f32_to_f16                     narrowing, half to even, likewise.
    quantize_group                 32 f32 values -> int8 values, scale, sum (the W4A8/W8A8 input).

Results do not depend on the instruction set: a multiplication that feeds an addition is always an
explicit `fma`, so no compiler may decide about contraction. Vectors of 16 lanes work everywhere;
LLVM splits them on narrower targets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tvm_ffi
from tvm import tirx
from tvm.tirx.script.builder import ir as builder

Expr = Any  # a TIR expression (tvm ships no types)

GROUP = 32  # elements that share one scale along K

# Adding 1.5 * 2**23 leaves the rounded integer in the low bits of the mantissa.
ROUND_MAGIC = 12582912.0
ROUND_MAGIC_BITS = 0x4B400000
# Groups whose largest magnitude is below this are stored as zero: 127 / amax must stay finite.
_SMALLEST_AMAX = 2.0**-100


def let(value: Expr) -> Expr:
    """Computes `value` once, here; the result is an expression to use any number of times.

    A `Bind` of pure arithmetic is inlined by TVM's analyzer at every use, which takes exponential
    time in chains like the ones here. A load from a buffer is opaque to it, and LLVM turns the
    buffer into a register. The buffer has the default scope on purpose: TVM puts a small one on the
    stack, but takes one of scope "local" from the heap, which LLVM cannot remove.
    """
    dtype = tvm_ffi.dtype(str(value.ty.dtype))
    lanes = dtype.lanes
    buffer = builder.alloc_buffer((lanes,), str(dtype.with_lanes(1)))
    index = 0 if lanes == 1 else tirx.Ramp(0, 1, lanes)
    builder.buffer_store(buffer, value, [index])
    return buffer[index]


def splat(value: float | Expr, lanes: int, dtype: str = "float32") -> Expr:
    """A vector with `value` (Python number or scalar expression) in every lane."""
    scalar = tirx.const(value, dtype) if isinstance(value, int | float) else value
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def vector_type(dtype: str, lanes: int) -> str:
    """TIR type name of `lanes` values of `dtype`."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def fma(a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """`a * b + c` rounded once. `llvm.fma`, not fmuladd: the latter may round twice."""
    return tirx.call_llvm_pure_intrin(vector_type("float32", lanes), "llvm.fma", a, b, c)


def absolute(x: Expr, lanes: int) -> Expr:
    """`|x|`, f32."""
    return tirx.call_llvm_pure_intrin(vector_type("float32", lanes), "llvm.fabs", x)


def round_product_to_int32(x: Expr, factor: Expr, lanes: int) -> Expr:
    """Nearest integer to the exact product, ties to even, as i32.

    Right for |x * factor| < 2**22; garbage, never a trap, beyond and for NaN.
    """
    shifted = let(fma(x, factor, splat(ROUND_MAGIC, lanes), lanes))
    bits = tirx.reinterpret(vector_type("int32", lanes), shifted)
    return let(bits - splat(ROUND_MAGIC_BITS, lanes, "int32"))


def exp(x: Expr, lanes: int) -> Expr:
    """e**x in f32, relative error below 2**-22 (2 ulp).

    x above 88.37 gives e**88.37 (finite), x below -87.68 gives 0, NaN gives NaN. Range reduction
    x = n ln 2 + r and the degree-6 polynomial of the Cephes library's expf (S. Moshier).
    """
    low, high = splat(-88.0, lanes), splat(88.37, lanes)
    # Written so that NaN fails both comparisons and passes through.
    x = let(tirx.Select(x < low, low, x))
    x = let(tirx.Select(x > high, high, x))
    magic = splat(ROUND_MAGIC, lanes)
    shifted = let(fma(x, splat(1.44269504088896341, lanes), magic, lanes))
    n = let(shifted - magic)
    r = let(fma(n, splat(-0.693359375, lanes), x, lanes))
    r = let(fma(n, splat(2.12194440e-4, lanes), r, lanes))
    coefficients = (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        0.50000001201,
    )
    poly = splat(1.9875691500e-4, lanes)
    for coefficient in coefficients:
        poly = let(fma(poly, r, splat(coefficient, lanes), lanes))
    square = let(r * r)
    poly = let(fma(poly, square, r, lanes))
    poly = let(poly + splat(1.0, lanes))
    int_type = vector_type("int32", lanes)
    exponent = tirx.reinterpret(int_type, shifted) - splat(ROUND_MAGIC_BITS - 127, lanes, "int32")
    power = tirx.reinterpret(vector_type("float32", lanes), exponent << splat(23, lanes, "int32"))
    return let(poly * power)


def silu(x: Expr, lanes: int) -> Expr:
    """x / (1 + e**-x) in f32."""
    x = let(x)
    denominator = let(exp(splat(0.0, lanes) - x, lanes) + splat(1.0, lanes))
    return let(x / denominator)


def f16_to_f32(x: Expr, lanes: int, *, native: bool) -> Expr:
    """Widens f16 to f32, exactly. `native` says the target converts f16 vectors in hardware."""
    if native:
        return let(tirx.Cast(vector_type("float32", lanes), x))
    float_type, int_type = vector_type("float32", lanes), vector_type("int32", lanes)
    half_bits = tirx.reinterpret(vector_type("uint16", lanes), x)
    bits = let(tirx.Cast(int_type, half_bits))
    sign = let((bits & splat(0x8000, lanes, "int32")) << splat(16, lanes, "int32"))
    magnitude = let(bits & splat(0x7FFF, lanes, "int32"))
    # The f16 exponent field read as f32 is 112 too small; a product corrects subnormals too.
    shifted = tirx.reinterpret(float_type, magnitude << splat(13, lanes, "int32"))
    scaled = tirx.reinterpret(int_type, let(shifted * splat(2.0**112, lanes)))
    special = magnitude >= splat(0x7C00, lanes, "int32")
    scaled = tirx.Select(special, scaled | splat(0x7F800000, lanes, "int32"), scaled)
    return let(tirx.reinterpret(float_type, scaled | sign))


def f32_to_f16(x: Expr, lanes: int, *, native: bool) -> Expr:
    """Narrows f32 to f16, half to even. `native`: the target converts f16 vectors in hardware.

    The other way is F. Giesen's float_to_half_fast3_rtne; the magnitude 0.5 aligns subnormals.
    """
    half_type = vector_type("float16", lanes)
    if native:
        return let(tirx.Cast(half_type, x))
    int_type = vector_type("int32", lanes)

    def constant(value: int) -> Expr:
        return splat(value, lanes, "int32")

    bits = let(tirx.reinterpret(int_type, let(x)))
    sign = let((bits >> constant(16)) & constant(0x8000))
    magnitude = let(bits & constant(0x7FFFFFFF))
    is_nan = magnitude > constant(0x7F800000)
    special = tirx.Select(is_nan, constant(0x7E00), constant(0x7C00))
    aligned = tirx.reinterpret(vector_type("float32", lanes), magnitude) + splat(0.5, lanes)
    subnormal = tirx.reinterpret(int_type, aligned) - constant(0x3F000000)
    odd = (magnitude >> constant(13)) & constant(1)
    normal = (magnitude - constant((112 << 23) - 0xFFF) + odd) >> constant(13)
    small = tirx.Select(magnitude < constant(0x38800000), subnormal, normal)
    result = tirx.Select(magnitude >= constant(0x47800000), special, small) | sign
    return let(tirx.reinterpret(half_type, tirx.Cast(vector_type("uint16", lanes), result)))


class QuantizedGroup(NamedTuple):
    """One group of 32 activations: `value ~ scale * quants`.

    low, high: int8x16, quants of elements 0..15 and 16..31; scale: f32; total: i32 sum of quants;
    scaled_total: f32 scale * total.
    """

    low: Expr
    high: Expr
    scale: Expr
    total: Expr
    scaled_total: Expr


def quantize_group(low: Expr, high: Expr) -> QuantizedGroup:
    """Quantises 32 values, given as two float32x16, to int8 with one scale.

    scale = amax / 127; quant = round_half_even(x * f32(127 / amax)), in [-127, 127]. A group whose
    amax is below 2**-100 (all zero, in practice) gives scale 0 and quants 0; a NaN or infinity
    makes the scale NaN or infinity, so it stays visible in every product.
    """
    low, high = let(low), let(high)
    magnitude_low = tirx.reinterpret("int32x16", absolute(low, 16))
    magnitude_high = tirx.reinterpret("int32x16", absolute(high, 16))
    # Non-negative floats order like their bits, and NaN sorts above infinity.
    largest = let(tirx.max(magnitude_low, magnitude_high))
    reduced = tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", largest)
    amax = let(tirx.reinterpret("float32", let(reduced)))
    zero = tirx.const(0.0, "float32")
    is_zero = amax < tirx.const(_SMALLEST_AMAX, "float32")
    scale = let(tirx.Select(is_zero, zero, amax / tirx.const(127.0, "float32")))
    inverse = let(tirx.Select(is_zero, zero, tirx.const(127.0, "float32") / amax))
    factor = let(tirx.Broadcast(inverse, 16))
    quants_low = round_product_to_int32(low, factor, 16)
    quants_high = round_product_to_int32(high, factor, 16)
    sums = let(quants_low + quants_high)
    total = let(tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", sums))
    return QuantizedGroup(
        let(tirx.Cast("int8x16", quants_low)),
        let(tirx.Cast("int8x16", quants_high)),
        scale,
        total,
        let(scale * tirx.Cast("float32", total)),
    )
