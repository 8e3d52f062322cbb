"""A model library of the right ABI that computes no model, and a model folder it fits.

Its logits are sums over everything `forward` is given, so that a table, a weight or a KV page that
arrives wrong shows. What it computes is `expected_logits`, in NumPy.
"""

# No `from __future__ import annotations`: TVMScript evaluates the annotations of its functions.
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, tirx
from tvm.script import tirx as T

VOCAB = 8
NUM_LAYERS, NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE = 2, 1, 8, 16
PAGE_VALUES = PAGE_SIZE * HEAD_DIM
# A token that makes the kernel fail.
POISON_TOKEN = 7
ARENA_BYTES = 128  # "bias" at 0 and "scale" at 64
BIAS = np.arange(1, VOCAB + 1, dtype=np.int8)
SCALE = np.array([2, 3, 5, 7, 11, 13, 17, 19], dtype=np.float32)


@T.prim_func(s_tir=True)
def pack_bias(source: T.handle, target: T.handle) -> None:
    """bias + 1, as bytes."""
    T.func_attr({"global_symbol": "pack_bias", "tirx.noalias": True, "tirx.is_scheduled": True})
    src = T.match_buffer(source, (VOCAB,), "int8")
    dst = T.match_buffer(target, (VOCAB,), "uint8")
    for i in T.parallel(VOCAB):
        dst[i] = T.Cast("uint8", src[i] + T.int8(1))


@T.prim_func(s_tir=True)
def pack_scale(source: T.handle, target: T.handle) -> None:
    """Small whole numbers, as bytes."""
    T.func_attr({"global_symbol": "pack_scale", "tirx.noalias": True, "tirx.is_scheduled": True})
    src = T.match_buffer(source, (VOCAB,), "float32")
    dst = T.match_buffer(target, (VOCAB,), "uint8")
    for i in T.parallel(VOCAB):
        dst[i] = T.Cast("uint8", src[i])


@T.prim_func(s_tir=True)
def toy_kernel(
    token_ids_handle: T.handle,
    positions_handle: T.handle,
    write_slots_handle: T.handle,
    page_offsets_handle: T.handle,
    page_table_handle: T.handle,
    items_handle: T.handle,
    combines_handle: T.handle,
    logit_rows_handle: T.handle,
    kv_handle: T.handle,
    weights_handle: T.handle,
    logits_handle: T.handle,
) -> None:
    """Writes the rows' tokens into KV, then one sum for each logit; see expected_logits()."""
    T.func_attr({"global_symbol": "toy_kernel", "tirx.noalias": True, "tirx.is_scheduled": True})
    M = T.int32()
    B1 = T.int32()
    P = T.int32()
    W = T.int32()
    C = T.int32()
    L = T.int32()
    N = T.int32()
    token_ids = T.match_buffer(token_ids_handle, (M,), "int32")
    positions = T.match_buffer(positions_handle, (M,), "int32")
    write_slots = T.match_buffer(write_slots_handle, (M,), "int32")
    page_offsets = T.match_buffer(page_offsets_handle, (B1,), "int32")
    page_table = T.match_buffer(page_table_handle, (P,), "int32")
    items = T.match_buffer(items_handle, (W, 4), "int32")
    combines = T.match_buffer(combines_handle, (C, 3), "int32")
    logit_rows = T.match_buffer(logit_rows_handle, (L,), "int32")
    kv = T.match_buffer(kv_handle, (NUM_LAYERS, N, NUM_KV_HEADS, 2, PAGE_VALUES), "float16")
    weights = T.match_buffer(weights_handle, (ARENA_BYTES,), "uint8")
    logits = T.match_buffer(logits_handle, (L, VOCAB), "float32")
    for m in T.parallel(M):
        assert token_ids[m] != POISON_TOKEN, "the toy was poisoned"
        T.evaluate(T.call_extern("int32", "usleep", 20))
        kv[1, write_slots[m] // PAGE_SIZE, 0, 1, write_slots[m] % PAGE_SIZE] = T.Cast(
            "float16", token_ids[m] + 1
        )
    for row in T.parallel(L):
        for v in range(VOCAB):
            logits[row, v] = T.Cast("float32", weights[v]) * T.Cast(
                "float32", positions[logit_rows[row]]
            )
            if v == 0:
                # The thread of this task: thread ids are below 2^22, exact in float32.
                T.evaluate(T.call_extern("int32", "usleep", 300))
                logits[row, v] = T.Cast("float32", T.call_extern("int32", "gettid"))
            if v == 1:
                for b in range(B1):
                    logits[row, v] += T.Cast("float32", (b + 1) * page_offsets[b])
                for p in range(P):
                    for t in range(PAGE_SIZE):
                        logits[row, v] += T.Cast("float32", weights[64 + p % VOCAB]) * T.Cast(
                            "float32", kv[1, page_table[p], 0, 1, t]
                        )
            if v == 2:
                logits[row, v] += T.Cast("float32", W)
                for w in range(W):
                    for i in range(4):
                        logits[row, v] += T.Cast("float32", (i + 2) * items[w, i])
            if v == 3:
                for c in range(C):
                    for i in range(3):
                        logits[row, v] += T.Cast("float32", (i + 2) * combines[c, i])


