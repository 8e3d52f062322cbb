"""Inverse frequencies against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlc_server.build.rope import inverse_frequencies
from mlc_server.errors import FormatError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_plain_is_theta_to_minus_2i_over_d() -> None:
    got = inverse_frequencies(64, 10000.0, None)
    assert np.allclose(got, 1.0 / 10000.0 ** (np.arange(0, 64, 2) / 64), rtol=1e-12)
    assert got == inverse_frequencies(64, 10000.0, {"rope_type": "default"})


def test_linear_divides_all() -> None:
    plain = inverse_frequencies(8, 100.0, None)
    scaled = inverse_frequencies(8, 100.0, {"type": "linear", "factor": 4})
    assert np.allclose(np.array(scaled) * 4, plain)


def test_llama3_keeps_short_waves_slows_long_ones_and_is_smooth() -> None:
    plain = np.array(inverse_frequencies(128, 500000.0, None))
    scaled = np.array(inverse_frequencies(128, 500000.0, LLAMA3))
    waves = 2 * math.pi / plain
    ratio = plain / scaled
    assert np.allclose(ratio[waves < 8192 / 4], 1)
    assert np.allclose(ratio[waves > 8192], 8)
    assert (np.diff(ratio) >= -1e-9).all()
    between = (waves >= 8192 / 4) & (waves <= 8192)
    assert between.any()
    assert ((ratio[between] >= 1) & (ratio[between] <= 8)).all()


def test_factors_divide_one_by_one() -> None:
    scaling = {"rope_type": "freq_factors", "factors": [1.0, 2.0, 4.0, 8]}
    plain = inverse_frequencies(8, 100.0, None)
    got = inverse_frequencies(8, 100.0, scaling)
    assert np.allclose(np.array(got) * [1, 2, 4, 8], plain)


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        ({"rope_type": "yarn"}, "rope_type"),
        ({"rope_type": 3}, "rope_type"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor"),
        ({**LLAMA3, "original_max_position_embeddings": 1.5}, "original_max"),
        ({"rope_type": "freq_factors", "factors": [1.0]}, "factors"),
        ({"rope_type": "freq_factors", "factors": [1.0, 2.0, 0.0, 1.0]}, "factors"),
        ({"rope_type": "freq_factors", "factors": [1.0, "2", 1.0, 1.0]}, "factors"),
    ],
)
def test_unusable_scalings(scaling: dict[str, object], field: str) -> None:
    with pytest.raises(FormatError, match=field):
        inverse_frequencies(8, 100.0, scaling)
