"""GGUF import: the same weights, in Hugging Face's row order, and the same network."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize

from mlc_server.build.convert import convert_model
from mlc_server.build.gguf_import import open_gguf
from mlc_server.build.hf_import import open_hf
from mlc_server.build.manifest import Manifest, ModelConfig, load_manifest
from mlc_server.errors import FormatError
from support.import_files import Floats, random_weights, write_gguf, write_hf_folder
from support.reference_llama import ReferenceLlama, load_dequantized
from support.tiny_model import tiny_config

TOKENS = [1, 70, 80, 259, 2]


def _import(path: Path, quantization: str | None = None) -> Manifest:
    out = path.parent / "out"
    convert_model(open_gguf(path), out, quantization)
    return load_manifest(out)


def _fused(config: ModelConfig, weights: dict[str, Floats]) -> dict[str, Floats]:
    """The Hugging Face weights under MLC's fused names."""
    fused = {"model.embed_tokens": weights["model.embed_tokens.weight"]}
    if "lm_head.weight" in weights:
        fused["lm_head"] = weights["lm_head.weight"]
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        parts = {
            "self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "self_attn.o_proj": ["self_attn.o_proj"],
            "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
            "mlp.down_proj": ["mlp.down_proj"],
        }
        for name, sources in parts.items():
            rows = [weights[f"{prefix}.{source}.weight"] for source in sources]
            fused[f"{prefix}.{name}"] = np.concatenate(rows)
    return fused


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [(Kind.Q4_0, "q4_z8"), (Kind.Q4_1, "q4_min"), (Kind.Q8_0, "q8"), (Kind.F16, "f16")],
)
def test_blocks_arrive_without_loss(tmp_path: Path, kind: Kind, scheme: str) -> None:
    """Row permutation and fusing commute with quantisation along the columns."""
    config = tiny_config(tie_word_embeddings=False)
    weights = random_weights(config)
    manifest = _import(write_gguf(tmp_path / "m.gguf", config, weights, lambda _: kind))
    assert manifest.model == config
    assert set(manifest.schemes.values()) == {scheme}
    loaded = load_dequantized(manifest)
    for base, values in _fused(config, weights).items():
        assert np.array_equal(loaded[base], dequantize(quantize(values, kind), kind)), base
    for name in config.parameters.vectors:
        assert np.array_equal(loaded[name], weights[name]), name


def test_gguf_and_hugging_face_give_the_same_network(tmp_path: Path) -> None:
    config = tiny_config(attention_bias=True)
    weights = random_weights(config, seed=1)
    from_gguf = _import(write_gguf(tmp_path / "m.gguf", config, weights))
    folder = write_hf_folder(tmp_path / "hf", config, weights)
    convert_model(open_hf(folder), tmp_path / "hf-out", "q8_0")
    convert_model(open_gguf(tmp_path / "m.gguf"), tmp_path / "gguf-out", "q8_0")
    same = [load_dequantized(load_manifest(tmp_path / name)) for name in ("hf-out", "gguf-out")]
    for name, values in same[0].items():
        assert np.array_equal(values, same[1][name]), name
    exact = ReferenceLlama.from_manifest(from_gguf).forward(TOKENS)
    close = ReferenceLlama(config, same[0]).forward(TOKENS)
    assert np.abs(exact - close).max() < 0.05 * np.abs(exact).max()


def test_mixed_types_are_fused_and_losses_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {"attn_v": Kind.Q4_1, "ffn_up": Kind.Q8_0, "ffn_down": Kind.Q5_0}

    def kind_of(name: str) -> Kind:
        return next((kind for part, kind in kinds.items() if part in name), Kind.Q4_0)

    config = tiny_config()
    weights = random_weights(config)
    path = write_gguf(tmp_path / "m.gguf", config, weights, kind_of)
    with caplog.at_level(logging.WARNING):
        manifest = _import(path)
    assert manifest.schemes["model.layers.0.self_attn.qkv_proj"] == "q4_min"
    assert manifest.schemes["model.layers.0.mlp.gate_up_proj"] == "q8"
    assert manifest.schemes["model.layers.0.mlp.down_proj"] == "q4_min"
    assert [record.getMessage() for record in caplog.records] == [
        "2 tensors of type Q5_0 are requantised to q4_min, with some loss"
    ]
    loaded = load_dequantized(manifest)
    gate = weights["model.layers.1.mlp.gate_proj.weight"]
    up = weights["model.layers.1.mlp.up_proj.weight"]
    want = [dequantize(quantize(gate, Kind.Q4_0), Kind.Q4_0)]
    want.append(dequantize(quantize(up, Kind.Q8_0), Kind.Q8_0))
    assert np.array_equal(loaded["model.layers.1.mlp.gate_up_proj"], np.concatenate(want))