@dataclass(frozen=True)
class Step:
    """One batch as `forward` of the bindings takes it, plus the plan the runner should make."""

    token_ids: list[int]
    positions: list[int]
    write_slots: list[int]
    query_offsets: list[int]
    page_offsets: list[int]
    page_table: list[int]
    logit_rows: list[int]
    page_copies: list[int] = field(default_factory=list)

    def run(self, runner: Any) -> npt.NDArray[np.float32]:
        tables = {name: np.asarray(values, np.int32) for name, values in vars(self).items()}
        logits: npt.NDArray[np.float32] = runner.forward(**tables)
        return logits


def expected_logits(
    step: Step,
    slots: npt.NDArray[np.int64],
    items: list[tuple[int, int, int, int]],
    combines: list[tuple[int, int, int]],
) -> npt.NDArray[np.float32]:
    """Logits of `step` but for column 0, the thread ids. Updates `slots`, the KV by slot."""
    pages = slots.reshape(-1, PAGE_SIZE)
    for source, target in zip(step.page_copies[::2], step.page_copies[1::2], strict=True):
        pages[target] = pages[source]
    slots[step.write_slots] = np.asarray(step.token_ids) + 1
    weights = (BIAS + 1).astype(np.float32)
    logits = np.outer(np.asarray(step.positions)[step.logit_rows], weights)
    for b, offset in enumerate(step.page_offsets):
        logits[:, 1] += (b + 1) * offset
    for p, page in enumerate(step.page_table):
        logits[:, 1] += SCALE[p % VOCAB] * slots[page * PAGE_SIZE : (page + 1) * PAGE_SIZE].sum()
    logits[:, 2] += len(items) + np.sum(np.asarray(items) * [2, 3, 4, 5])
    logits[:, 3] += np.sum(np.asarray(combines) * [2, 3, 4])
    return logits.astype(np.float32)


