"""The default model against llama.cpp and against a float32 reference on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.forward import forward_tokens
from support.golden import GoldenCase, coarse_kl, load_golden, log_softmax
from support.reference_llama import ReferenceLlama

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

CASES = load_golden()


@pytest.fixture(scope="module")
def scored(default_runner: Any) -> list[np.ndarray]:
    """Our log-probs [scored tokens, vocab] of each case, fed llama.cpp's own tokens."""
    return [
        log_softmax(forward_tokens(default_runner, case.prompt_ids + case.ids, case.scored_rows()))
        for case in CASES
    ]


def _scored_ids(case: GoldenCase) -> list[int]:
    return case.ids[case.first_scored :]


def test_golden_rows_line_up() -> None:
    for case in CASES:
        assert [row[0][0] for row in case.top] == _scored_ids(case)


def test_top_1_agrees_at_97_percent_of_positions(scored: list[np.ndarray]) -> None:
    agree = [
        int(np.argmax(row)) == token
        for case, rows in zip(CASES, scored, strict=True)
        for row, token in zip(rows, _scored_ids(case), strict=True)
    ]
    print(f"top-1 agreement {np.mean(agree):.4f} over {len(agree)} positions")
    assert np.mean(agree) >= 0.97


def test_shared_top_8_log_probs_stay_close_to_llama_cpps(
    scored: list[np.ndarray],
) -> None:
    # The aim is 0.1; 0.108 is what int8 activations give here. Exact float32 arithmetic is 0.0995
    # away from these outputs, and llama.cpp itself, with its flash attention off, 0.108 (on the
    # first 8 prompts): the bound catches a kernel that got worse, not the noise of both engines.
    gaps = []
    for case, rows in zip(CASES, scored, strict=True):
        for row, top in zip(rows, case.top, strict=True):
            ours = set(np.argsort(row)[-len(top) :].tolist())
            gaps += [abs(row[token] - logprob) for token, logprob in top if token in ours]
    print(f"mean absolute log-prob difference {np.mean(gaps):.4f} over {len(gaps)} pairs")
    assert np.mean(gaps) < 0.115


def test_divergence_from_float32_is_no_worse_than_llama_cpp(
    scored: list[np.ndarray], default_manifest: Any
) -> None:
    reference = ReferenceLlama.from_manifest(default_manifest)
    ours, theirs = [], []
    for case, rows in zip(CASES, scored, strict=True):
        logits = reference.forward(case.prompt_ids + case.ids)
        exact = log_softmax(logits[case.scored_rows()])
        for row, top, want in zip(rows, case.top, exact, strict=True):
            ids = [token for token, _ in top]
            ours.append(coarse_kl(want, row[ids], ids))
            theirs.append(coarse_kl(want, np.array([logprob for _, logprob in top]), ids))
    print(f"mean KL from float32: ours {np.mean(ours):.5f}, llama.cpp {np.mean(theirs):.5f}")
    assert np.mean(ours) <= 1.2 * np.mean(theirs)


def test_chunking_does_not_change_a_bit(default_runner: Any) -> None:
    case = CASES[9]
    tokens = case.prompt_ids + case.ids
    rows = case.scored_rows()
    whole = forward_tokens(default_runner, tokens, rows)
    for chunk in (1, 5, 16, 33):
        assert np.array_equal(whole, forward_tokens(default_runner, tokens, rows, chunk=chunk))
