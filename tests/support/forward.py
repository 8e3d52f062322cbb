"""Runs tokens through a ModelRunner of the core without an engine: one sequence, one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def forward_tokens(
    runner: Any, tokens: Sequence[int], rows: Sequence[int], *, chunk: int = 0
) -> npt.NDArray[np.float32]:
    """Logits [len(rows), vocab] of `rows`, teacher-forced on `tokens`, in chunks when asked.

    Uses pages 0, 1, ... of the runner; `chunk` 0 is one pass over everything.
    """
    page_size = runner.info.page_size
    count = len(tokens)
    size = chunk or count
    pages = np.arange((count + page_size - 1) // page_size, dtype=np.int32)
    parts = []
    for start in range(0, count, size):
        end = min(start + size, count)
        positions = np.arange(start, end, dtype=np.int32)
        used = pages[: (end + page_size - 1) // page_size]
        wanted = [row - start for row in rows if start <= row < end]
        logits = runner.forward(
            token_ids=np.asarray(tokens[start:end], dtype=np.int32),
            positions=positions,
            write_slots=positions,
            query_offsets=np.array([0, end - start], dtype=np.int32),
            page_offsets=np.array([0, len(used)], dtype=np.int32),
            page_table=used,
            logit_rows=np.asarray(wanted or [end - start - 1], dtype=np.int32),
        )
        if wanted:
            parts.append(logits)
    return np.concatenate(parts)
