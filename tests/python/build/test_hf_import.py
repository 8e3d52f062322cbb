"""Hugging Face import: float types, sharding, configuration, and broken folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_server.build.convert import convert_model
from mlc_server.build.hf_config import read_hf_config
from mlc_server.build.hf_import import open_hf
from mlc_server.build.manifest import load_manifest
from mlc_server.build.quantize.recipes import RECIPES
from mlc_server.build.quantize.schemes import dequantize_matrix, quantize_matrix
from mlc_server.build.tensor_files import to_bf16_bits
from mlc_server.errors import FormatError
from support.import_files import hf_config, random_weights, write_hf_folder, write_safetensors
from support.reference_llama import ReferenceLlama, load_dequantized
from support.tiny_model import tiny_config

QKV = "model.layers.0.self_attn.qkv_proj"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("num_files", [1, 3])
def test_stored_types_and_shards(tmp_path: Path, dtype: str, num_files: int) -> None:
    config = tiny_config()
    weights = random_weights(config)
    folder = write_hf_folder(tmp_path / "hf", config, weights, dtype, num_files)
    source = open_hf(folder).weights
    assert source.config == config
    parts = [weights[f"model.layers.0.self_attn.{p}_proj.weight"] for p in ("q", "k", "v")]
    want = np.concatenate(parts)
    if dtype == "bfloat16":
        want = (to_bf16_bits(want).astype(np.uint32) << 16).view(np.float32)
    else:
        want = want.astype(dtype).astype(np.float32)
    assert np.array_equal(source.floats(QKV), want)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_follows_its_formula(tmp_path: Path, name: str) -> None:
    config = tiny_config(tie_word_embeddings=False, intermediate_size=104)
    weights = random_weights(config)
    convert_model(open_hf(write_hf_folder(tmp_path / "hf", config, weights)), tmp_path / "o", name)
    manifest = load_manifest(tmp_path / "o")
    recipe = RECIPES[name]
    loaded = load_dequantized(manifest)
    for base, source in {
        "lm_head": "lm_head.weight",
        "model.layers.1.mlp.down_proj": "model.layers.1.mlp.down_proj.weight",
    }.items():
        scheme = recipe.scheme(base)
        assert manifest.schemes[base] == scheme
        parts = quantize_matrix(weights[source], scheme, recipe.scale_dtype)
        want = dequantize_matrix(parts, scheme, weights[source].shape[1])
        # float32 is stored as bfloat16 in MLC's folders: eight bits of precision.
        tolerance = 2**-8 if recipe.scale_dtype is np.float32 else 0
        assert np.allclose(loaded[base], want, rtol=tolerance, atol=1e-7)


def test_default_quantization_keeps_the_network(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    folder = write_hf_folder(tmp_path / "hf", config, weights)
    convert_model(open_hf(folder), tmp_path / "fine", "q0f32")
    convert_model(open_hf(folder), tmp_path / "default")
    fine, default = (
        ReferenceLlama.from_manifest(load_manifest(tmp_path / name)).forward([1, 66, 77, 2])
        for name in ("fine", "default")
    )
    assert load_manifest(tmp_path / "default").quantization == "q8_0"
    assert np.abs(fine - default).max() < 0.05 * np.abs(fine).max()


def test_ids_template_and_sampling_come_along(tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config), eos_token_id=[2, 7])
    generation = {"eos_token_id": [2, 9], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "chat_template.jinja").write_text("<|start_header_id|>")
    convert_model(open_hf(folder), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert manifest.stop_token_ids == (2, 7, 9)
    assert manifest.chat_config["temperature"] == 0.6
    assert manifest.chat_config["top_p"] == 0.9
    assert manifest.chat_config["conv_template"]["name"] == "llama-3"
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_rope_scaling_survives_in_both_spellings(tmp_path: Path) -> None:
    config = tiny_config(rope_scaling=LLAMA3_ROPE, rope_theta=500000.0)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(config)))
    assert read_hf_config(tmp_path) == config
    newer = hf_config(config, rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0})
    del newer["rope_scaling"], newer["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(newer))
    assert read_hf_config(tmp_path) == config


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    content = hf_config(tiny_config(model_type="mistral"), sliding_window=256)
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_hf_config(tmp_path).context_window_size == 256


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "mixtral"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": 65, "head_dim": None}, "hidden_size"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"rope_scaling": 3}, "rope_scaling"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"eos_token_id": 5000}, "eos_token_id"),
        ({"intermediate_size": 161}, "gate_proj"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"attention_bias": True}, "q_proj.bias"),
        ({"vocab_size": 100}, "embed_tokens"),
    ],
)
def test_configurations_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config), **changes)
    with pytest.raises(FormatError, match=field):
        open_hf(folder)


def test_unknown_and_doubled_tensors(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    extra = {**weights, "model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}
    with pytest.raises(FormatError, match=r"o_proj\.bias"):
        open_hf(write_hf_folder(tmp_path / "a", config, extra))
    folder = write_hf_folder(tmp_path / "b", config, weights, num_files=2)
    write_safetensors(folder / "model-00001-of-00002.safetensors", weights, "float32")
    with pytest.raises(FormatError, match="as another file does"):
        open_hf(folder)
    buffers = {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    open_hf(write_hf_folder(tmp_path / "c", config, buffers))


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not json at all!"])
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        open_hf(folder)


def test_truncated_safetensors(tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        open_hf(folder)


def test_index_cannot_lead_out(tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config), num_files=2)
    index = {"weight_map": {"a": "../hf/model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="weight_map"):
        open_hf(folder)


class _Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pickle-was-loaded"),))


def test_pickled_weights_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config()
    folder = write_hf_folder(tmp_path / "hf", config, random_weights(config))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary()))
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        open_hf(folder)
    assert not Path("pickle-was-loaded").exists()
