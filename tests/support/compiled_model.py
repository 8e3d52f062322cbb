"""Runs a compiled model library from Python: the runner's twin, for tests of kernels and models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mlc_server.build.manifest import Manifest
from mlc_server.build.tensor_files import TensorReader

SPLIT = 256


@dataclass
class Chunk:
    """Some next tokens of sequence `sequence`, and for which of them logits are wanted."""

    sequence: int
    token_ids: Sequence[int]
    logits_of: Sequence[int] = field(default_factory=lambda: [-1])


class CompiledModel:
    """A library with packed weights and KV pages; sequences own scattered pages."""

    def __init__(self, library: Path, manifest: Manifest, num_pages: int = 64) -> None:
        self.module = tvm.runtime.load_module(str(library))
        self.machine = relax.VirtualMachine(self.module, tvm.cpu())
        self.metadata: dict[str, Any] = json.loads(self.machine["metadata"]())
        self.page_size = self.metadata["kv"]["page_size"]
        sizes = {"num_pages": num_pages}
        shape = [sizes.get(n, self.metadata.get(n, n)) for n in self.metadata["kv"]["shape"]]
        self.kv = tvm.runtime.tensor(np.zeros(shape, "float16"))
        self.weights = tvm.runtime.tensor(self._pack(manifest))
        # Pages in an order that no sequence could have by accident.
        self.free_pages = list(np.random.default_rng(5).permutation(num_pages))
        self.pages: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def _pack(self, manifest: Manifest) -> np.ndarray:
        reader = TensorReader(manifest.folder, manifest.tensors)
        weights = self.metadata["weights"]
        arena = np.full(weights["arena_bytes"], 0xAA, "uint8")
        for entry in weights["entries"]:
            sources = [np.ascontiguousarray(reader.read(name)) for name in entry["sources"]]
            shapes = [list(source.shape) for source in sources]
            assert shapes == [list(s) for s in entry["source_shapes"]], entry
            assert [str(s.dtype) for s in sources] == entry["source_dtypes"], entry
            packed = tvm.runtime.tensor(np.zeros(entry["nbytes"], "uint8"))
            pack = self.module.get_function(entry["pack"], query_imports=True)
            pack(*[tvm.runtime.tensor(source) for source in sources], packed)
            begin = entry["offset"]
            assert begin % weights["alignment"] == 0
            assert (arena[begin : begin + entry["nbytes"]] == 0xAA).all(), "entries overlap"
            arena[begin : begin + entry["nbytes"]] = packed.numpy()
        return arena

    def release(self, sequence: int) -> None:
        self.free_pages += self.pages.pop(sequence, [])
        self.lengths.pop(sequence, None)

    def step(self, chunks: Sequence[Chunk], *, split_decodes: bool = False) -> np.ndarray:
        """Runs one step; logits f32 [sum of len(logits_of), vocab_size] in order."""
        tables: dict[str, list[Any]] = {name: [] for name in ("ids", "positions", "slots")}
        page_offsets, page_table, logit_rows = [0], [], []
        items, combines = [], []
        for index, chunk in enumerate(chunks):
            first_row, rows = len(tables["ids"]), len(chunk.token_ids)
            past = self.lengths.get(chunk.sequence, 0)
            pages = self.pages.setdefault(chunk.sequence, [])
            while len(pages) * self.page_size < past + rows:
                pages.append(int(self.free_pages.pop()))
            positions = range(past, past + rows)
            tables["ids"] += chunk.token_ids
            tables["positions"] += positions
            tables["slots"] += [
                pages[p // self.page_size] * self.page_size + p % self.page_size for p in positions
            ]
            page_table += pages
            page_offsets.append(len(page_table))
            logit_rows += [first_row + i % rows for i in chunk.logits_of]
            self.lengths[chunk.sequence] = past + rows
            splits = past // SPLIT + 1
            if rows == 1 and split_decodes and splits > 1:
                combines.append((first_row, len(items), splits))
                items += [(index, first_row, 1, split) for split in range(splits)]
                continue
            for begin in range(0, rows, 16):
                items.append((index, first_row + begin, min(16, rows - begin), -1))
        arrays = [
            tables["ids"],
            tables["positions"],
            tables["slots"],
            page_offsets,
            page_table,
            items,
            combines or [(-1, 0, 0)],
            logit_rows,
        ]
        tensors = [tvm.runtime.tensor(np.asarray(a, dtype="int32")) for a in arrays]
        return self.machine["forward"](*tensors, self.kv, self.weights).numpy()
