"""Compiled libraries against the NumPy Llama; batch invariance, bit for bit; the cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlc_server.build import compile as compile_module
from mlc_server.build.compile import compile_library, library_for, library_key
from mlc_server.build.kernels.cpu.isa import restrict_target
from mlc_server.build.manifest import Manifest, load_manifest
from mlc_server.build.targets import CompileTarget, resolve_target
from mlc_server.errors import CompileError
from support.compiled_model import Chunk, CompiledModel
from support.reference_llama import ReferenceLlama
from support.tiny_model import write_tiny_model

VOCAB = 320

# Largest error of a logit (their standard deviation is 1). f16, f32: K and V are kept as f16.
# Others: activations are int8, and 64 of them are few to average over.
FLOAT_ERROR = 0.006
INT8_ERROR = 0.25

Factory = Callable[..., tuple[CompiledModel, ReferenceLlama]]


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, count)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Compiles each tiny model once; sequences of earlier tests are forgotten."""
    cache: dict[str, tuple[CompiledModel, ReferenceLlama]] = {}

    def make(scheme: str, **changes: object) -> tuple[CompiledModel, ReferenceLlama]:
        key = repr((scheme, sorted(changes.items())))
        if key not in cache:
            folder = tmp_path_factory.mktemp("model")
            manifest = load_manifest(write_tiny_model(folder / "m", scheme, **changes))  # type: ignore[arg-type]
            library = folder / "library.so"
            compile_library(manifest, "auto", library)
            reference = ReferenceLlama.from_manifest(manifest)
            cache[key] = (CompiledModel(library, manifest), reference)
        model = cache[key][0]
        for sequence in list(model.pages):
            model.release(sequence)
        return cache[key]

    return make


def check_logits(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * expected.std())
    correlation = np.corrcoef(actual.ravel(), expected.ravel())[0, 1]
    assert correlation > 1 - tolerance**2, correlation


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [
        ("f32", FLOAT_ERROR),
        ("q4_min", INT8_ERROR),
        pytest.param("f16", FLOAT_ERROR, marks=pytest.mark.slow),
        pytest.param("q8", INT8_ERROR, marks=pytest.mark.slow),
        pytest.param("q4_z8", INT8_ERROR, marks=pytest.mark.slow),
        pytest.param("q4f16_1", INT8_ERROR, marks=pytest.mark.slow),
        pytest.param("q4f32_1", INT8_ERROR, marks=pytest.mark.slow),
    ],
)
def test_prefill_and_decode_match_the_reference(
    compiled: Factory, scheme: str, tolerance: float
) -> None:
    model, reference = compiled(scheme)
    ids = tokens(40)
    expected = reference.forward(ids)
    prefill = model.step([Chunk(0, ids[:30], range(30))])
    check_logits(prefill, expected[:30], tolerance)
    decoded = np.concatenate([model.step([Chunk(0, [token])]) for token in ids[30:]])
    check_logits(decoded, expected[30:], tolerance)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        pytest.param(
            {"head_dim": 80, "num_q_heads": 2, "num_kv_heads": 2},
            FLOAT_ERROR,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            FLOAT_ERROR,
            marks=pytest.mark.slow,
        ),
        (
            {
                "attention_bias": True,
                "tie_word_embeddings": False,
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
            FLOAT_ERROR,
        ),
    ],
    ids=["head_dim80", "rope_linear", "bias_untied_llama3"],
)
def test_variants_of_the_network_match_the_reference(
    compiled: Factory, changes: dict[str, object], tolerance: float
) -> None:
    model, reference = compiled("f32", **changes)
    ids = tokens(50)
    check_logits(model.step([Chunk(0, ids, range(50))]), reference.forward(ids), tolerance)


