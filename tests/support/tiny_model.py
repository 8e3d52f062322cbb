"""A random Llama of a few thousand weights, written as a model folder, with a tokenizer.

The tokenizer is a byte-level BPE: three special tokens, 256 bytes, then merges of common English
pairs. Ids from the tokenizer's size up to `vocab_size` are padding, as real models have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlc_server.build.manifest import CHAT_CONFIG, ModelConfig
from mlc_server.build.quantize.schemes import quantize_matrix
from mlc_server.build.tensor_cache import BF16_ON_DISK, RAW
from mlc_server.build.tensor_files import TensorCacheWriter

# MLC quantization name -> (scheme, scheme of embeddings, dtype of scales and vectors)
MLC_QUANTIZATIONS: dict[str, tuple[str, str, type[np.floating[Any]]]] = {
    "q4f16_1": ("q4_z7", "q4_z7", np.float16),
    "q4f32_1": ("q4_z7", "q4_z7", np.float32),
    "q4f16_2": ("q4_z7", "f16", np.float16),
    "q0f16": ("f16", "f16", np.float16),
    "q0f32": ("f32", "f32", np.float32),
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PAIRS = "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou"
_MERGES = ["Ġ t", "Ġ a", *(" ".join(pair) for pair in _PAIRS.split()), "Ġt he"]


def tiny_config(**changes: Any) -> ModelConfig:
    """Small, with every shape different from every other, so that a mix-up shows."""
    values: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_layers": 2,
        "num_q_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 32,
        "vocab_size": 320,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "context_window_size": 1024,
        "attention_bias": False,
    }
    return ModelConfig(**{**values, **changes})


def write_tiny_model(
    folder: Path,
    scheme: str = "q4_min",
    *,
    embed_scheme: str | None = None,
    scheme_overrides: Mapping[str, str] | None = None,
    seed: int = 0,
    **config_changes: Any,
) -> Path:
    """Writes the folder (created if absent) and returns it.

    `scheme` is a storage scheme (q4_z7, q4_z8, q4_min, q8, f16, f32: written as a "gguf" folder
    with tensor_schemes) or an MLC quantization name (q4f16_1, q4f32_1, q4f16_2, q0f16, q0f32:
    written as MLC does). `embed_scheme` changes that of embed_tokens and lm_head,
    `scheme_overrides` that of single matrices by base name. `config_changes` are fields of
    ModelConfig. The same arguments give the same bytes.
    """
    config = tiny_config(**config_changes)
    folder.mkdir(parents=True, exist_ok=True)
    is_mlc = scheme in MLC_QUANTIZATIONS
    body, embedding, dtype = MLC_QUANTIZATIONS.get(scheme, (scheme, scheme, np.float16))
    schemes = {
        base: (embed_scheme or embedding) if base in {"model.embed_tokens", "lm_head"} else body
        for base in config.parameters.matrices
    }
    schemes.update(scheme_overrides or {})
    vector_dtype = dtype if is_mlc else np.float32
    stored = BF16_ON_DISK if is_mlc else RAW
    rng = np.random.default_rng(seed)
    writer = TensorCacheWriter(folder)
    for base, (rows, columns) in config.parameters.matrices.items():
        weights = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
        for suffix, array in quantize_matrix(weights, schemes[base], dtype).items():
            writer.add(f"{base}.{suffix}", array, stored=stored)
    for name, length in config.parameters.vectors.items():
        center = 0.0 if name.endswith(".bias") else 1.0
        vector = center + 0.1 * rng.standard_normal(length)
        writer.add(name, vector.astype(vector_dtype), stored=stored)
    writer.finish(config.parameters.num_parameters)
    write_tiny_tokenizer(folder)
    chat_config = tiny_chat_config(config, scheme if is_mlc else "gguf")
    if not is_mlc:
        chat_config["tensor_schemes"] = schemes
    (folder / CHAT_CONFIG).write_text(json.dumps(chat_config, indent=1))
    return folder


def tiny_chat_config(config: ModelConfig, quantization: str) -> dict[str, Any]:
    """The mlc-chat-config.json of `config` as MLC's gen_config writes it."""
    return {
        "version": "0.1.0",
        "model_type": config.model_type,
        "quantization": quantization,
        "model_config": {
            "hidden_act": "silu",
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads": config.num_q_heads,
            "num_hidden_layers": config.num_layers,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "rms_norm_eps": config.rms_norm_eps,
            "position_embedding_base": config.rope_theta,
            "rope_scaling": config.rope_scaling,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_word_embeddings,
            "attention_bias": config.attention_bias,
            "context_window_size": config.context_window_size,
            "prefill_chunk_size": 128,
            "tensor_parallel_shards": 1,
            "max_batch_size": 128,
        },
        "vocab_size": config.vocab_size,
        "context_window_size": config.context_window_size,
        "sliding_window_size": -1,
        "prefill_chunk_size": 128,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "tokenizer_info": {
            "token_postproc_method": "byte_level",
            "prepend_space_in_encode": False,
            "strip_space_in_decode": False,
        },
        "conv_template": {
            "name": "chatml",
            "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
            "system_message": "",
            "system_prefix_token_ids": None,
            "add_role_after_system_message": True,
            "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            "role_templates": {
                "user": "{user_message}",
                "assistant": "{assistant_message}",
                "tool": "{tool_message}",
            },
            "messages": [],
            "seps": ["<|im_end|>\n"],
            "role_content_sep": "\n",
            "role_empty_sep": "\n",
            "stop_str": ["<|im_end|>"],
            "stop_token_ids": [2],
            "function_string": "",
            "use_function_calling": False,
        },
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte 0..255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(0x100 + index) for index, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


def write_tiny_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of about 290 tokens."""
    tokens = [*SPECIAL_TOKENS, *byte_alphabet()]
    tokens += [merge.replace(" ", "") for merge in _MERGES]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    added = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token_id, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _MERGES,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
