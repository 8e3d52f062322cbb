"""Writing folders: whole or not at all, readable by MLC's rules, and over older ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mlc_server.build.chat_config import ChatConfigOptions
from mlc_server.build.conv_templates import CONV_TEMPLATES, guess_conv_template
from mlc_server.build.convert import convert_model
from mlc_server.build.gen_config import generate_config
from mlc_server.build.gguf_import import open_gguf
from mlc_server.build.hf_import import open_hf
from mlc_server.build.imported import ImportedModel
from mlc_server.build.manifest import load_manifest
from mlc_server.build.tensor_cache import BF16_ON_DISK, read_tensor_cache
from mlc_server.build.tensor_files import TensorCacheWriter, TensorReader
from mlc_server.cli.main import main
from mlc_server.errors import FormatError
from mlc_server.text.mlc_template import MlcTemplate
from support.import_files import random_weights, write_gguf, write_hf_folder
from support.tiny_model import tiny_config


@pytest.fixture
def model(tmp_path: Path) -> ImportedModel:
    config = tiny_config()
    return open_hf(write_hf_folder(tmp_path / "hf", config, random_weights(config)))


def test_shards_stay_below_the_cap_and_match_their_sums(tmp_path: Path) -> None:
    """Tensors larger than the cap get a file of their own; md5 sums and sizes are right."""
    writer = TensorCacheWriter(tmp_path)
    tensors = {
        "small": np.arange(5, dtype=np.uint32),
        "large": np.arange(9 << 20, dtype=np.uint32),
        "middle": np.full((3 << 20,), 7, np.float32),
        "half": np.linspace(-1, 1, 11, dtype=np.float16),
        "codes": np.arange(-8, 8, dtype=np.int8),
    }
    for name, array in tensors.items():
        writer.add(name, array, stored=BF16_ON_DISK)
    writer.finish(1)
    records = read_tensor_cache(tmp_path)
    reader = TensorReader(tmp_path, records)
    for name, array in tensors.items():
        assert np.array_equal(reader.read(name), array)
    assert records["middle"].nbytes == 2 * (3 << 20)
    index = json.loads((tmp_path / "tensor-cache.json").read_text())
    for shard in index["records"]:
        content = (tmp_path / shard["dataPath"]).read_bytes()
        assert hashlib.md5(content).hexdigest() == shard["md5sum"]
        assert len(content) <= 32 << 20 or len(shard["records"]) == 1
    assert records["large"].shard != records["small"].shard


def test_unknown_dtypes_are_a_programming_error(tmp_path: Path) -> None:
    writer = TensorCacheWriter(tmp_path)
    with pytest.raises(TypeError, match="float64"):
        writer.add("x", np.zeros(3))


def test_progress_runs_from_nothing_to_all(tmp_path: Path, model: ImportedModel) -> None:
    reports: list[tuple[str, int, int]] = []
    convert_model(model, tmp_path / "out", progress=lambda *report: reports.append(report))
    done = [report[1] for report in reports]
    total = model.weights.config.parameters.num_parameters
    assert done[0] == 0
    assert done == sorted(done)
    assert reports[-1] == ("converting weights", total, total)


def test_existing_folder_is_replaced_file_by_file(tmp_path: Path, model: ImportedModel) -> None:
    """Other files stay; shards and index are the new ones only."""
    out = tmp_path / "out"
    convert_model(model, out, "q0f32")
    (out / "params_shard_7.bin").write_bytes(b"old")
    (out / "README.md").write_text("mine")
    convert_model(model, out, "q4f16_1")
    assert load_manifest(out).quantization == "q4f16_1"
    assert (out / "README.md").read_text() == "mine"
    assert sorted(path.name for path in out.glob("params_shard_*")) == ["params_shard_0.bin"]
    assert not list(tmp_path.glob(".out*"))


def test_a_file_in_the_way(tmp_path: Path, model: ImportedModel) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(FormatError, match="in the way"):
        convert_model(model, tmp_path / "out")


@pytest.mark.parametrize("name", ["q3f16_1", "gguf", "Q8_0"])
def test_unknown_quantizations(tmp_path: Path, model: ImportedModel, name: str) -> None:
    with pytest.raises(FormatError) as caught:
        convert_model(model, tmp_path / "out", name)
    assert "q4f16_1" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_gen_config_changes_only_the_configuration(tmp_path: Path, model: ImportedModel) -> None:
    out = tmp_path / "out"
    convert_model(model, out, "q8_0")
    shard = (out / "params_shard_0.bin").read_bytes()
    options = ChatConfigOptions(
        conv_template="llama-3", context_window_size=99, prefill_chunk_size=33, max_batch_size=5
    )
    generate_config(model, out, "q8_0", options)
    manifest = load_manifest(out)
    assert manifest.model.context_window_size == 99
    assert manifest.chat_config["prefill_chunk_size"] == 33
    assert manifest.chat_config["model_config"]["max_batch_size"] == 5
    assert manifest.chat_config["conv_template"]["name"] == "llama-3"
    assert manifest.chat_config["conv_template"]["stop_token_ids"] == [2]
    assert (out / "params_shard_0.bin").read_bytes() == shard


def test_weights_of_another_quantization_are_noticed(tmp_path: Path, model: ImportedModel) -> None:
    out = tmp_path / "out"
    convert_model(model, out, "q8_0")
    generate_config(model, out, "q4_1")
    with pytest.raises(FormatError, match="tensor_schemes"):
        load_manifest(out)


@pytest.mark.parametrize("name", CONV_TEMPLATES)
def test_conversation_templates_render(name: str) -> None:
    """Every message's text is in the prompt, in order."""
    template = MlcTemplate(CONV_TEMPLATES[name])
    words = ["be-brief", "question-one", "answer-one", "question-two"]
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]
    if name == "chatml_nosystem":
        messages, words = messages[1:], words[1:]
    text = template.render(messages)
    places = [text.index(word) for word in words]
    assert places == sorted(places)