@pytest.mark.parametrize("name", ["q4f16_1", "q4f32_1", "q4f16_2", "q0f16", "q0f32", "q4_1"])
def test_requantising_to_a_named_format(tmp_path: Path, name: str) -> None:
    config = tiny_config()
    weights = random_weights(config)
    manifest = _import(write_gguf(tmp_path / "m.gguf", config, weights, lambda _: Kind.Q8_0), name)
    assert manifest.quantization == name
    assert ("tensor_schemes" in manifest.chat_config) == (name == "q4_1")
    exact = ReferenceLlama(config, {**_fused(config, weights), **weights}).forward(TOKENS)
    logits = ReferenceLlama.from_manifest(manifest).forward(TOKENS)
    bound = 0.03 if name.startswith("q0") else 0.5
    assert np.abs(logits - exact).max() < bound * np.abs(exact).max()


def test_rope_factors_become_rope_scaling(tmp_path: Path) -> None:
    config = tiny_config()
    factors = np.linspace(1, 8, config.head_dim // 2, dtype=np.float32)
    extra = {"rope_freqs.weight": factors}
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config), extra_tensors=extra)
    model = _import(path).model
    assert model.rope_scaling is not None
    assert np.allclose(
        np.array(model.rope_inverse_frequencies) * factors, config.rope_inverse_frequencies
    )


def test_configuration_and_template_arrive(tmp_path: Path) -> None:
    config = tiny_config(rope_theta=500000.0, rms_norm_eps=1e-6, context_window_size=77)
    manifest = _import(write_gguf(tmp_path / "m.gguf", config, random_weights(config)))
    assert manifest.model == config
    assert manifest.stop_token_ids == (0, 2)
    assert manifest.chat_config["bos_token_id"] == 1
    assert manifest.chat_config["conv_template"]["name"] == "chatml"
    settings = json.loads((manifest.folder / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in settings["chat_template"]
    assert settings["eos_token"] == "<|im_end|>"


def _make_mixture(writer: GGUFWriter) -> None:
    writer.add_uint32("llama.expert_count", 8)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"head_dim": 64}, "blk.0.attn_q.weight"),
        ({"num_layers": 3}, "blk.2.attn_q.weight"),
        ({"num_layers": 1}, "blk.1"),
        ({"intermediate_size": 96}, "ffn_gate"),
    ],
)
def test_metadata_that_does_not_fit_the_tensors(
    tmp_path: Path, changes: dict[str, int], field: str
) -> None:
    config = tiny_config()
    said = tiny_config(**changes)
    path = write_gguf(tmp_path / "m.gguf", said, random_weights(config))
    with pytest.raises(FormatError, match=field):
        open_gguf(path)


def test_mixtures_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    path = write_gguf(tmp_path / "moe.gguf", config, weights, edit=_make_mixture)
    with pytest.raises(FormatError, match=r"llama\.expert_count"):
        open_gguf(path)
    extra = {"blk.0.attn_output.bias": np.zeros(64, np.float32)}
    path = write_gguf(tmp_path / "bias.gguf", config, weights, extra_tensors=extra)
    with pytest.raises(FormatError, match=r"blk\.0\.attn_output\.bias"):
        open_gguf(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = np.nan
    path = write_gguf(tmp_path / "m.gguf", config, weights)
    with pytest.raises(FormatError, match="down_proj"):
        _import(path)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
