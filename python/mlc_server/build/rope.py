"""Rotary position embedding: the inverse frequencies of a model.

RoPE is half-split: component d of a head pairs with d + head_dim / 2
(Su et al., 2021, arXiv:2104.09864, in the order Hugging Face stores heads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlc_server.build.fields import Fields


def inverse_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None
) -> tuple[float, ...]:
    """head_dim / 2 angular steps per position, in radians, highest first.

    `scaling` is Hugging Face's `rope_scaling`: types `default`, `linear`, `llama3`, and
    `freq_factors`, whose `factors` divide the frequencies one by one (GGUF's
    rope_freqs.weight). Raises FormatError for any other type.
    """
    plain = [theta ** (-2.0 * i / head_dim) for i in range(head_dim // 2)]
    if scaling is None:
        return tuple(plain)
    fields = Fields(scaling, "mlc-chat-config.json", "rope_scaling.")
    kind = fields.text("rope_type", fields.text("type", "default"))
    if kind == "default":
        return tuple(plain)
    if kind == "linear":
        factor = fields.real("factor", 1.0, 1e6)
        return tuple(f / factor for f in plain)
    if kind == "freq_factors":
        factors = fields.sequence("factors")
        numbers = all(isinstance(f, int | float) and 0 < f < math.inf for f in factors)
        if len(factors) != len(plain) or not numbers:
            raise fields.error("factors", f"must be {len(plain)} positive numbers", factors)
        return tuple(f / d for f, d in zip(plain, factors, strict=True))
    if kind == "llama3":
        return tuple(_llama3(plain, fields))
    raise fields.error("rope_type", "is not supported (default, linear, llama3)", kind)


def _llama3(plain: list[float], fields: Fields) -> list[float]:
    """Llama 3.1's scaling: long waves slowed by `factor`, short kept, smooth between."""
    factor = fields.real("factor", 1.0, 1e6)
    low = fields.real("low_freq_factor", 1e-6, 1e6)
    high = fields.real("high_freq_factor", 1e-6, 1e6)
    original = fields.integer("original_max_position_embeddings", 1, 1 << 24)
    if high <= low:
        raise fields.error("high_freq_factor", f"must be above low_freq_factor {low}", high)
    scaled = []
    for frequency in plain:
        wavelength = 2.0 * math.pi / frequency
        if wavelength < original / high:
            scaled.append(frequency)
        elif wavelength > original / low:
            scaled.append(frequency / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            scaled.append((1.0 - smooth) * frequency / factor + smooth * frequency)
    return scaled
