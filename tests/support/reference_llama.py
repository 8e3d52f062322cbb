"""Llama in NumPy float32: the oracle for kernels, converters and whole runs.

Plain formulas, no cache, no batching: RMSNorm (Zhang & Sennrich, 2019), half-split RoPE
(Su et al., 2021), grouped-query attention (Ainslie et al., 2023), SwiGLU (Shazeer, 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mlc_server.build.manifest import Manifest, ModelConfig, scheme_parts
from mlc_server.build.quantize.schemes import dequantize_matrix
from mlc_server.build.tensor_files import TensorReader

Floats = npt.NDArray[np.float32]


def load_dequantized(manifest: Manifest) -> dict[str, Floats]:
    """Every parameter as float32: matrices by base name ([N, K]), vectors by full name."""
    reader = TensorReader(manifest.folder, manifest.tensors)
    weights: dict[str, Floats] = {}
    for base, (rows, columns) in manifest.model.parameters.matrices.items():
        scheme = manifest.schemes[base]
        suffixes = scheme_parts(scheme, rows, columns)
        parts = {suffix: reader.read(f"{base}.{suffix}") for suffix in suffixes}
        weights[base] = dequantize_matrix(parts, scheme, columns)
    for name in manifest.model.parameters.vectors:
        weights[name] = reader.read(name).astype(np.float32)
    return weights


class ReferenceLlama:
    """`forward` of a whole sequence at once; weights as load_dequantized gives them."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Floats]) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> ReferenceLlama:
        return cls(manifest.model, load_dequantized(manifest))

    def forward(self, token_ids: Sequence[int]) -> Floats:
        """Logits f32 [T, vocab_size] after each of the T tokens."""
        weights = self.weights
        x = weights["model.embed_tokens"][np.asarray(token_ids)]
        for layer in range(self.config.num_layers):
            prefix = f"model.layers.{layer}"
            normed = self.rms_norm(x, weights[f"{prefix}.input_layernorm.weight"])
            x = x + self.attention(normed, f"{prefix}.self_attn")
            normed = self.rms_norm(x, weights[f"{prefix}.post_attention_layernorm.weight"])
            x = x + self.mlp(normed, f"{prefix}.mlp")
        x = self.rms_norm(x, weights["model.norm.weight"])
        head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        return x @ weights[head].T

    def generate(self, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
        """Greedy continuation; ties go to the smallest id."""
        ids = list(prompt_ids)
        for _ in range(max_tokens):
            ids.append(int(np.argmax(self.forward(ids)[-1])))
        return ids[len(prompt_ids) :]

    def rms_norm(self, x: Floats, weight: Floats) -> Floats:
        variance = np.mean(np.square(x), axis=-1, keepdims=True)
        return x / np.sqrt(variance + np.float32(self.config.rms_norm_eps)) * weight

    def rope(self, x: Floats) -> Floats:
        """Rotates [T, heads, head_dim] by position 0..T-1; half-split pairs (d, d + D/2)."""
        steps = np.asarray(self.config.rope_inverse_frequencies)
        angles = np.arange(len(x))[:, None, None] * steps
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def attention(self, x: Floats, prefix: str) -> Floats:
        config = self.config
        qkv = x @ self.weights[f"{prefix}.qkv_proj"].T
        if config.attention_bias:
            qkv = qkv + self.weights[f"{prefix}.qkv_proj.bias"]
        heads = qkv.reshape(len(x), -1, config.head_dim)
        first_k, first_v = config.num_q_heads, config.num_q_heads + config.num_kv_heads
        q = self.rope(heads[:, :first_k])
        repeats = config.num_q_heads // config.num_kv_heads
        k = np.repeat(self.rope(heads[:, first_k:first_v]), repeats, axis=1)
        v = np.repeat(heads[:, first_v:], repeats, axis=1)
        scores = np.einsum("thd,shd->hts", q, k) / np.float32(config.head_dim**0.5)
        scores = np.where(np.tri(len(x), dtype=bool), scores, np.float32(-np.inf))
        mixed = np.einsum("hts,shd->thd", softmax(scores), v)
        return mixed.reshape(len(x), -1) @ self.weights[f"{prefix}.o_proj"].T

    def mlp(self, x: Floats, prefix: str) -> Floats:
        gate, up = np.split(x @ self.weights[f"{prefix}.gate_up_proj"].T, 2, axis=-1)
        return (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"{prefix}.down_proj"].T


def softmax(x: Floats) -> Floats:
    exponents = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exponents / np.sum(exponents, axis=-1, keepdims=True)


def log_softmax(x: Floats) -> Floats:
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