def test_schemes_may_differ_from_tensor_to_tensor(compiled: Factory) -> None:
    overrides = {
        "model.layers.0.self_attn.o_proj": "f16",
        "model.layers.0.mlp.gate_up_proj": "f32",
        "model.layers.1.self_attn.qkv_proj": "q8",
        "model.layers.1.mlp.down_proj": "f16",
    }
    model, reference = compiled("q4_min", embed_scheme="q8", scheme_overrides=overrides)
    ids = tokens(20)
    check_logits(model.step([Chunk(0, ids, range(20))]), reference.forward(ids), INT8_ERROR)


@pytest.mark.slow
def test_partial_groups_of_the_mlp_match_the_reference(compiled: Factory) -> None:
    model, reference = compiled("q4_min", intermediate_size=176)
    ids = tokens(20)
    check_logits(model.step([Chunk(0, ids, range(20))]), reference.forward(ids), INT8_ERROR)


@pytest.mark.parametrize("changes", [{"head_dim": 24}, {"hidden_size": 80}])
def test_sizes_no_kernel_takes_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    manifest = load_manifest(write_tiny_model(tmp_path / "m", "f32", **changes))  # type: ignore[arg-type]
    with pytest.raises(CompileError) as error:
        compile_library(manifest, "auto", tmp_path / "library.so")
    assert str(next(iter(changes.values()))) in error.value.seen
    assert not (tmp_path / "library.so").exists()


@pytest.mark.slow
def test_quantised_heads_that_straddle_groups_match_the_reference(compiled: Factory) -> None:
    model, reference = compiled("q8", head_dim=48, num_q_heads=2, num_kv_heads=1)
    ids = tokens(20)
    check_logits(model.step([Chunk(0, ids, range(20))]), reference.forward(ids), INT8_ERROR)


@pytest.mark.parametrize("scheme", ["q4_min", pytest.param("f16", marks=pytest.mark.slow)])
def test_a_row_is_the_same_alone_chunked_and_in_any_batch(compiled: Factory, scheme: str) -> None:
    """Bit for bit, over a context of three attention splits."""
    model, _ = compiled(scheme)
    long, short = tokens(540, seed=1), tokens(9, seed=2)
    skipped = 40  # a step gives at most 512 rows of logits
    alone_long = np.full((len(long), VOCAB), np.nan, "float32")
    alone_long[skipped:] = model.step([Chunk(0, long, range(skipped, len(long)))])
    alone_short = model.step([Chunk(1, short, range(len(short)))])
    for sequence in (0, 1):
        model.release(sequence)

    def check(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
        np.testing.assert_array_equal(actual, expected, err_msg=what)

    pieces = [long[begin : begin + 37] for begin in range(0, 518, 37)]
    chunked = np.concatenate([model.step([Chunk(2, p, range(len(p)))]) for p in pieces])
    check(chunked[skipped:], alone_long[skipped:518], "chunks of 37")
    for position in range(518, 522):
        one = model.step([Chunk(2, [long[position]])], split_decodes=True)
        check(one, alone_long[position : position + 1], "decode in splits")
    mixed = model.step(
        [
            Chunk(3, short, range(9)),
            Chunk(2, [long[522]]),
            Chunk(4, long[:300], [-1]),
            Chunk(5, short[:1]),
        ],
        split_decodes=True,
    )
    expected = [alone_short, alone_long[522:523], alone_long[299:300], alone_short[:1]]
    check(mixed, np.concatenate(expected), "mixed batch")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["avx2", "portable"])
def test_every_level_computes_the_same_logits(
    compiled: Factory, tmp_path: Path, level: str
) -> None:
    model, _ = compiled("q4_min")
    ids = tokens(30)
    expected = model.step([Chunk(0, ids, range(30))])
    manifest = load_manifest(write_tiny_model(tmp_path / "m", "q4_min"))
    target = restrict_target(resolve_target("auto").target, level)
    library = tmp_path / "library.so"
    compile_library(manifest, CompileTarget(target, f"llvm {level}", level), library)
    other = CompiledModel(library, manifest)
    assert other.metadata["feature_level"] == level
    np.testing.assert_array_equal(other.step([Chunk(0, ids, range(30))]), expected)


