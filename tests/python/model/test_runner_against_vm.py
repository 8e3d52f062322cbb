"""The C++ runner computes bit for bit what TVM's own virtual machine does from Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from tvm import relax

from mlc_server import _core
from mlc_server.build.compile import compile_library
from mlc_server.build.manifest import Manifest, load_manifest
from support.tiny_model import write_tiny_model
from support.toy_library import Step, tvm_runtime_path

NUM_PAGES = 128
PAGE_SIZE = 16
SPLIT = 256
ITEM_ROWS = 16


@dataclass(frozen=True)
class Model:
    manifest: Manifest
    library: Path

    def runner(self, num_threads: int) -> Any:
        folder = str(self.manifest.folder)
        runner = _core.TvmRunner(
            str(self.library), folder, num_threads, tvm_library_path=tvm_runtime_path()
        )
        runner.allocate_kv(NUM_PAGES)
        return runner


@pytest.fixture(scope="module", params=["q4_min", "q4f32_1"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny Llama; q4f32_1 keeps its scales and norms as bfloat16 on disk."""
    root = tmp_path_factory.mktemp("tiny")
    manifest = load_manifest(write_tiny_model(root / "model", request.param))
    compile_library(manifest, "auto", root / "library.so")
    return Model(manifest, root / "library.so")


def read_tensor(manifest: Manifest, name: str) -> npt.NDArray[Any]:
    """A tensor of the folder; float32 kept as bfloat16 is widened."""
    record = manifest.tensors[name]
    data = (manifest.folder / record.shard).read_bytes()
    data = data[record.byte_offset : record.byte_offset + record.nbytes]
    if record.dtype == "float32" and record.nbytes == 2 * int(np.prod(record.shape)):
        narrowed = np.frombuffer(data, np.uint16).astype(np.uint32)
        return (narrowed << 16).view(np.float32).reshape(record.shape)
    return np.frombuffer(data, record.dtype).reshape(record.shape)


class VirtualMachine:
    """The same library driven from Python, with whole attention items only."""

    def __init__(self, model: Model) -> None:
        module = tvm.runtime.load_module(str(model.library))
        self._machine = relax.VirtualMachine(module, tvm.cpu())
        metadata = json.loads(self._machine["metadata"]())
        arena = np.zeros(metadata["weights"]["arena_bytes"], np.uint8)
        for entry in metadata["weights"]["entries"]:
            sources = [tvm.runtime.tensor(read_tensor(model.manifest, n)) for n in entry["sources"]]
            packed = tvm.runtime.tensor(np.zeros(entry["nbytes"], np.uint8))
            module.get_function(entry["pack"], query_imports=True)(*sources, packed)
            offset = entry["offset"]
            arena[offset : offset + entry["nbytes"]] = packed.numpy()
        shape = (
            metadata["num_layers"],
            NUM_PAGES,
            metadata["num_kv_heads"],
            2,
            PAGE_SIZE * metadata["head_dim"],
        )
        self._weights = tvm.runtime.tensor(arena)
        self._kv = tvm.runtime.tensor(np.zeros(shape, np.float16))

    def run(self, step: Step) -> npt.NDArray[np.float32]:
        items = [
            (b, row, min(ITEM_ROWS, last - row), -1)
            for b, (first, last) in enumerate(
                zip(step.query_offsets[:-1], step.query_offsets[1:], strict=True)
            )
            for row in range(first, last, ITEM_ROWS)
        ]
        tables: Sequence[Any] = (
            step.token_ids,
            step.positions,
            step.write_slots,
            step.page_offsets,
            step.page_table,
            items,
            [(-1, 0, 0)],
            step.logit_rows,
        )
        tensors = [tvm.runtime.tensor(np.asarray(table, np.int32)) for table in tables]
        logits: npt.NDArray[np.float32] = self._machine["forward"](
            *tensors, self._kv, self._weights
        ).numpy()
        return logits


@dataclass
class Conversation:
    """Sequences that grow step by step on scattered pages."""

    rng: np.random.Generator
    vocab_size: int
    lengths: dict[int, int] = field(default_factory=dict)
    pages: dict[int, list[int]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = [int(page) for page in self.rng.permutation(NUM_PAGES)]

    def step(self, rows: dict[int, int]) -> Step:
        """`rows`: sequence -> tokens to append. Logits of every sequence's last row."""
        tokens, positions, slots, table = list[int](), list[int](), list[int](), list[int]()
        query_offsets, page_offsets = [0], [0]
        for sequence, count in rows.items():
            length = self.lengths.get(sequence, 0)
            pages = self.pages.setdefault(sequence, [])
            while len(pages) * PAGE_SIZE < length + count:
                pages.append(self.free.pop())
            added = range(length, length + count)
            tokens += [int(token) for token in self.rng.integers(0, self.vocab_size, count)]
            positions += added
            slots += [pages[p // PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE for p in added]
            table += pages
            query_offsets.append(len(tokens))
            page_offsets.append(len(table))
            self.lengths[sequence] = length + count
        last_rows = [offset - 1 for offset in query_offsets[1:]]
        return Step(tokens, positions, slots, query_offsets, page_offsets, table, last_rows)


def conversation_steps(vocab_size: int) -> list[Step]:
    """Prefills, chunks of a long prompt, decodes, and mixtures of them."""
    talk = Conversation(np.random.default_rng(5), vocab_size)
    plans: list[dict[int, int]] = [
        {0: 1},
        {0: 1, 1: 20},
        {2: 300, 0: 1},
        {2: 261, 1: 1},
        {2: 1},
        {0: 1, 1: 1, 2: 1},
        {3: 7, 2: 1},
        {2: 1, 3: 2},
    ]
    return [talk.step(plan) for plan in plans]


def test_runner_and_virtual_machine_agree_to_the_bit(model: Model) -> None:
    runner, machine = model.runner(2), VirtualMachine(model)
    for step in conversation_steps(model.manifest.model.vocab_size):
        logits = step.run(runner)
        assert np.isfinite(logits).all()
        np.testing.assert_array_equal(logits, machine.run(step))


def test_a_sequence_goes_on_in_a_copy_of_its_page(model: Model) -> None:
    runner = model.runner(2)
    prompt = list(range(1, 22))
    slots = [48 + p if p < PAGE_SIZE else 144 + p - PAGE_SIZE for p in range(21)]
    Step(prompt, list(range(21)), slots, [0, 21], [0, 2], [3, 9], [20]).run(runner)
    copied = Step([7], [21], [85], [0, 1], [0, 2], [3, 5], [0], page_copies=[9, 5]).run(runner)
    np.testing.assert_array_equal(
        copied, Step([7], [21], [149], [0, 1], [0, 2], [3, 9], [0]).run(runner)
    )


def test_threads_and_splits_change_nothing(model: Model) -> None:
    """One thread never splits a row's attention, many do: the logits are the same to the bit."""
    steps = conversation_steps(model.manifest.model.vocab_size)
    assert max(max(step.positions) for step in steps) > 2 * SPLIT
    alone = model.runner(1)
    expected = [step.run(alone) for step in steps]
    for num_threads in (2, 5):
        runner = model.runner(num_threads)
        for step, logits in zip(steps, expected, strict=True):
            np.testing.assert_array_equal(step.run(runner), logits)
