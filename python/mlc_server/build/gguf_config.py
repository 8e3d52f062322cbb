"""GGUF metadata of a Llama to the fields of mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlc_server.build.fields import Fields
from mlc_server.build.gguf_file import GgufFile
from mlc_server.build.manifest import ModelConfig

ARCHITECTURES = ("llama",)


def read_gguf_config(gguf: GgufFile) -> ModelConfig:
    """The network's shapes and constants; raises FormatError naming the metadata key."""
    fields = Fields(gguf.metadata, gguf.path.name)
    architecture = fields.text("general.architecture")
    if architecture not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise fields.error("general.architecture", f"is not supported ({supported})", architecture)
    if fields.integer("llama.expert_count", 0, 1 << 16, default=0) > 0:
        raise fields.error("llama.expert_count", "must be 0: mixtures are not supported", "experts")
    hidden = fields.integer("llama.embedding_length", 1, 1 << 18)
    q_heads = fields.integer("llama.attention.head_count", 1, 4096)
    kv_heads = fields.integer("llama.attention.head_count_kv", 1, 4096, default=q_heads)
    if q_heads % kv_heads:
        raise fields.error("llama.attention.head_count_kv", f"must divide {q_heads}", kv_heads)
    head_dim = _head_dim(fields, hidden, q_heads)
    return ModelConfig(
        model_type="llama",
        hidden_size=hidden,
        intermediate_size=fields.integer("llama.feed_forward_length", 1, 1 << 20),
        num_layers=fields.integer("llama.block_count", 1, 1024),
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_vocab_size(fields, gguf),
        rms_norm_eps=_short_float(fields.real("llama.attention.layer_norm_rms_epsilon", 0, 1)),
        rope_theta=_short_float(fields.real("llama.rope.freq_base", 1, 1e12, default=10000.0)),
        rope_scaling=_rope_scaling(fields, gguf, head_dim),
        tie_word_embeddings="output.weight" not in gguf.tensors,
        context_window_size=fields.integer("llama.context_length", 1, 1 << 24),
        attention_bias="blk.0.attn_q.bias" in gguf.tensors,
    )


def _head_dim(fields: Fields, hidden: int, q_heads: int) -> int:
    if not fields.has("llama.attention.key_length") and hidden % q_heads:
        raise fields.error("llama.embedding_length", f"must be a multiple of {q_heads}", hidden)
    head_dim = fields.integer("llama.attention.key_length", 2, 1024, default=hidden // q_heads)
    if head_dim % 2:
        raise fields.error("llama.attention.key_length", "must be even", head_dim)
    for name in ("llama.attention.value_length", "llama.rope.dimension_count"):
        value = fields.integer(name, 1, 1024, default=head_dim)
        if value != head_dim:
            raise fields.error(name, f"must be the head size {head_dim}", value)
    return head_dim


def _vocab_size(fields: Fields, gguf: GgufFile) -> int:
    """Rows of the embedding, which is what the network has whatever the metadata says."""
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise fields.error("token_embd.weight", "is missing", f"{len(gguf.tensors)} tensors")
    return len(embedding.blocks)


def _rope_scaling(fields: Fields, gguf: GgufFile, head_dim: int) -> Mapping[str, Any] | None:
    factors = gguf.tensors.get("rope_freqs.weight")
    if factors is not None:
        if factors.kind.name != "F32" or factors.shape != (head_dim // 2,):
            seen = f"{factors.kind.name} {list(factors.shape)}"
            raise fields.error("rope_freqs.weight", f"must be F32 [{head_dim // 2}]", seen)
        values = factors.blocks.view(np.float32).reshape(-1)
        return {"rope_type": "freq_factors", "factors": [_short_float(float(v)) for v in values]}
    legacy = fields.real("llama.rope.scale_linear", 0, 1e6, default=1.0)
    kind = fields.text("llama.rope.scaling.type", "linear" if legacy != 1.0 else "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise fields.error("llama.rope.scaling.type", "is not supported (none, linear)", kind)
    factor = fields.real("llama.rope.scaling.factor", 0, 1e6, default=legacy)
    return {"rope_type": "linear", "factor": factor} if factor not in {0.0, 1.0} else None


def _short_float(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))
