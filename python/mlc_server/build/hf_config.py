"""A Hugging Face config.json of a Llama-like model to ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlc_server.build.fields import Fields, read_json_object
from mlc_server.build.manifest import ModelConfig

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
# Tokenizer files, copied as they are when present.
COPIED_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
MODEL_TYPES = ("llama", "mistral")


def read_hf_config(folder: Path) -> ModelConfig:
    """Raises FormatError naming the field. Code in the folder (auto_map) is never run."""
    fields = Fields(read_json_object(folder / CONFIG), CONFIG)
    model_type = fields.text("model_type")
    if model_type not in MODEL_TYPES:
        supported = ", ".join(MODEL_TYPES)
        raise fields.error("model_type", f"is not supported ({supported})", model_type)
    if fields.has("quantization_config"):
        seen = fields.mapping("quantization_config").data.get("quant_method")
        raise fields.error(
            "quantization_config", "must be absent: give the unquantised weights", seen
        )
    activation = fields.text("hidden_act", "silu")
    if activation not in {"silu", "swish"}:
        raise fields.error("hidden_act", "is not supported (silu)", activation)
    if fields.boolean("mlp_bias", default=False):
        raise fields.error("mlp_bias", "is not supported", True)
    hidden = fields.integer("hidden_size", 1, 1 << 18)
    q_heads = fields.integer("num_attention_heads", 1, 4096)
    kv_heads = fields.integer("num_key_value_heads", 1, 4096, default=q_heads)
    if q_heads % kv_heads:
        raise fields.error("num_key_value_heads", f"must divide {q_heads} heads", kv_heads)
    if not fields.has("head_dim") and hidden % q_heads:
        raise fields.error("hidden_size", f"must be a multiple of {q_heads} heads", hidden)
    theta, scaling = _rope(fields)
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, 1 << 20),
        num_layers=fields.integer("num_hidden_layers", 1, 1024),
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        head_dim=fields.integer("head_dim", 2, 1024, default=hidden // q_heads),
        vocab_size=fields.integer("vocab_size", 1, 1 << 22),
        rms_norm_eps=fields.real("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        context_window_size=_context_window(fields),
        attention_bias=fields.boolean("attention_bias", default=False),
    )


def _rope(fields: Fields) -> tuple[float, Mapping[str, Any] | None]:
    """(theta, rope_scaling); newer files keep both in `rope_parameters`."""
    parameters = fields.mapping("rope_parameters")
    source = parameters if parameters.has("rope_theta") else fields
    theta = source.real("rope_theta", 1.0, 1e12, default=10000.0)
    scaling = dict(fields.mapping("rope_scaling").data or parameters.data)
    scaling.pop("rope_theta", None)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return theta, None if kind == "default" else scaling


def _context_window(fields: Fields) -> int:
    """Tokens; within a sliding window, attention is the same as full attention."""
    window = fields.integer("max_position_embeddings", 1, 1 << 24)
    if not fields.boolean("use_sliding_window", default=True):
        return window
    return min(window, fields.integer("sliding_window", 1, 1 << 24, default=window))
