"""The default model's import against llama.cpp's outputs on the same file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf.quants import dequantize
from tokenizers import Tokenizer

from mlc_server.build.gguf_file import GgufFile, read_gguf
from mlc_server.build.manifest import Manifest, load_manifest
from mlc_server.build.sources import DEFAULT_MODEL, prepare_model, resolve_source
from mlc_server.cli.common import default_cache_dir
from mlc_server.text.prompt import PromptBuilder
from mlc_server.text.vocabulary import token_bytes
from support.golden import GoldenCase, load_golden
from support.reference_llama import ReferenceLlama, load_dequantized, log_softmax

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

CASES = load_golden()


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load_manifest(prepare_model(DEFAULT_MODEL, default_cache_dir()))


@pytest.fixture(scope="module")
def gguf() -> GgufFile:
    return read_gguf(resolve_source(DEFAULT_MODEL, default_cache_dir()).path)


def test_shapes_and_schemes(manifest: Manifest) -> None:
    model = manifest.model
    assert (model.hidden_size, model.num_layers, model.vocab_size) == (576, 30, 49152)
    assert (model.num_q_heads, model.num_kv_heads, model.head_dim) == (9, 3, 64)
    assert model.rope_theta == 100000.0
    assert model.rms_norm_eps == 1e-05
    assert model.context_window_size == 8192
    assert manifest.schemes["model.embed_tokens"] == "q8"
    assert list(manifest.schemes.values()).count("q4_min") == 120
    assert manifest.stop_token_ids == (0, 2)


def test_weights_are_those_of_the_file(manifest: Manifest, gguf: GgufFile) -> None:
    loaded = load_dequantized(manifest)
    down = gguf.tensors["blk.7.ffn_down.weight"]
    assert np.array_equal(
        loaded["model.layers.7.mlp.down_proj"], dequantize(down.blocks, down.kind)
    )
    embedding = gguf.tensors["token_embd.weight"]
    assert np.array_equal(
        loaded["model.embed_tokens"], dequantize(embedding.blocks, embedding.kind)
    )


def test_prompts_encode_to_llama_cpps_ids(manifest: Manifest) -> None:
    tokenizer = Tokenizer.from_file(str(manifest.folder / "tokenizer.json"))
    prompts = PromptBuilder.from_folder(manifest.folder, manifest.chat_config)
    for case in CASES:
        assert tokenizer.encode(case.rendered, add_special_tokens=False).ids == case.prompt_ids
        assert prompts.build([{"role": "user", "content": case.prompt}]) == case.prompt_ids


def test_token_bytes_join_to_llama_cpps_text(manifest: Manifest) -> None:
    texts, special = token_bytes(manifest.folder / "tokenizer.json", manifest.model.vocab_size)
    for case in CASES:
        kept = [texts[token_id] for token_id in case.ids if not special[token_id]]
        # Text cut inside a character comes without its part of it.
        assert b"".join(kept).decode(errors="ignore").startswith(case.text.rstrip("\ufffd"))
    config = json.loads(Path(manifest.folder / "mlc-chat-config.json").read_text())
    assert config["active_vocab_size"] == 49152


def _agreement(reference: ReferenceLlama, cases: list[GoldenCase]) -> tuple[float, float]:
    """(share of equal top-1, mean absolute difference of llama.cpp's top-8 log-probs)."""
    equal, gaps = [], []
    for case in cases:
        scores = log_softmax(reference.forward(case.prompt_ids + case.ids))
        for row, top in zip(case.scored_rows(), case.top, strict=True):
            equal.append(int(np.argmax(scores[row])) == top[0][0])
            gaps += [abs(scores[row][token] - logprob) for token, logprob in top]
    return float(np.mean(equal)), float(np.mean(gaps))


def test_reference_agrees_with_llama_cpp(manifest: Manifest) -> None:
    """Within the noise of llama.cpp's int8 activations, about a tenth of a nat."""
    share, gap = _agreement(ReferenceLlama.from_manifest(manifest), CASES[:3])
    assert share >= 0.94
    assert gap <= 0.13


@pytest.mark.slow
def test_reference_agrees_with_llama_cpp_on_all_prompts(manifest: Manifest) -> None:
    share, gap = _agreement(ReferenceLlama.from_manifest(manifest), CASES)
    assert share >= 0.96
    assert gap <= 0.11
