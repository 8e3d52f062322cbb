"""Random models written as Hugging Face folders and GGUF files, to be imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize
from safetensors import TensorSpec, serialize_file

from mlc_server.build.manifest import ModelConfig
from mlc_server.build.tensor_files import to_bf16_bits
from support.tiny_model import CHAT_TEMPLATE, write_tiny_tokenizer

Floats = npt.NDArray[np.float32]
LAYER_MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYER_VECTORS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Floats]:
    """Every parameter under its Hugging Face name."""
    rng = np.random.default_rng(seed)
    heads, kv_heads, width = config.num_q_heads, config.num_kv_heads, config.head_dim
    hidden, middle = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (kv_heads * width, hidden),
        "self_attn.v_proj": (kv_heads * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        names.update({f"model.layers.{layer}.{n}.weight": s for n, s in shapes.items()})
        if config.attention_bias:
            for part in ("q_proj", "k_proj", "v_proj"):
                rows = shapes[f"self_attn.{part}"][0]
                names[f"model.layers.{layer}.self_attn.{part}.bias"] = (rows,)
    names["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        names["lm_head.weight"] = (config.vocab_size, hidden)
    return {name: _draw(rng, name, shape) for name, shape in names.items()}


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Floats:
    values = rng.standard_normal(shape, np.float32)
    if "norm" in name:
        return np.float32(1) + np.float32(0.1) * values
    return values / np.float32(shape[-1] ** 0.5)


def hf_config(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    """A config.json for `config`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": config.model_type,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_q_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "max_position_embeddings": config.context_window_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


def write_hf_folder(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Floats],
    dtype: str = "float32",
    num_files: int = 1,
    **config_changes: Any,
) -> Path:
    """Config, safetensors (of `dtype` float32, float16 or bfloat16) and the tiny tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(config, **config_changes)))
    write_tiny_tokenizer(folder)
    names = sorted(weights)
    files: dict[str, str] = {}
    for index in range(num_files):
        name = f"model-{index + 1:05}-of-{num_files:05}.safetensors"
        file = "model.safetensors" if num_files == 1 else name
        part = names[index::num_files]
        write_safetensors(folder / file, {name: weights[name] for name in part}, dtype)
        files.update(dict.fromkeys(part, file))
    if num_files > 1:
        index_text = json.dumps({"metadata": {}, "weight_map": files})
        (folder / "model.safetensors.index.json").write_text(index_text)
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, Floats], dtype: str) -> None:
    stored = {
        name: to_bf16_bits(values) if dtype == "bfloat16" else values.astype(dtype)
        for name, values in tensors.items()
    }
    specs = {
        name: TensorSpec(
            dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in stored.items()
    }
    serialize_file(specs, path)


def to_gguf_rows(weights: Floats, num_heads: int) -> Floats:
    """Rows of q or k in GGUF's order: convert_hf_to_gguf.py's LlamaModel.permute."""
    shape = weights.shape
    halves = weights.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)


def gguf_tensors(config: ModelConfig, weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """The same weights under GGUF's names and in its row order."""
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    names = {**LAYER_MATRICES, **LAYER_VECTORS}
    tensors: dict[str, Floats] = {}
    for name, values in weights.items():
        if name in top:
            tensors[top[name]] = values
            continue
        _, _, layer, rest = name.split(".", 3)
        base, suffix = rest.rsplit(".", 1)
        heads = {"self_attn.q_proj": config.num_q_heads, "self_attn.k_proj": config.num_kv_heads}
        rows = to_gguf_rows(values, heads[base]) if base in heads else values
        tensors[f"blk.{layer}.{names[base]}.{suffix}"] = rows
    return tensors


def write_gguf(
    path: Path,
    config: ModelConfig,
    weights: Mapping[str, Floats],
    kind_of: Callable[[str], Kind] = lambda _: Kind.F32,
    extra_tensors: Mapping[str, Floats] | None = None,
    edit: Callable[[GGUFWriter], None] = lambda _: None,
) -> Path:
    """A GGUF written by the gguf package; `kind_of` gives the type of each matrix by GGUF name."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_window_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_q_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_tiny_vocabulary(writer, path.parent)
    edit(writer)
    for name, values in {**gguf_tensors(config, weights), **(extra_tensors or {})}.items():
        kind = kind_of(name) if values.ndim > 1 else Kind.F32
        data = np.ascontiguousarray(values, np.float32)
        writer.add_tensor(name, data if kind is Kind.F32 else quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tiny_vocabulary(writer: GGUFWriter, folder: Path) -> None:
    """The tiny tokenizer's vocabulary as GGUF metadata."""
    scratch = folder / "tiny-tokenizer"
    scratch.mkdir(exist_ok=True)
    write_tiny_tokenizer(scratch)
    tokenizer = json.loads((scratch / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_types([3] * 3 + [1] * (len(vocab) - 3))
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