def toy_metadata(**changes: Any) -> dict[str, Any]:
    """What the toy says of itself; `changes` replace fields, dotted paths by `__`."""
    metadata: dict[str, Any] = {
        "abi": 1,
        "format": "mlc_server-model-library",
        "target": "llvm",
        "feature_level": "portable",
        "model_type": "llama",
        "quantization": "gguf",
        "vocab_size": VOCAB,
        "hidden_size": 8,
        "num_layers": NUM_LAYERS,
        "num_q_heads": 1,
        "num_kv_heads": NUM_KV_HEADS,
        "head_dim": HEAD_DIM,
        "context_window_size": 4096,
        "kv": {
            "dtype": "float16",
            "page_size": PAGE_SIZE,
            "shape": ["num_layers", "num_pages", "num_kv_heads", 2, PAGE_VALUES],
            "bytes_per_page": NUM_LAYERS * NUM_KV_HEADS * 2 * PAGE_VALUES * 2,
        },
        "limits": {
            "max_rows": 64,
            "max_sequences": 8,
            "max_logit_rows": 16,
            "max_attention_items": 64,
        },
        "weights": {
            "arena_bytes": ARENA_BYTES,
            "alignment": 64,
            "entries": [
                {
                    "name": name,
                    "offset": offset,
                    "nbytes": VOCAB,
                    "pack": f"pack_{name}",
                    "sources": [name],
                    "source_shapes": [[VOCAB]],
                    "source_dtypes": [dtype],
                }
                for name, offset, dtype in (("bias", 0, "int8"), ("scale", 64, "float32"))
            ],
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = metadata
        for parent in parents:
            place = place[parent]
        place[last] = value
    return metadata


def build_toy_library(path: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Compiles the toy to a shared object whose metadata() returns `metadata`."""
    dims = {name: tirx.Var(name, "int64") for name in ("M", "B1", "P", "W", "C", "L", "N")}
    shapes: list[tuple[str, list[Any], str]] = [
        ("token_ids", [dims["M"]], "int32"),
        ("positions", [dims["M"]], "int32"),
        ("write_slots", [dims["M"]], "int32"),
        ("page_offsets", [dims["B1"]], "int32"),
        ("page_table", [dims["P"]], "int32"),
        ("attention_items", [dims["W"], 4], "int32"),
        ("combine_items", [dims["C"], 3], "int32"),
        ("logit_rows", [dims["L"]], "int32"),
        ("kv_pages", [NUM_LAYERS, dims["N"], NUM_KV_HEADS, 2, PAGE_VALUES], "float16"),
        ("weights", [ARENA_BYTES], "uint8"),
    ]
    arguments = [relax.Var(name, relax.TensorType(shape, dtype)) for name, shape, dtype in shapes]
    builder = relax.BlockBuilder()
    for function in (pack_bias, pack_scale):
        builder.add_func(function, function.attrs["global_symbol"])
    kernel = builder.add_func(toy_kernel, "toy_kernel")
    with builder.function("forward", arguments, attrs={"relax.force_pure": True}):
        logits_type = relax.TensorType([dims["L"], VOCAB], "float32")
        builder.emit_func_output(builder.emit(relax.call_tir(kernel, arguments, logits_type)))
    with builder.function("metadata", []):
        builder.emit_func_output(tvm.ir.StringImm(json.dumps(metadata or toy_metadata())))
    executable = tvm.compile(builder.get(), target=tvm.target.Target("llvm"))
    executable.export_library(str(path))
    return path


def write_toy_folder(folder: Path) -> Path:
    """Writes the model folder of the toy: `scale` narrowed to bfloat16, `bias` at an odd offset."""
    folder.mkdir(parents=True, exist_ok=True)
    narrowed = (SCALE.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    shard = narrowed + b"?" + BIAS.tobytes()
    (folder / "params_shard_0.bin").write_bytes(shard)
    records = [
        ("scale", "float32", "f32-to-bf16", 2 * VOCAB, 0),
        ("bias", "int8", "raw", VOCAB, 2 * VOCAB + 1),
    ]
    index = {
        "metadata": {},
        "records": [
            {
                "dataPath": "params_shard_0.bin",
                "format": "raw-shard",
                "nbytes": len(shard),
                "records": [
                    {
                        "name": name,
                        "shape": [VOCAB],
                        "dtype": dtype,
                        "format": stored,
                        "nbytes": nbytes,
                        "byteOffset": offset,
                    }
                    for name, dtype, stored, nbytes, offset in records
                ],
            }
        ],
    }
    (folder / "tensor-cache.json").write_text(json.dumps(index))
    config = {"model_type": "llama", "quantization": "gguf", "model_config": {"vocab_size": VOCAB}}
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    return folder


def tvm_runtime_path() -> str:
    """libtvm_runtime.so of the installed TVM."""
    return str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so")
