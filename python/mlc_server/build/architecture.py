"""What each supported architecture stores: names and shapes of its parameters.

Names are MLC's fused ones. To add an architecture, add a `ParameterTable` to ARCHITECTURES
under its `model_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlc_server.build.manifest import ModelConfig


@dataclass(frozen=True)
class ParameterTable:
    """`matrices`: base name -> (out rows N, in columns K); `vectors`: full name -> length."""

    matrices: dict[str, tuple[int, int]]
    vectors: dict[str, int]

    @property
    def num_parameters(self) -> int:
        return sum(n * k for n, k in self.matrices.values()) + sum(self.vectors.values())


def llama_parameters(config: ModelConfig) -> ParameterTable:
    """Llama and Mistral: qkv_proj = [q; k; v] rows, gate_up_proj = [gate; up] rows."""
    hidden = config.hidden_size
    q_rows = config.num_q_heads * config.head_dim
    kv_rows = config.num_kv_heads * config.head_dim
    matrices = {"model.embed_tokens": (config.vocab_size, hidden)}
    vectors = {"model.norm.weight": hidden}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        matrices[f"{prefix}.self_attn.qkv_proj"] = (q_rows + 2 * kv_rows, hidden)
        matrices[f"{prefix}.self_attn.o_proj"] = (hidden, q_rows)
        matrices[f"{prefix}.mlp.gate_up_proj"] = (2 * config.intermediate_size, hidden)
        matrices[f"{prefix}.mlp.down_proj"] = (hidden, config.intermediate_size)
        vectors[f"{prefix}.input_layernorm.weight"] = hidden
        vectors[f"{prefix}.post_attention_layernorm.weight"] = hidden
        if config.attention_bias:
            vectors[f"{prefix}.self_attn.qkv_proj.bias"] = q_rows + 2 * kv_rows
    if not config.tie_word_embeddings:
        matrices["lm_head"] = (config.vocab_size, hidden)
    return ParameterTable(matrices, vectors)


ARCHITECTURES: dict[str, Callable[[ModelConfig], ParameterTable]] = {
    "llama": llama_parameters,
    "mistral": llama_parameters,
}
