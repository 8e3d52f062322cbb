"""Packing and quantisation: round trips, error bounds, and agreement with ggml's own formulas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlc_server.build.manifest import scheme_parts
from mlc_server.build.quantize.ggml import (
    LOSSLESS,
    NEAREST,
    common_scheme,
    convert_blocks,
    is_lossless,
    to_float,
)
from mlc_server.build.quantize.packing import pack_nibbles, unpack_nibbles
from mlc_server.build.quantize.schemes import dequantize_matrix, quantize_matrix
from mlc_server.build.tensor_files import to_bf16_bits

Floats = npt.NDArray[np.float32]

nibbles = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 6).map(lambda words: 8 * words)),
    elements=st.integers(0, 15),
)
# Magnitudes that float16 scales can hold with full precision.
numbers = st.floats(-1000.0, 1000.0, width=32).filter(lambda x: x == 0 or abs(x) > 1e-2)
matrices = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 100)), elements=numbers
)


@given(nibbles)
def test_unpacking_undoes_packing(values: npt.NDArray[np.uint8]) -> None:
    words = pack_nibbles(values)
    assert words.dtype == np.uint32
    assert np.array_equal(unpack_nibbles(words), values)


@given(nibbles)
def test_element_k_is_bits_4k_of_word_k_over_8(values: npt.NDArray[np.uint8]) -> None:
    words = pack_nibbles(values)
    rows, columns = values.shape
    for k in range(columns):
        assert np.array_equal((words[:, k // 8] >> np.uint32(4 * (k % 8))) & 15, values[:, k])
    assert words.shape == (rows, columns // 8)


def _groups(matrix: Floats) -> list[npt.NDArray[np.float64]]:
    """Columns 0..31, 32..63, ... as float64."""
    wide = matrix.astype(np.float64)
    return [wide[:, first : first + 32] for first in range(0, matrix.shape[1], 32)]


@given(matrices, st.sampled_from(["q4_z7", "q4_z8", "q4_min", "q8"]))
def test_error_is_at_most_half_a_step(matrix: Floats, scheme: str) -> None:
    """A step is the group's range over its codes; float16 scales add a thousandth of the range.

    Q4_0 has no code for +8, so the value opposite its largest may be a whole step off.
    """
    parts = quantize_matrix(matrix, scheme)
    for suffix, shape in scheme_parts(scheme, *matrix.shape).items():
        assert parts[suffix].shape == shape
    restored = dequantize_matrix(parts, scheme, matrix.shape[1])
    assert restored.shape == matrix.shape
    for want, got in zip(_groups(matrix), _groups(restored), strict=True):
        peak = np.abs(want).max(axis=1)
        span = want.max(axis=1) - want.min(axis=1)
        bound = {
            "q4_z7": peak / 7 / 2 + peak * 2e-3,
            "q4_z8": peak / 8 + peak * 2e-3,
            "q4_min": span / 15 / 2 + (peak + span) * 2e-3,
            "q8": peak / 127 / 2 + peak * 2e-3,
        }[scheme]
        assert (np.abs(want - got).max(axis=1) <= bound + 1e-6).all(), (matrix, restored)


@given(matrices)
def test_quantising_what_mlc_wrote_gives_the_same_words(matrix: Floats) -> None:
    """(q - 7) * scale is a fixed point: a converted folder can be converted again."""
    first = quantize_matrix(matrix, "q4_z7", np.float32)
    restored = dequantize_matrix(first, "q4_z7", matrix.shape[1])
    again = quantize_matrix(restored, "q4_z7", np.float32)
    assert np.array_equal(dequantize_matrix(again, "q4_z7", matrix.shape[1]), restored) or (
        np.allclose(first["q_scale"], again["q_scale"], rtol=1e-6)
        and np.array_equal(first["q_weight"], again["q_weight"])
    )


def test_mlc_formula_by_hand() -> None:
    """scale = max|w| / 7, q = round(w / scale) + 7, padding quantises zeros."""
    weights = np.zeros((1, 40), np.float32)
    weights[0, :4] = [-7.0, 3.0, 0.4, 0.6]
    weights[0, 32] = 14.0
    parts = quantize_matrix(weights, "q4_z7")
    codes = unpack_nibbles(parts["q_weight"])[0]
    assert codes[:4].tolist() == [0, 10, 7, 8]
    assert codes[32] == 14
    assert parts["q_weight"].shape == (1, 8)
    assert parts["q_scale"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0])
def test_same_bits_as_ggml(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((40, 96), np.float32)
    weights[5] = 0
    copied = convert_blocks(quantize(weights, kind), kind, LOSSLESS[kind])
    ours = quantize_matrix(weights, LOSSLESS[kind])
    for suffix, array in ours.items():
        assert np.array_equal(array, copied[suffix]), suffix


LOSSLESS_PAIRS = [
    (Kind.Q4_0, "q4_z8"),
    (Kind.Q4_0, "q4_min"),
    (Kind.Q4_0, "q8"),
    (Kind.Q4_1, "q4_min"),
    (Kind.Q8_0, "q8"),
    (Kind.F16, "f16"),
    (Kind.F16, "f32"),
    (Kind.BF16, "f32"),
    (Kind.F32, "f32"),
]


@pytest.mark.parametrize(("kind", "scheme"), LOSSLESS_PAIRS)
def test_blocks_are_kept_without_loss(kind: Kind, scheme: str) -> None:
    """Every weight is the same float32 that ggml's own dequantisation gives."""
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((24, 64), np.float32)
    blocks = quantize(weights, kind).view(np.uint8)
    assert is_lossless(kind, scheme)
    parts = convert_blocks(blocks, kind, scheme)
    want = weights if kind is Kind.F32 else dequantize(blocks, kind)
    got = dequantize_matrix(parts, scheme, 64)
    if scheme == "q4_min" and kind is Kind.Q4_0:
        # q * s + (-8 * s) is exact in real numbers; float32 rounds the product before the sum.
        assert np.allclose(got, want, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(got, want)


@pytest.mark.parametrize(
    "kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q2_K, Kind.Q3_K, Kind.IQ4_XS]
)
def test_other_types_go_to_the_nearest_scheme(kind: Kind) -> None:
    """Super-blocks of arbitrary bits: within half a step of the scheme, per group."""
    blocks = _super_blocks(kind)
    floats = to_float(blocks, kind)
    scheme = NEAREST[kind]
    restored = dequantize_matrix(convert_blocks(blocks, kind, scheme), scheme, floats.shape[1])
    for want, got in zip(_groups(floats), _groups(restored), strict=True):
        peak = np.abs(want).max(axis=1)
        levels = 127 if scheme == "q8" else 7.5
        assert (np.abs(want - got).max(axis=1) <= peak / levels * 0.51 + peak * 4e-3).all()


def _super_blocks(kind: Kind) -> npt.NDArray[np.uint8]:
    """Random codes with sane float16 scales, [3, 2 super-blocks]."""
    _, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(5).integers(0, 256, (3, 2, size), np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    at_end = kind in {Kind.Q6_K, Kind.Q3_K}
    places = [size - 2] if at_end else [0, 2] if kind in {Kind.Q4_K, Kind.Q5_K} else [0]
    if kind is Kind.Q2_K:
        places = [size - 4, size - 2]
    for place in places:
        raw[..., place : place + 2] = scale
    return raw.reshape(3, -1)


def test_fused_parts_go_to_the_smallest_scheme_that_holds_all() -> None:
    assert common_scheme([Kind.Q4_0, Kind.Q4_0, Kind.Q4_0]) == "q4_z8"
    assert common_scheme([Kind.Q4_0, Kind.Q4_1, Kind.Q4_0]) == "q4_min"
    assert common_scheme([Kind.Q4_K, Kind.Q4_K, Kind.Q6_K]) == "q8"
    assert common_scheme([Kind.Q8_0, Kind.F16]) == "f16"
    assert common_scheme([Kind.F16, Kind.F32]) == "f32"


@given(hnp.arrays(np.uint32, 16))
def test_bf16_rounds_to_nearest_even(bits: npt.NDArray[np.uint32]) -> None:
    """Against ml-style arithmetic in float64: no bfloat16 lies nearer."""
    values = bits.view(np.float32)
    halves = to_bf16_bits(values)
    back = (halves.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(np.isnan(values), np.isnan(back))
    finite = np.isfinite(values) & (np.abs(values) < 3e38)
    step = (np.uint32(1) << 16) - 1
    distance = np.abs(
        values[finite].view(np.uint32).astype(np.int64) - back[finite].view(np.uint32)
    )
    assert (distance <= (step + 1) // 2).all()
