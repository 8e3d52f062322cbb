"""Outputs of llama.cpp on the default model: prompts, tokens, greedy text, top-8 log-probs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

GOLDEN_PATH = Path(__file__).parent.parent / "golden" / "smollm2-135m-q4_1.jsonl"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GoldenCase:
    """One prompt. `top[i]` are llama.cpp's (token id, log-prob) pairs, most likely first, for the
    token at `ids[first_scored + i]`."""

    prompt: str
    rendered: str
    prompt_ids: list[int]
    text: str
    ids: list[int]
    stop: str
    top: list[list[tuple[int, float]]]

    @property
    def first_scored(self) -> int:
        """Tokens that only begin a UTF-8 character were not scored: their row is missing."""
        return len(self.ids) - len(self.top)

    def scored_rows(self) -> list[int]:
        """Rows of a forward pass over prompt + ids whose logits predict the scored tokens."""
        start = len(self.prompt_ids) - 1 + self.first_scored
        return list(range(start, start + len(self.top)))


def load_golden() -> list[GoldenCase]:
    with GOLDEN_PATH.open(encoding="utf-8") as lines:
        return [GoldenCase(**json.loads(line)) for line in lines]


def log_softmax(logits: npt.NDArray[np.floating]) -> FloatArray:
    """Over the last axis, in double precision."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def coarse_kl(reference: FloatArray, other_top: FloatArray, ids: list[int]) -> float:
    """KL(reference || other) after lumping every token outside `ids` into one.

    `reference` [vocab] are log-probs, `other_top` [len(ids)] those of the other engine. Lumping can
    only lower a divergence, and equally so for every engine scored with the same `ids`.
    """
    p = np.exp(reference[ids])
    q = np.exp(other_top)
    p_rest = max(1.0 - p.sum(), 1e-12)
    q_rest = max(1.0 - q.sum(), 1e-12)
    return float((p * (reference[ids] - other_top)).sum() + p_rest * np.log(p_rest / q_rest))
