"""load_manifest: what it reads back, and that broken folders end in a FormatError."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_server.build.manifest import load_manifest
from mlc_server.errors import FormatError
from support.tiny_model import MLC_QUANTIZATIONS, tiny_config, write_tiny_model

SCHEMES = ("q4_z7", "q4_z8", "q4_min", "q8", "f16", "f32")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_reads_back_what_was_written(tmp_path: Path, scheme: str) -> None:
    manifest = load_manifest(write_tiny_model(tmp_path / "m", scheme))
    assert manifest.model == tiny_config()
    assert set(manifest.schemes.values()) == {scheme}
    assert manifest.quantization == "gguf"
    assert manifest.stop_token_ids == (2,)


@pytest.mark.parametrize("name", MLC_QUANTIZATIONS)
def test_derives_schemes_of_folders_that_mlc_wrote(tmp_path: Path, name: str) -> None:
    """Without tensor_schemes, names and dtypes tell; the older index name is read too."""
    folder = write_tiny_model(tmp_path / "m", name)
    (folder / "tensor-cache.json").rename(folder / "ndarray-cache.json")
    manifest = load_manifest(folder)
    body, embedding, _ = MLC_QUANTIZATIONS[name]
    assert manifest.schemes["model.embed_tokens"] == embedding
    assert manifest.schemes["model.layers.1.mlp.down_proj"] == body


def test_mixed_schemes_untied_head_and_bias(tmp_path: Path) -> None:
    folder = write_tiny_model(
        tmp_path / "m",
        "q4_z8",
        embed_scheme="q8",
        scheme_overrides={"model.layers.0.self_attn.qkv_proj": "q4_min"},
        tie_word_embeddings=False,
        attention_bias=True,
        intermediate_size=100,  # no multiple of the group: the last group is padded
    )
    manifest = load_manifest(folder)
    assert manifest.schemes["lm_head"] == "q8"
    assert manifest.schemes["model.layers.0.self_attn.qkv_proj"] == "q4_min"
    assert manifest.schemes["model.layers.1.self_attn.qkv_proj"] == "q4_z8"
    assert manifest.tensors["model.layers.0.mlp.down_proj.q_scale"].shape == (64, 4)
    assert manifest.tensors["model.layers.0.self_attn.qkv_proj.bias"].shape == (320,)


def test_records_lie_inside_their_shards(tmp_path: Path) -> None:
    manifest = load_manifest(write_tiny_model(tmp_path / "m", "q4f32_1"))
    for record in manifest.tensors.values():
        item = 2 if record.is_bf16_on_disk else {"uint32": 4, "float32": 4}[record.dtype]
        assert record.nbytes == item * math.prod(record.shape)
        size = (manifest.folder / record.shard).stat().st_size
        assert record.byte_offset + record.nbytes <= size


def test_stop_ids_unite_template_and_eos(tmp_path: Path) -> None:
    folder = _edited(
        tmp_path, _set("eos_token_id", [7, 2]), _set_in("conv_template", "stop_token_ids", [9])
    )
    assert load_manifest(folder).stop_token_ids == (2, 7, 9)


def test_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    folder = _edited(tmp_path, _set("context_window_size", -1), _set("sliding_window_size", 512))
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    config["model_config"]["context_window_size"] = -1
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    assert load_manifest(folder).model.context_window_size == 512


def test_hugging_face_snapshots_link_to_their_blobs(tmp_path: Path) -> None:
    """Their files are links out of the folder; those, and no others, are followed."""
    folder = write_tiny_model(tmp_path / "repo" / "snapshots" / "abc", "q8")
    blobs = tmp_path / "repo" / "blobs"
    blobs.mkdir()
    shard = folder / "params_shard_0.bin"
    shard.rename(blobs / "b10b")
    shard.symlink_to(blobs / "b10b")
    assert load_manifest(folder).schemes["model.embed_tokens"] == "q8"
    outside = tmp_path / "outside.bin"
    (blobs / "b10b").rename(outside)
    shard.unlink()
    shard.symlink_to(outside)
    with pytest.raises(FormatError, match="leads out of the model folder"):
        load_manifest(folder)


Edit = Callable[[dict[str, Any]], None]


def _set(name: str, value: Any) -> Edit:
    return lambda config: config.__setitem__(name, value)


def _set_in(outer: str, name: str, value: Any) -> Edit:
    return lambda config: config[outer].__setitem__(name, value)


def _delete(name: str) -> Edit:
    return lambda config: config.pop(name)


def _edited(tmp_path: Path, *edits: Edit) -> Path:
    folder = write_tiny_model(tmp_path / "m", "q4f16_1")
    path = folder / "mlc-chat-config.json"
    config = json.loads(path.read_text())
    for edit in edits:
        edit(config)
    path.write_text(json.dumps(config))
    return folder


BAD_CONFIGS: dict[str, tuple[Edit, str]] = {
    "no model type": (_delete("model_type"), "model_type"),
    "unknown architecture": (_set("model_type", "gpt_bigcode"), "model_type"),
    "no network": (_delete("model_config"), "model_config"),
    "network is a list": (_set("model_config", [1]), "model_config"),
    "unknown layout": (_set("quantization", "q4f16_0"), "quantization"),
    "quantization is a number": (_set("quantization", 4), "quantization"),
    "negative layers": (_set_in("model_config", "num_hidden_layers", -1), "num_hidden_layers"),
    "endless layers": (_set_in("model_config", "num_hidden_layers", 10**9), "num_hidden_layers"),
    "boolean size": (_set_in("model_config", "hidden_size", True), "hidden_size"),
    "text size": (_set_in("model_config", "hidden_size", "64"), "hidden_size"),
    "fraction": (_set_in("model_config", "hidden_size", 64.5), "hidden_size"),
    "zero heads": (_set_in("model_config", "num_attention_heads", 0), "num_attention_heads"),
    "heads do not divide": (_set_in("model_config", "num_key_value_heads", 4), "num_key_value"),
    "odd head": (_set_in("model_config", "head_dim", 33), "head_dim"),
    "infinite theta": (_set_in("model_config", "position_embedding_base", 1e308), "position_emb"),
    "other activation": (_set_in("model_config", "hidden_act", "gelu"), "hidden_act"),
    "unknown rope": (_set_in("model_config", "rope_scaling", {"rope_type": "yarn"}), "rope_type"),
    "rope is a list": (_set_in("model_config", "rope_scaling", [1]), "rope_scaling"),
    "untied without head": (_set_in("model_config", "tie_word_embeddings", False), "tie_word"),
    "stop id beyond vocabulary": (_set("eos_token_id", 320), "eos_token_id"),
    "stop id is text": (_set_in("conv_template", "stop_token_ids", ["2"]), "stop_token_ids"),
    "schemes is a list": (_set("tensor_schemes", ["q8"]), "tensor_schemes"),
    "unknown scheme": (_set("tensor_schemes", {"model.embed_tokens": "q5"}), "embed_tokens"),
    "scheme contradicts": (_set("tensor_schemes", {"model.embed_tokens": "q8"}), "embed_tokens"),
    "another vocabulary": (_set_in("model_config", "vocab_size", 321), "embed_tokens"),
    "fewer layers": (_set_in("model_config", "num_hidden_layers", 1), "model.layers.1"),
    "more layers": (_set_in("model_config", "num_hidden_layers", 3), "model.layers.2"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_broken_config_names_the_field(tmp_path: Path, name: str) -> None:
    edit, field = BAD_CONFIGS[name]
    with pytest.raises(FormatError) as caught:
        load_manifest(_edited(tmp_path, edit))
    assert field in caught.value.what
    assert len(caught.value.render().splitlines()) == 3


def _record(index: int = 0) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda cache: cache["records"][0]["records"][index]


def _patch(name: str, value: Any) -> Edit:
    return lambda cache: _record()(cache).__setitem__(name, value)


def _shard(name: str, value: Any) -> Edit:
    return lambda cache: cache["records"][0].__setitem__(name, value)


def _repeat_first(cache: dict[str, Any]) -> None:
    cache["records"][0]["records"].append(cache["records"][0]["records"][0])


def _add_stranger(cache: dict[str, Any]) -> None:
    cache["records"][0]["records"].append({**_record()(cache), "name": "model.extra.weight"})


BAD_CACHES: dict[str, tuple[Edit, str]] = {
    "no records": (lambda cache: cache.pop("records"), "records"),
    "records is text": (_set("records", "x"), "records"),
    "shard is a number": (_set("records", [3]), "records[0]"),
    "record is a number": (_shard("records", [3]), "records[0].records[0]"),
    "shard length": (_shard("nbytes", 5), "nbytes"),
    "negative offset": (_patch("byteOffset", -4), "byteOffset"),
    "offset beyond": (_patch("byteOffset", 10**9), "byteOffset"),
    "offset and size beyond": (
        lambda c: _record(-1)(c).__setitem__("byteOffset", c["records"][0]["nbytes"] - 1),
        "byteOffset",
    ),
    "wrong size": (_patch("nbytes", 12), "nbytes"),
    "wrong shape": (_patch("shape", [320, 9]), "nbytes"),
    "zero dimension": (_patch("shape", [320, 0]), "shape"),
    "huge dimension": (_patch("shape", [10**30]), "shape"),
    "negative dimensions": (_patch("shape", [-320, -8]), "shape"),
    "shape is text": (_patch("shape", "320"), "shape"),
    "many dimensions": (_patch("shape", [1] * 64), "shape"),
    "unknown dtype": (_patch("dtype", "complex64"), "dtype"),
    "another dtype": (_patch("dtype", "int32"), "embed_tokens"),
    "no name": (lambda cache: _record()(cache).pop("name"), "name"),
    "another name": (_patch("name", "model.other.q_weight"), "model.embed_tokens"),
    "a tensor twice": (_repeat_first, "twice"),
    "an unknown tensor": (_add_stranger, "model.extra.weight"),
}
BAD_PATHS = (
    "../m/params_shard_0.bin",
    "/etc/passwd",
    "a/../../m/params_shard_0.bin",
    "params_shard_0.bin\0",
    "..\\m\\params_shard_0.bin",
    "C:params_shard_0.bin",
    "",
    ".",
    "x" * 5000,
    "absent.bin",
)


def _edited_cache(tmp_path: Path, edit: Edit) -> Path:
    folder = write_tiny_model(tmp_path / "m", "q4f16_1")
    path = folder / "tensor-cache.json"
    cache = json.loads(path.read_text())
    edit(cache)
    path.write_text(json.dumps(cache))
    return folder


@pytest.mark.parametrize("name", BAD_CACHES)
def test_broken_index_names_the_field(tmp_path: Path, name: str) -> None:
    edit, field = BAD_CACHES[name]
    with pytest.raises(FormatError) as caught:
        load_manifest(_edited_cache(tmp_path, edit))
    assert field in caught.value.what


@pytest.mark.parametrize("path", BAD_PATHS)
def test_data_path_cannot_lead_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(FormatError, match="dataPath"):
        load_manifest(_edited_cache(tmp_path, _shard("dataPath", path)))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": NaN}', "[" * 100000, "\xff\xfe"])
@pytest.mark.parametrize("name", ["mlc-chat-config.json", "tensor-cache.json"])
def test_files_that_are_no_json_object(tmp_path: Path, name: str, text: str) -> None:
    folder = write_tiny_model(tmp_path / "m", "q4f16_1")
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(FormatError, match=name):
        load_manifest(folder)


@pytest.mark.parametrize("change", [-1, 1])
def test_shard_of_another_length(tmp_path: Path, change: int) -> None:
    folder = write_tiny_model(tmp_path / "m", "q4f16_1")
    shard = folder / "params_shard_0.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(FormatError, match="nbytes"):
        load_manifest(folder)


_json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-3, 400), max_size=3),
)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, Any]] = []
    for key, child in items:
        found.append((node, key))
        if isinstance(child, dict | list):
            found += _places(child)
    return found


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_folders_load_or_are_format_errors(pristine: Path, data: st.DataObject) -> None:
    """Any one or two JSON values replaced or removed: no other exception, no bad record."""
    originals = {name: (pristine / name).read_text() for name in MUTATED}
    try:
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(MUTATED))
            document = json.loads((pristine / name).read_text())
            container, key = data.draw(st.sampled_from(_places(document)))
            if data.draw(st.booleans()):
                container[key] = data.draw(_json_values)
            else:
                del container[key]
            (pristine / name).write_text(json.dumps(document))
        with contextlib.suppress(FormatError):
            manifest = load_manifest(pristine)
            for record in manifest.tensors.values():
                size = (pristine / record.shard).stat().st_size
                assert 0 <= record.byte_offset <= record.byte_offset + record.nbytes <= size
    finally:
        for name, text in originals.items():
            (pristine / name).write_text(text)


MUTATED = ("mlc-chat-config.json", "tensor-cache.json")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("mutated") / "m", "q4_min", num_layers=1)


def test_absent_folder_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a model folder"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=r"mlc-chat-config\.json"):
        load_manifest(tmp_path)
    folder = write_tiny_model(tmp_path / "m", "q8")
    (folder / "tensor-cache.json").unlink()
    with pytest.raises(FormatError, match=r"tensor-cache\.json"):
        load_manifest(folder)
