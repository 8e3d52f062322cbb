"""Writes mlc-chat-config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlc_server.build.conv_templates import find_conv_template
from mlc_server.build.fields import Fields
from mlc_server.build.manifest import CHAT_CONFIG, ModelConfig

DEFAULT_PREFILL_CHUNK = 2048
DEFAULT_MAX_BATCH_SIZE = 128


@dataclass(frozen=True)
class TokenizerFacts:
    """What a model's tokenizer files say that the chat config repeats."""

    files: Sequence[str]
    byte_level: bool
    prepend_space: bool
    size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None


@dataclass(frozen=True)
class SamplingDefaults:
    """Used where a request says nothing; a model's generation_config.json may set them."""

    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def from_generation_config(cls, fields: Fields) -> SamplingDefaults:
        """Values out of the API's range are errors of the file."""
        return cls(
            temperature=fields.real("temperature", 0.0, 2.0, default=1.0),
            top_p=fields.real("top_p", 0.0, 1.0, default=1.0),
            repetition_penalty=fields.real("repetition_penalty", 0.01, 10.0, default=1.0),
        )


@dataclass(frozen=True)
class ChatConfigOptions:
    """What `gen_config` lets a user choose; None keeps the model's own value."""

    conv_template: str = "LM"
    context_window_size: int | None = None
    sliding_window_size: int | None = None
    prefill_chunk_size: int | None = None
    attention_sink_size: int | None = None
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    tensor_parallel_shards: int = 1
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)


def build_chat_config(
    model: ModelConfig,
    quantization: str,
    tokenizer: TokenizerFacts,
    options: ChatConfigOptions,
    tensor_schemes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The file's content. `tensor_schemes` is for folders that MLC's names do not describe."""
    context = options.context_window_size or model.context_window_size
    prefill = options.prefill_chunk_size or min(DEFAULT_PREFILL_CHUNK, context)
    template = find_conv_template(options.conv_template)
    template["stop_token_ids"] = list(tokenizer.eos_ids)
    windows = {
        "context_window_size": context,
        "sliding_window_size": options.sliding_window_size or -1,
        "prefill_chunk_size": prefill,
        "attention_sink_size": -1
        if options.attention_sink_size is None
        else options.attention_sink_size,
        "tensor_parallel_shards": options.tensor_parallel_shards,
    }
    config: dict[str, Any] = {
        "version": "0.1.0",
        "model_type": model.model_type,
        "quantization": quantization,
        "model_config": {
            **_network(model),
            "context_window_size": context,
            "prefill_chunk_size": prefill,
            "tensor_parallel_shards": options.tensor_parallel_shards,
            "max_batch_size": options.max_batch_size,
        },
        "vocab_size": model.vocab_size,
        **windows,
        "pipeline_parallel_stages": 1,
        "active_vocab_size": tokenizer.size,
        **vars(options.sampling),
        "tokenizer_files": list(tokenizer.files),
        "tokenizer_info": {
            "token_postproc_method": "byte_level" if tokenizer.byte_level else "byte_fallback",
            "prepend_space_in_encode": tokenizer.prepend_space,
            "strip_space_in_decode": tokenizer.prepend_space,
        },
        "conv_template": template,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(tokenizer.eos_ids),
    }
    if tensor_schemes is not None:
        config["tensor_schemes"] = dict(tensor_schemes)
    return config


def _network(model: ModelConfig) -> dict[str, Any]:
    """The fields that manifest.read_model_config reads back."""
    return {
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_attention_heads": model.num_q_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.rms_norm_eps,
        "position_embedding_base": model.rope_theta,
        "rope_scaling": None if model.rope_scaling is None else dict(model.rope_scaling),
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "attention_bias": model.attention_bias,
    }


def write_chat_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes mlc-chat-config.json into `folder`."""
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / CHAT_CONFIG).write_text(text, encoding="utf-8")
