"""Paged causal attention over mixed batches of prefill and decode rows.

Contents:
    attention_kernel  softmax(q K^T) V of every row, with partial results merged.

A row's context is cut into splits of 256 tokens at fixed positions. Each split is a two-pass
softmax (scores, maximum, exponentials, weighted values); splits are merged in ascending order by
the online-softmax formula (Milakov and Gimelshein, 2018, arXiv:1805.02867). Every number of a row
is made by the same operations in the same order whatever the plan, so results do not depend on
how rows are blocked or splits handed out.

Per 16 tokens and query head there are 2 D fma instructions and about 20 others (masking and
exponentials), so D = 64 is bounded at 86 % of the fma peak; one row reads 4 D bytes a token and KV
head, which bounds decoding of long contexts by memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.attention_block import (
    NO_MAXIMUM,
    Block,
    emit_split,
    merge_states,
    open_block,
)
from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, SPLIT, AttentionShape, Task
from mlc_server.build.kernels.cpu.attention_tiling import most_block_rows
from mlc_server.build.kernels.cpu.frame import (
    LANES,
    constant,
    evenly_parallel,
    kernel,
    load,
    scalar,
    scratch,
    store,
    store_group,
    tensor,
)
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.vector_ops import GROUP, fma, let, quantize_group, splat

Expr = Any  # a TIR expression (tvm ships no types)


def attention_kernel(shape: AttentionShape, isa: VectorIsa, *, quantize: bool) -> tirx.PrimFunc:
    """Attention of every row of `items`, then the merge of split rows.

    Parameters, in order: q f32 [M, Hq * D], rotated and scaled by 1 / sqrt(D); positions i32 [M];
    page_offsets i32 [B + 1]; page_table i32 [P]; items i32 [W, 4] of (sequence, first_row,
    row_count, split); combine i32 [C, 3] of (row, first_slot, slot_count), row < 0 to skip;
    kv_pages f16 [layers, pages, Hkv, 2, 16 * D]; layer i64; then the outputs: the quantised rows
    xq i8 [M, Hq * D], xs f32, xi i32, xss f32 [M, Hq * D / 32], or f32 [M, Hq * D]; and the
    workspaces partial_out f32 [W, Hq, D] and partial_stats f32 [W, Hq, 2] of (maximum, sum).

    An item of split -1 finishes its rows; one of split s has one row, does split s only and leaves
    it in the workspaces at its own index, for a combine entry of consecutive ones to finish.
    """
    name = f"attention_{'quantized' if quantize else 'f32'}"
    with kernel(name) as built:
        rows, items, merges = builder.int32(), builder.int32(), builder.int32()
        tables = {
            "q": tensor("q", (rows, shape.width), "float32"),
            "positions": tensor("positions", (rows,), "int32"),
            "page_offsets": tensor("page_offsets", (builder.int32(),), "int32"),
            "page_table": tensor("page_table", (builder.int32(),), "int32"),
            "items": tensor("items", (items, 4), "int32"),
            "combine": tensor("combine", (merges, 3), "int32"),
        }
        pages = builder.int64()
        kv_shape = (shape.num_layers, pages, shape.num_kv_heads, 2, PAGE_SIZE * shape.head_dim)
        tables["kv"] = tensor("kv_pages", kv_shape, "float16")
        layer = scalar("layer")
        writer = _Writer.declare(shape, rows, items, quantize=quantize)
        with evenly_parallel(items * shape.num_kv_heads) as index:
            item = let(index // shape.num_kv_heads)
            kv_head = let(index % shape.num_kv_heads)
            _emit_item(Task(shape, isa, tables, layer, items, item, kv_head), writer)
        combine = tables["combine"]
        with (
            builder.If(combine[0, 0] >= 0),
            builder.Then(),
            evenly_parallel(merges * shape.num_kv_heads) as index,
        ):
            entry = let(index // shape.num_kv_heads)
            _emit_combine(writer, combine, entry, let(index % shape.num_kv_heads))
    return built.get()


@dataclass(frozen=True)
class _Writer:
    """Where results go. `outputs`: (xq, xs, xi, xss), or one f32 tensor."""

    shape: AttentionShape
    outputs: list[Any]
    partial_out: Any
    partial_stats: Any

    @classmethod
    def declare(cls, shape: AttentionShape, rows: Expr, items: Expr, *, quantize: bool) -> _Writer:
        """Declares the kernel's output parameters."""
        heads, groups = shape.num_q_heads, shape.width // GROUP
        if quantize:
            outputs = [
                tensor("xq", (rows, shape.width), "int8"),
                tensor("xs", (rows, groups), "float32"),
                tensor("xi", (rows, groups), "int32"),
                tensor("xss", (rows, groups), "float32"),
            ]
        else:
            outputs = [tensor("out", (rows, shape.width), "float32")]
        partial_out = tensor("partial_out", (items, heads, shape.head_dim), "float32")
        partial_stats = tensor("partial_stats", (items, heads, 2), "float32")
        return cls(shape, outputs, partial_out, partial_stats)

    def write_head(self, row: Expr, head: Expr, total: Expr, source: Any, start: Expr) -> None:
        """One head of one row: `source` from element `start`, divided by `total`."""
        inverse = let(tirx.Broadcast(let(constant(1.0) / total), LANES))
        column = let(head * self.shape.head_dim)
        if len(self.outputs) == 1:
            with builder.serial(0, self.shape.head_dim // LANES) as i:
                value = load(source, start + i * LANES) * inverse
                store(self.outputs[0], value, row, column + i * LANES)
            return
        with builder.serial(0, self.shape.head_dim // GROUP) as i:
            halves = (load(source, start + (i * GROUP + h)) * inverse for h in (0, LANES))
            group = quantize_group(*halves)
            store_group(self.outputs, row, let(column // GROUP + i), group)

    def write_partial(self, task: Task, block: Block) -> None:
        """The state of a block of one row, in the slot of its item."""
        dim, group = self.shape.head_dim, self.shape.group_size
        with builder.serial(0, group) as g:
            head = let(task.kv_head * group + g)
            builder.buffer_store(self.partial_stats, block.maximum[g], [task.item, head, 0])
            builder.buffer_store(self.partial_stats, block.total[g], [task.item, head, 1])
            with builder.serial(0, dim // LANES) as i:
                vector = load(block.out, g * dim + i * LANES)
                store(self.partial_out, vector, task.item, head, i * LANES)


def _emit_item(task: Task, writer: _Writer) -> None:
    """One item: single rows (decode) and blocks of rows (prefill) get code of their own."""
    count = let(task.tables["items"][task.item, 2])
    rows = most_block_rows(task.shape, task.isa)
    with builder.If(count == 1):
        with builder.Then():
            _emit_block(task, writer, 1, constant(0, "int32"))
        with builder.Else(), builder.serial(0, (count + (rows - 1)) // rows) as index:
            _emit_block(task, writer, rows, let(index * rows))


def _emit_block(task: Task, writer: _Writer, most_rows: int, first: Expr) -> None:
    """Rows first .. first + most_rows - 1 of the item, those that there are."""
    split_item = let(task.tables["items"][task.item, 3])
    block = open_block(task, most_rows, first)
    last_row = block.first_row + block.num_rows - 1
    last_position = let(task.tables["positions"][last_row])
    end = tirx.Select(split_item < 0, last_position // SPLIT + 1, split_item + 1)
    begin = let(tirx.max(split_item, 0))
    with builder.serial(0, let(end - begin)) as step:
        split = let(begin + step)
        emit_split(block, split, last_position, is_last=split + 1 >= end)

    def write_rows() -> None:
        group, dim = task.shape.group_size, task.shape.head_dim
        with builder.serial(0, block.num_rows) as j, builder.serial(0, group) as g:
            pair = let(j * group + g)
            head = let(task.kv_head * group + g)
            row = let(block.first_row + j)
            writer.write_head(row, head, block.total[pair], block.out, let(pair * dim))

    if most_rows > 1:
        write_rows()
        return
    with builder.If(split_item < 0):
        with builder.Then():
            write_rows()
        with builder.Else():
            writer.write_partial(task, block)


def _emit_combine(writer: _Writer, combine: Any, entry: Expr, kv_head: Expr) -> None:
    """Merges the partial results of one row's slots, ascending, for the heads of one KV head."""
    row, first_slot, slots = (let(combine[entry, i]) for i in range(3))
    shape = writer.shape
    dim = shape.head_dim
    with builder.If(row >= 0), builder.Then(), builder.serial(0, shape.group_size) as g:
        head = let(kv_head * shape.group_size + g)
        maximum, total, out = scratch((1,)), scratch((1,)), scratch((dim,))
        builder.buffer_store(maximum, constant(NO_MAXIMUM), [0])
        builder.buffer_store(total, constant(0.0), [0])
        with builder.serial(0, dim // LANES) as i:
            store(out, splat(0.0, LANES), i * LANES)
        with builder.serial(0, slots) as s:
            slot = let(first_slot + s)
            split = [let(writer.partial_stats[slot, head, i]) for i in range(2)]
            merged = merge_states((let(maximum[0]), let(total[0])), (split[0], split[1]), 1)
            builder.buffer_store(maximum, merged.maximum, [0])
            builder.buffer_store(total, merged.total, [0])
            keep, take = (let(tirx.Broadcast(f, LANES)) for f in (merged.keep, merged.take))
            with builder.serial(0, dim // LANES) as i:
                part = let(load(writer.partial_out, slot, head, i * LANES) * take)
                store(out, fma(load(out, i * LANES), keep, part, LANES), i * LANES)
        writer.write_head(row, head, total[0], out, constant(0, "int32"))
