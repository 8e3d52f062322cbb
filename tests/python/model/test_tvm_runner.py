"""The C++ runner on a toy library: what reaches the kernels, what is refused, where it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_server import _core
from support.heap import heap_growth
from support.toy_library import (
    ARENA_BYTES,
    PAGE_SIZE,
    POISON_TOKEN,
    VOCAB,
    Step,
    build_toy_library,
    expected_logits,
    toy_metadata,
    tvm_runtime_path,
    write_toy_folder,
)

NUM_PAGES = 32


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_toy_library(tmp_path_factory.mktemp("library") / "toy.so")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_folder(tmp_path / "model")


def load(library: Path, folder: Path, num_threads: int = 2, **options: Any) -> Any:
    return _core.TvmRunner(
        str(library), str(folder), num_threads, tvm_library_path=tvm_runtime_path(), **options
    )


def load_error(library: Path, folder: Path) -> Any:
    with pytest.raises(_core.CoreError) as caught:
        load(library, folder)
    return caught.value


def random_step(rng: np.random.Generator) -> tuple[Step, list[tuple[int, int, int, int]]]:
    """One to four short sequences on pages of their own, and the plan of whole items they need."""
    pages = rng.permutation(NUM_PAGES)
    tables: dict[str, list[int]] = {
        name: [] for name in ("token_ids", "positions", "write_slots", "page_table")
    }
    offsets, page_offsets, items = [0], [0], []
    for sequence in range(int(rng.integers(1, 5))):
        past, rows = int(rng.integers(0, 40)), int(rng.integers(1, 14))
        count = -(-(past + rows) // PAGE_SIZE)
        own = [int(page) for page in pages[page_offsets[-1] : page_offsets[-1] + count]]
        positions = list(range(past, past + rows))
        tables["token_ids"] += [int(token) for token in rng.integers(0, POISON_TOKEN, rows)]
        tables["positions"] += positions
        tables["write_slots"] += [
            own[p // PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE for p in positions
        ]
        tables["page_table"] += own
        items.append((sequence, offsets[-1], rows, -1))
        offsets.append(offsets[-1] + rows)
        page_offsets.append(page_offsets[-1] + count)
    logit_rows = sorted({int(row) for row in rng.integers(0, offsets[-1], 3)})
    copies = [int(page) for page in rng.integers(0, NUM_PAGES, 2 * int(rng.integers(0, 4)))]
    step = Step(
        **tables,
        query_offsets=offsets,
        page_offsets=page_offsets,
        logit_rows=logit_rows,
        page_copies=copies,
    )
    return step, items


ONE_TOKEN = Step([1], [0], [0], [0, 1], [0, 1], [0], [0])
SIXTEEN_LOGITS = Step(
    [1] * 16, list(range(16)), list(range(16)), [0, 16], [0, 1], [0], list(range(16))
)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_table_reaches_the_kernels(library: Path, folder: Path, num_threads: int) -> None:
    """Over steps of changing shape, with KV that stays: exact sums of all arguments."""
    runner = load(library, folder, num_threads)
    runner.allocate_kv(NUM_PAGES)
    rng = np.random.default_rng(num_threads)
    slots = np.zeros(NUM_PAGES * PAGE_SIZE, np.int64)
    for _ in range(20):
        step, items = random_step(rng)
        logits = step.run(runner)
        expected = expected_logits(step, slots, items, [(-1, 0, 0)])
        np.testing.assert_array_equal(logits[:, 1:], expected[:, 1:])


@pytest.mark.skipif(_core.heap_bytes() == 0, reason="the C library does not tell")
def test_logits_lie_where_those_of_the_last_step_did(library: Path, folder: Path) -> None:
    """TVM's memory comes in pages, which a second buffer would show as."""
    runners = [load(library, folder) for _ in range(3)]
    for runner in runners:
        runner.allocate_kv(NUM_PAGES)
        SIXTEEN_LOGITS.run(runner)

    def three_more_steps(index: int) -> None:
        for _ in range(3):
            SIXTEEN_LOGITS.run(runners[index])

    assert abs(heap_growth(three_more_steps, len(runners))) < 4096