@pytest.mark.slow
def test_layers_share_kernels(tmp_path: Path) -> None:
    """A layer costs some calls and metadata, not code: its kernels alone are over 50 kB."""
    sizes = {}
    for layers in (1, 5):
        manifest = load_manifest(write_tiny_model(tmp_path / str(layers), num_layers=layers))
        library = tmp_path / f"{layers}.so"
        compile_library(manifest, "auto", library)
        sizes[layers] = library.stat().st_size
    assert sizes[5] - sizes[1] < 4 * 12_000, sizes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(write_tiny_model(tmp_path_factory.mktemp("cache") / "m", "f32"))


def test_metadata_states_layout_and_limits(compiled: Factory) -> None:
    model, _ = compiled("f32")
    metadata = model.metadata
    assert metadata["abi"] == 1
    assert metadata["format"] == "mlc_server-model-library"
    assert metadata["kv"] == {
        "dtype": "float16",
        "page_size": 16,
        "shape": ["num_layers", "num_pages", "num_kv_heads", 2, 16 * 32],
        "bytes_per_page": 2 * 2 * 2 * 16 * 32 * 2,
    }
    assert metadata["limits"]["max_rows"] == 2048
    names = [entry["name"] for entry in metadata["weights"]["entries"]]
    assert names.count("model.embed_tokens") == 1
    assert "lm_head" not in names


def test_a_cached_library_is_found_without_tvm(tiny: Manifest, tmp_path: Path) -> None:
    path = library_for(tiny, "auto", tmp_path)
    modified = path.stat().st_mtime_ns
    code = (
        "import sys; from pathlib import Path;"
        "from mlc_server.build.compile import library_for;"
        "from mlc_server.build.manifest import load_manifest;"
        "manifest = load_manifest(Path(sys.argv[1]));"
        "print(library_for(manifest, 'auto', Path(sys.argv[2])));"
        "sys.exit('tvm' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tiny.folder), str(tmp_path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == path
    assert path.stat().st_mtime_ns == modified
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "temporary files were left"


def test_the_key_follows_everything_that_shapes_the_library(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        library_key(tiny, "auto"),
        library_key(tiny, "znver4"),
        library_key(replace(tiny, model=replace(tiny.model, rope_theta=5e5)), "auto"),
        library_key(replace(tiny, schemes={**tiny.schemes, "model.embed_tokens": "q8"}), "auto"),
    }
    monkeypatch.setattr(compile_module, "_sources_hash", lambda: "edited")
    keys.add(library_key(tiny, "auto"))
    assert len(keys) == 5
    assert library_key(tiny, "auto") == library_key(replace(tiny, folder=tmp_path), "auto")


def test_no_linker_is_three_lines(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompileError) as error:
        compile_library(tiny, "auto", tmp_path / "library.so")
    assert "g++" in error.value.seen
    assert not list(tmp_path.iterdir())


def test_a_failing_linker_leaves_nothing_behind(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(shutil.which("false")))
    with pytest.raises(CompileError) as error:
        compile_library(tiny, "auto", tmp_path / "library.so")
    assert "false" in error.value.hint
    assert not list(tmp_path.iterdir())


def test_a_step_beyond_the_limits_is_refused(compiled: Factory) -> None:
    """The runner keeps to the limits; the library does not write past them if it does not."""
    model, _ = compiled("f32")
    limit = model.metadata["limits"]["max_logit_rows"]
    with pytest.raises(RuntimeError, match="storage"):
        model.step([Chunk(0, tokens(limit + 1), range(limit + 1))])


def test_progress_reaches_its_total(tiny: Manifest, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    compile_library(
        tiny, "auto", tmp_path / "l.so", lambda _, done, total: steps.append((done, total))
    )
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1]
    assert json.dumps(steps)