def test_chatml_and_llama3_texts() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert MlcTemplate(CONV_TEMPLATES["chatml"]).render(messages) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    assert MlcTemplate(CONV_TEMPLATES["llama-3"]).render(messages) == (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_template_is_guessed_from_its_markers() -> None:
    assert guess_conv_template("{{'<|im_start|>'}}") == "chatml"
    assert guess_conv_template("<|start_header_id|>") == "llama-3"
    assert guess_conv_template("[INST] {{x}} [/INST]") == "mistral_default"
    assert guess_conv_template(None) == "LM"


def test_command_line_converts_and_configures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    gguf = write_gguf(tmp_path / "m.gguf", config, random_weights(config))
    out = tmp_path / "dist" / "m-q4f16_1"
    assert main(["convert_weight", str(gguf), "--quantization", "q4f16_1", "-o", str(out)]) == 0
    assert "9 x q4_z7" in capsys.readouterr().out
    arguments = ["--conv-template", "LM", "--context-window-size", "55", "--output", str(out)]
    assert main(["gen_config", str(gguf), "--quantization", "q4f16_1", *arguments]) == 0
    manifest = load_manifest(out)
    assert manifest.model.context_window_size == 55
    assert manifest.chat_config["conv_template"]["name"] == "LM"


def test_command_line_errors_are_three_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    gguf = write_gguf(tmp_path / "m.gguf", config, random_weights(config))
    out = str(tmp_path / "o")
    for arguments in (
        ["convert_weight", str(tmp_path), "-o", out, "--quantization", "q9"],
        ["convert_weight", str(gguf), "-o", out, "--conv-template", "nobody"],
        ["convert_weight", str(gguf)],
        ["gen_config", str(gguf), "-o", out, "--context-window-size", "0"],
        ["gen_config", str(gguf), "-o", str(gguf)],
        ["compile", str(gguf)],
    ):
        assert main(arguments) == 2, arguments
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert [line.split(":")[0] for line in lines[-3:]] == ["error", "seen", "try"], captured.err


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    """Opening maps the file; a wrong name is refused before any work."""
    config = tiny_config()
    model = open_gguf(write_gguf(tmp_path / "m.gguf", config, random_weights(config)))
    assert model.weights.native_scheme("model.embed_tokens") == "f32"
    assert model.default_quantization == "gguf"