def test_long_decode_is_split(library: Path, folder: Path) -> None:
    """300 tokens of context on two threads: two items of one split each, one combination."""
    runner = load(library, folder)
    runner.allocate_kv(NUM_PAGES)
    pages = list(range(19))
    step = Step([3], [299], [18 * PAGE_SIZE + 11], [0, 1], [0, 19], pages, [0])
    expected = expected_logits(
        step,
        np.zeros(NUM_PAGES * PAGE_SIZE, np.int64),
        [(0, 0, 1, 0), (0, 0, 1, 1)],
        [(0, 0, 2)],
    )
    np.testing.assert_array_equal(step.run(runner)[:, 1:], expected[:, 1:])


def test_new_pages_are_empty_and_take_the_place_of_the_old(library: Path, folder: Path) -> None:
    runner = load(library, folder)
    runner.allocate_kv(NUM_PAGES)
    SIXTEEN_LOGITS.run(runner)
    runner.allocate_kv(1)
    expected = expected_logits(
        ONE_TOKEN, np.zeros(PAGE_SIZE, np.int64), [(0, 0, 1, -1)], [(-1, 0, 0)]
    )
    np.testing.assert_array_equal(ONE_TOKEN.run(runner)[:, 1:], expected[:, 1:])
    with pytest.raises(_core.CoreError, match=r"\[0, 1\)"):
        Step([1], [0], [PAGE_SIZE], [0, 1], [0, 1], [1], [0]).run(runner)


def thread_ids() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def test_regions_run_on_the_pool_of_the_core(library: Path, folder: Path) -> None:
    """Tasks are shared by the caller and num_threads - 1 workers that exist from loading on."""
    before = thread_ids()
    runner = load(library, folder, 3)
    workers = thread_ids() - before
    assert len(workers) == 2
    runner.allocate_kv(1)
    used: set[int] = set()
    for _ in range(20):
        used |= {int(thread) for thread in SIXTEEN_LOGITS.run(runner)[:, 0]}
    assert used & workers
    assert used <= workers | before
    assert len(used - workers) <= 1  # the caller
    del runner
    assert not workers & thread_ids()


def test_one_thread_is_the_caller(library: Path, folder: Path) -> None:
    runner = load(library, folder, 1)
    runner.allocate_kv(1)
    assert len(set(SIXTEEN_LOGITS.run(runner)[:, 0])) == 1


@pytest.mark.parametrize("num_threads", [1, 3])
def test_failing_kernel_is_an_error_with_its_message(
    library: Path, folder: Path, num_threads: int
) -> None:
    """Whichever thread the kernel fails on, and the runner still runs after it."""
    runner = load(library, folder, num_threads)
    runner.allocate_kv(NUM_PAGES)
    rows = 64
    poisoned = Step(
        [POISON_TOKEN if row >= 8 else 1 for row in range(rows)],
        list(range(rows)),
        list(range(rows)),
        [0, rows],
        [0, rows // PAGE_SIZE],
        list(range(rows // PAGE_SIZE)),
        [0],
    )
    for _ in range(5):
        with pytest.raises(RuntimeError, match="the toy was poisoned"):
            poisoned.run(runner)
    ONE_TOKEN.run(runner)


def test_progress_counts_bytes_of_the_folder(library: Path, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    runner = load(library, folder, progress=lambda done, total: seen.append((done, total)))
    total = VOCAB + 2 * VOCAB
    assert seen == [(VOCAB, total), (total, total)]
    assert runner.info.weight_bytes == ARENA_BYTES
    assert json.loads(runner.metadata_json) == toy_metadata()


def test_memory_stays_where_it_is(library: Path, folder: Path) -> None:
    """Steps of changing size keep no memory behind."""
    runner = load(library, folder)
    runner.allocate_kv(NUM_PAGES)
    rng = np.random.default_rng(0)
    steps = [random_step(rng)[0] for _ in range(20)]

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    for step in steps:
        step.run(runner)
    before = resident_bytes()
    for _ in range(10):
        for step in steps:
            step.run(runner)
    assert resident_bytes() - before < 1 << 20


def test_kv_beyond_memory_is_refused_naming_both(library: Path, folder: Path) -> None:
    runner = load(library, folder)
    pages = 1 << 26
    with pytest.raises(_core.CoreError) as caught:
        runner.allocate_kv(pages)
    assert caught.value.code == "resource_exhausted"
    assert f"needs {pages * runner.info.bytes_per_page} bytes" in caught.value.message
    assert "are available" in caught.value.message
    with pytest.raises(_core.CoreError, match="num_pages must be 1 to"):
        runner.allocate_kv(0)
    runner.allocate_kv(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abi": 2}, "metadata.abi is 2, this program needs 1"),
        ({"kv__page_size": 32}, "metadata.kv.page_size is 32, this program needs 16"),
        ({"kv__bytes_per_page": 1025}, "bytes_per_page is 1025"),
        ({"vocab_size": 9}, "model_config.vocab_size is 8, .* was compiled for 9"),
        ({"weights__entries": [{}]}, r"entries\[0\].name is missing"),
    ],
)
def test_library_that_does_not_fit_is_refused(
    tmp_path: Path, folder: Path, change: dict[str, Any], message: str
) -> None:
    library = build_toy_library(tmp_path / "other.so", toy_metadata(**change))
    error = load_error(library, folder)
    assert error.code == "incompatible"
    assert re.search(message, error.message)


def test_entries_that_do_not_fit_are_refused(tmp_path: Path, folder: Path) -> None:
    metadata = toy_metadata()
    entry = metadata["weights"]["entries"][0]
    entry["source_shapes"] = [[VOCAB + 1]]
    library = build_toy_library(tmp_path / "shape.so", metadata)
    assert (
        "bias is int8 [8], the model library needs int8 [9]" in load_error(library, folder).message
    )
    entry["source_shapes"] = [[VOCAB]]
    entry["pack"] = "pack_nothing"
    library = build_toy_library(tmp_path / "pack.so", metadata)
    assert 'no function "pack_nothing"' in load_error(library, folder).message
    # The library's own check of its arguments: four bytes cannot hold the packed bias.
    entry["pack"] = "pack_bias"
    entry["nbytes"] = 4
    library = build_toy_library(tmp_path / "size.so", metadata)
    assert "pack_bias" in load_error(library, folder).message


def test_missing_and_foreign_files_are_named(library: Path, folder: Path, tmp_path: Path) -> None:
    error = load_error(tmp_path / "absent.so", folder)
    assert (error.code, error.message) == (
        "not_found",
        f"no model library at {tmp_path / 'absent.so'}",
    )
    text = tmp_path / "text.so"
    text.write_text("no library")
    assert load_error(text, folder).code == "incompatible"
    other = load_error(Path(tvm_runtime_path()), folder)
    assert other.code == "incompatible"
    assert 'no function "vm_load_executable"' in other.message

    (folder / "params_shard_0.bin").write_bytes(b"short")
    assert "has 5 bytes, the index says 25" in load_error(library, folder).message
    (folder / "params_shard_0.bin").unlink()
    assert load_error(library, folder).code == "not_found"
    (folder / "mlc-chat-config.json").write_text("[]")
    assert "expected an object" in load_error(library, folder).message


def test_threads_must_be_positive(library: Path, folder: Path) -> None:
    with pytest.raises(_core.CoreError, match="num_threads must be at least 1, got 0"):
        load(library, folder, 0)


def test_runs_without_importing_tvm(library: Path, folder: Path) -> None:
    """Serving needs TVM's runtime library only, and another file in its place is refused."""
    script = """
import sys
import numpy as np
from mlc_server import _core

library, folder, runtime = sys.argv[1:]
try:
    _core.TvmRunner(library, folder, 2, tvm_library_path="/nonexistent/libtvm_runtime.so")
except _core.CoreError as error:
    assert error.code == "not_found" and "/nonexistent/libtvm_runtime.so" in error.message, error
else:
    raise AssertionError("a missing runtime was accepted")
runner = _core.TvmRunner(library, folder, 2, tvm_library_path=runtime)
runner.allocate_kv(1)
one, bounds = np.zeros(1, np.int32), np.array([0, 1], np.int32)
logits = runner.forward(one, one, one, bounds, bounds, one, one)
assert logits.shape == (1, 8), logits.shape
assert "tvm" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script, str(library), str(folder), tvm_runtime_path()],
        check=True,
        timeout=60,
    )
