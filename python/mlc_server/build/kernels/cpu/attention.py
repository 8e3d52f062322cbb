"""Paged causal attention over mixed batches of prefill and decode rows.

Contents:
    AttentionShape    sizes of one model's attention.
    attention_kernel  QK, softmax and PV over KV pages, with partial results merged.

softmax(q K^T) V of a row is computed in splits of 256 tokens at fixed positions. Each split is a
two-pass softmax (scores, maximum, exponentials, weighted values); splits are merged in ascending
order by the online-softmax formula (Milakov and Gimelshein, 2018, arXiv:1805.02867). Every number
of a row is made by the same operations in the same order whatever the plan, so results do not
depend on how rows are blocked or splits handed out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from mlc_server.build.kernels.cpu.frame import (
    LANES,
    constant,
    kernel,
    lane_max,
    lane_sum,
    load,
    scalar,
    scratch,
    store,
    tensor,
)
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.vector_ops import (
    GROUP,
    exp,
    f16_to_f32,
    fma,
    quantize_group,
    splat,
)

Expr = Any  # a TIR expression (tvm ships no types)

PAGE_SIZE = 16  # tokens of one KV page: one vector
SPLIT = 256  # tokens of one self-contained softmax
_SPLIT_PAGES = SPLIT // PAGE_SIZE
_MASKED = -1.0e30  # score of a token behind the row's position
_NO_MAXIMUM = -1.0e29  # maximum of no tokens; exp(_MASKED - _NO_MAXIMUM) is exactly 0
_MAX_BLOCK_PAIRS = 16  # (row, head) pairs worked on together


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of attention. head_dim is a multiple of 16; q heads share kv heads in equal groups."""

    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head."""
        return self.num_q_heads // self.num_kv_heads

    @property
    def width(self) -> int:
        """Elements of one row of q or of the output."""
        return self.num_q_heads * self.head_dim

    @property
    def quantizes_output(self) -> bool:
        """Whether groups of 32 outputs never straddle two heads."""
        return self.head_dim % GROUP == 0


def attention_kernel(shape: AttentionShape, isa: VectorIsa, *, quantize: bool) -> tirx.PrimFunc:
    """Attention of every row of `items`, then the merge of split rows.

    Parameters, in order: q f32 [M, Hq * D], rotated and scaled by 1 / sqrt(D); positions i32 [M];
    page_offsets i32 [B + 1]; page_table i32 [P]; items i32 [W, 4] of (sequence, first_row,
    row_count, split); combine i32 [C, 3] of (row, first_slot, slot_count), row < 0 to skip;
    kv_pages f16 [layers, pages, Hkv, 2, 16 * D]; layer i64; then the outputs: the quantised rows
    xq i8 [M, Hq * D], xs f32, xi i32, xss f32 [M, Hq * D / 32], or f32 [M, Hq * D]; and the
    workspaces partial_out f32 [W, Hq, D] and partial_stats f32 [W, Hq, 2] of (maximum, sum).

    A row's output is written once, by its item of split -1 or by its combine entry.
    """
    suffix = "quantized" if quantize else "f32"
    with kernel(f"attention_{suffix}") as built:
        rows, sequences, pages = T.int32(), T.int32(), T.int32()
        items, merges, kv_pages = T.int32(), T.int32(), T.int64()
        width, groups = shape.width, shape.width // GROUP
        io: dict[str, Any] = {
            "q": tensor("q", (rows, width), "float32"),
            "positions": tensor("positions", (rows,), "int32"),
            "page_offsets": tensor("page_offsets", (sequences,), "int32"),
            "page_table": tensor("page_table", (pages,), "int32"),
            "items": tensor("items", (items, 4), "int32"),
            "combine": tensor("combine", (merges, 3), "int32"),
        }
        kv_shape = (shape.num_layers, kv_pages, shape.num_kv_heads, 2, PAGE_SIZE * shape.head_dim)
        io["kv"] = tensor("kv_pages", kv_shape, "float16")
        layer = scalar("layer")
        if quantize:
            io["xq"] = tensor("xq", (rows, width), "int8")
            io["xs"] = tensor("xs", (rows, groups), "float32")
            io["xi"] = tensor("xi", (rows, groups), "int32")
            io["xss"] = tensor("xss", (rows, groups), "float32")
        else:
            io["out"] = tensor("out", (rows, width), "float32")
        heads = shape.num_q_heads
        io["partial_out"] = tensor("partial_out", (items, heads, shape.head_dim), "float32")
        io["partial_stats"] = tensor("partial_stats", (items, heads, 2), "float32")
        with T.parallel(0, items * shape.num_kv_heads) as task:
            item = T.bind(task // shape.num_kv_heads)
            kv_head = T.bind(task % shape.num_kv_heads)
            _emit_item(_Task(shape, isa, io, layer, item, kv_head))
        with T.If(io["combine"][0, 0] >= 0), T.Then():
            with T.parallel(0, merges * shape.num_kv_heads) as task:
                entry = T.bind(task // shape.num_kv_heads)
                _emit_combine(shape, io, entry, T.bind(task % shape.num_kv_heads))
    return built.get()


@dataclass(frozen=True)
class _Task:
    """One item of one KV head while its code is being written."""

    shape: AttentionShape
    isa: VectorIsa
    io: dict[str, Any]
    layer: Expr
    item: Expr
    kv_head: Expr

    def kv_vector(self, part: int, page: Expr, offset: Expr | int) -> Expr:
        """16 consecutive values of K (part 0) or V (part 1) of this head in `page`, as f32."""
        half = load(self.io["kv"], self.layer, page, tirx.Cast("int64", self.kv_head), part, offset)
        return f16_to_f32(half, LANES, native=self.isa.name != "portable")

    def page_at(self, page_index: Expr) -> Expr:
        """Page id, as i64, of page `page_index` of the whole table."""
        return T.bind(tirx.Cast("int64", self.io["page_table"][page_index]))


def _emit_item(task: _Task) -> None:
    """One item: single rows (decode) and blocks of rows (prefill) get code of their own."""
    items, item, shape = task.io["items"], task.item, task.shape
    count = T.bind(items[item, 2])
    block_rows = max(2, _MAX_BLOCK_PAIRS // shape.group_size) if shape.group_size > 4 else 4
    with T.If(count == 1):
        with T.Then():
            _emit_block(task, 1, constant(0, "int32"))
        with T.Else(), T.serial(0, (count + (block_rows - 1)) // block_rows) as block:
            _emit_block(task, block_rows, T.bind(block * block_rows))


@dataclass(frozen=True)
class _Block:
    """`rows` query rows x the head group: their pairs' state, in the memory of one task.

    Pair p is (row p // group_size, head p % group_size). rows_index[j]: global row.
    """

    task: _Task
    rows: int
    row_index: list[Expr]
    table_start: Expr
    table_last: Expr
    query: Any  # [pairs * D]
    scores: Any  # [pairs * SPLIT], then exponentials
    maximum: Any  # [pairs_padded] merged so far
    total: Any  # [pairs_padded] merged so far
    split_maximum: Any  # [pairs_padded] of the current split
    split_total: Any  # [pairs_padded] of the current split
    keep: Any  # [pairs_padded] factor of what is merged so far
    take: Any  # [pairs_padded] factor of the current split
    out: Any  # [pairs * D] merged so far, not normalised

    @property
    def pairs(self) -> int:
        return self.rows * self.task.shape.group_size

    def valid(self, pair_row: int, split: Expr) -> Expr:
        """Tokens of `split` that row `pair_row` sees; may be negative or above SPLIT."""
        return self.task.io["positions"][self.row_index[pair_row]] + 1 - split * SPLIT


def _emit_block(task: _Task, block_rows: int, first: Expr) -> None:
    """Rows first .. first + block_rows of the item; those beyond its count repeat the last."""
    io, shape = task.io, task.shape
    sequence = T.bind(io["items"][task.item, 0])
    item_row = T.bind(io["items"][task.item, 1])
    count = T.bind(io["items"][task.item, 2])
    split_item = T.bind(io["items"][task.item, 3])
    row_index = [T.bind(item_row + tirx.min(first + j, count - 1)) for j in range(block_rows)]
    pairs = block_rows * shape.group_size
    padded = -(-pairs // LANES) * LANES
    per_pair = [scratch((padded,)) for _ in range(6)]
    block = _Block(
        task,
        block_rows,
        row_index,
        T.bind(io["page_offsets"][sequence]),
        T.bind(io["page_offsets"][sequence + 1] - 1),
        scratch((pairs * shape.head_dim,)),
        scratch((pairs * SPLIT,)),
        *per_pair,
        scratch((pairs * shape.head_dim,)),
    )
    _emit_load_query(block, padded)
    last_position = T.bind(io["positions"][row_index[-1]])
    split_end = tirx.Select(split_item < 0, last_position // SPLIT + 1, split_item + 1)
    split_begin = T.bind(tirx.max(split_item, 0))
    with T.serial(0, T.bind(split_end - split_begin)) as step:
        split = T.bind(split_begin + step)
        tokens = T.bind(tirx.min(last_position + 1 - split * SPLIT, SPLIT))
        vectors = T.bind((tokens + (LANES - 1)) // LANES)
        _emit_scores(block, split, vectors)
        _emit_softmax(block, vectors)
        _emit_merge_factors(block, padded)
        _emit_values(block, split, vectors)
    _emit_block_output(block, first, count, split_item)


def _emit_load_query(block: _Block, padded: int) -> None:
    shape = block.task.shape
    group_width = shape.group_size * shape.head_dim
    head_offset = T.bind(block.task.kv_head * group_width)
    for j in range(block.rows):
        with T.serial(0, group_width // LANES) as i:
            vector = load(block.task.io["q"], block.row_index[j], head_offset + i * LANES)
            store(block.query, vector, j * group_width + i * LANES)
    with T.serial(0, block.pairs * shape.head_dim // LANES) as i:
        store(block.out, splat(0.0, LANES), i * LANES)
    for i in range(0, padded, LANES):
        store(block.maximum, splat(_NO_MAXIMUM, LANES), i)
        store(block.total, splat(0.0, LANES), i)
        store(block.split_maximum, splat(_NO_MAXIMUM, LANES), i)
        store(block.split_total, splat(0.0, LANES), i)


def _accumulators(isa: VectorIsa) -> int:
    """16-lane accumulators that stay in registers, leaving room for operands."""
    return max(2, (isa.registers * 3 // 4) * isa.lanes // LANES)


def _pairs_together(pairs: int, accumulators: int) -> int:
    """The largest divisor of `pairs` that leaves at least one accumulator row, at most 7."""
    limit = min(7, accumulators)
    return max(d for d in range(1, limit + 1) if pairs % d == 0)


def _emit_scores(block: _Block, split: Expr, vectors: Expr) -> None:
    """scores[p, t] = sum_d q[p, d] * K[d, t], d ascending; masked tokens get _MASKED."""
    task, head_dim = block.task, block.task.shape.head_dim
    budget = _accumulators(task.isa)
    together = _pairs_together(block.pairs, budget)
    width = 1
    while width < 8 and 2 * width * together <= budget:
        width *= 2
    with (
        T.serial(0, block.pairs // together) as part,
        T.serial(0, (vectors + (width - 1)) // width) as step,
    ):
        pages = []
        for v in range(width):
            index = block.table_start + split * _SPLIT_PAGES + step * width + v
            pages.append(task.page_at(T.bind(tirx.min(index, block.table_last))))
        acc = [[scratch((LANES,)) for _ in range(width)] for _ in range(together)]
        for row in acc:
            for register in row:
                store(register, splat(0.0, LANES), 0)
        with T.serial(0, head_dim) as d:
            factors = [
                T.bind(tirx.Broadcast(block.query[(part * together + p) * head_dim + d], LANES))
                for p in range(together)
            ]
            for v in range(width):
                keys = task.kv_vector(0, pages[v], d * PAGE_SIZE)
                for p in range(together):
                    value = fma(factors[p], keys, load(acc[p][v], 0), LANES)
                    store(acc[p][v], value, 0)
        for p in range(together):
            pair = T.bind(part * together + p)
            valid = T.bind(_pair_valid(block, pair, split))
            for v in range(width):
                token = T.bind((step * width + v) * LANES)
                seen = T.ramp(token, 1, LANES) < tirx.Broadcast(valid, LANES)
                value = tirx.Select(seen, load(acc[p][v], 0), splat(_MASKED, LANES))
                store(block.scores, value, pair * SPLIT + token)


def _pair_valid(block: _Block, pair: Expr, split: Expr) -> Expr:
    """Tokens of `split` seen by the row of runtime index `pair`."""
    result = block.valid(0, split)
    for j in range(1, block.rows):
        first_pair = j * block.task.shape.group_size
        result = tirx.Select(pair >= first_pair, block.valid(j, split), result)
    return result


def _emit_softmax(block: _Block, vectors: Expr) -> None:
    """Maximum, exponentials and their sum of each pair over the split's scores."""
    with T.serial(0, block.pairs) as pair:
        register = scratch((LANES,))
        store(register, splat(_NO_MAXIMUM, LANES), 0)
        with T.serial(0, vectors) as v:
            value = load(block.scores, pair * SPLIT + v * LANES)
            store(register, tirx.max(load(register, 0), value), 0)
        maximum = lane_max(load(register, 0))
        T.buffer_store(block.split_maximum, maximum, [pair])
        subtrahend = T.bind(tirx.Broadcast(maximum, LANES))
        total = scratch((LANES,))
        store(total, splat(0.0, LANES), 0)
        with T.serial(0, vectors) as v:
            value = load(block.scores, pair * SPLIT + v * LANES)
            weight = exp(T.bind(value - subtrahend), LANES)
            store(block.scores, weight, pair * SPLIT + v * LANES)
            store(total, load(total, 0) + weight, 0)
        T.buffer_store(block.split_total, lane_sum(load(total, 0)), [pair])


def _merge(
    maximum: Expr, total: Expr, split_maximum: Expr, split_total: Expr, lanes: int
) -> tuple[Expr, Expr, Expr, Expr]:
    """The state after one more split, and the factors (keep, take) of the two outputs."""
    merged = T.bind(tirx.max(maximum, split_maximum))
    keep = exp(T.bind(maximum - merged), lanes)
    take = exp(T.bind(split_maximum - merged), lanes)
    return merged, fma(total, keep, T.bind(split_total * take), lanes), keep, take


def _emit_merge_factors(block: _Block, padded: int) -> None:
    for i in range(0, padded, LANES):
        state = (block.maximum, block.total, block.split_maximum, block.split_total)
        results = _merge(*(load(buffer, i) for buffer in state), LANES)
        targets = (block.maximum, block.total, block.keep, block.take)
        for buffer, value in zip(targets, results, strict=True):
            store(buffer, value, i)


def _emit_values(block: _Block, split: Expr, vectors: Expr) -> None:
    """out[p] = out[p] * keep[p] + take[p] * sum_t weight[p, t] * V[t], t ascending."""
    head_dim = block.task.shape.head_dim
    budget = _accumulators(block.task.isa)
    together = _pairs_together(block.pairs, budget)
    widest = max(1, budget // together)
    table_first = T.bind(block.table_start + split * _SPLIT_PAGES)
    with T.serial(0, block.pairs // together) as part:
        first_pair = T.bind(part * together)
        for begin in range(0, head_dim // LANES, widest):
            width = min(widest, head_dim // LANES - begin)
            _emit_value_tile(block, table_first, vectors, first_pair, together, begin, width)


def _emit_value_tile(
    block: _Block,
    table_first: Expr,
    vectors: Expr,
    first_pair: Expr,
    together: int,
    begin: int,
    width: int,
) -> None:
    """Pairs first_pair .. + together x components [16 * begin, 16 * (begin + width))."""
    task, head_dim = block.task, block.task.shape.head_dim
    acc = [[scratch((LANES,)) for _ in range(width)] for _ in range(together)]
    for row in acc:
        for register in row:
            store(register, splat(0.0, LANES), 0)
    with T.serial(0, vectors) as v:
        page = task.page_at(table_first + v)
        with T.serial(0, PAGE_SIZE) as token:
            weight_at = T.bind(first_pair * SPLIT + v * LANES + token)
            weights = [
                T.bind(tirx.Broadcast(block.scores[weight_at + p * SPLIT], LANES))
                for p in range(together)
            ]
            for i in range(width):
                values = task.kv_vector(1, page, token * head_dim + (begin + i) * LANES)
                for p in range(together):
                    store(acc[p][i], fma(weights[p], values, load(acc[p][i], 0), LANES), 0)
    for p in range(together):
        pair = T.bind(first_pair + p)
        keep = T.bind(tirx.Broadcast(block.keep[pair], LANES))
        take = T.bind(tirx.Broadcast(block.take[pair], LANES))
        for i in range(width):
            at = T.bind(pair * head_dim + (begin + i) * LANES)
            scaled = T.bind(load(acc[p][i], 0) * take)
            store(block.out, fma(load(block.out, at), keep, scaled, LANES), at)


def _emit_block_output(block: _Block, first: Expr, count: Expr, split_item: Expr) -> None:
    io, shape = block.task.io, block.task.shape
    head_dim, group = shape.head_dim, shape.group_size
    first_head = T.bind(block.task.kv_head * group)

    def emit_final() -> None:
        for j in range(block.rows):
            with T.If(first + j < count), T.Then(), T.serial(0, group) as g:
                pair = T.bind(j * group + g)

                def output(i: Expr, pair: Expr = pair) -> Expr:
                    return load(block.out, pair * head_dim + i)

                _emit_head(shape, io, block.row_index[j], first_head + g, block.total[pair], output)

    if block.rows > 1:
        emit_final()
        return
    with T.If(split_item < 0):
        with T.Then():
            emit_final()
        with T.Else(), T.serial(0, group) as g:
            item, head = block.task.item, T.bind(first_head + g)
            T.buffer_store(io["partial_stats"], block.maximum[g], [item, head, 0])
            T.buffer_store(io["partial_stats"], block.total[g], [item, head, 1])
            with T.serial(0, head_dim // LANES) as i:
                vector = load(block.out, g * head_dim + i * LANES)
                store(io["partial_out"], vector, item, head, i * LANES)


def _emit_head(
    shape: AttentionShape,
    io: dict[str, Any],
    row: Expr,
    head: Expr,
    total: Expr,
    output: Callable[[Expr], Expr],
) -> None:
    """Normalises one head of one row by 1 / total and writes it, quantised when asked for."""
    inverse = T.bind(tirx.Broadcast(T.bind(constant(1.0) / total), LANES))
    column = T.bind(head * shape.head_dim)
    if "out" in io:
        with T.serial(0, shape.head_dim // LANES) as i:
            store(io["out"], output(i * LANES) * inverse, row, column + i * LANES)
        return
    with T.serial(0, shape.head_dim // GROUP) as i:
        at = T.bind(i * GROUP)
        quantized = quantize_group(output(at) * inverse, output(at + LANES) * inverse)
        store(io["xq"], quantized.low, row, column + at)
        store(io["xq"], quantized.high, row, column + at + LANES)
        group = T.bind(column // GROUP + i)
        T.buffer_store(io["xs"], quantized.scale, [row, group])
        T.buffer_store(io["xi"], quantized.total, [row, group])
        T.buffer_store(io["xss"], quantized.scaled_total, [row, group])


def _emit_combine(shape: AttentionShape, io: dict[str, Any], entry: Expr, kv_head: Expr) -> None:
    """Merges the partial results of one row's slots, ascending, for the heads of one KV head."""
    row = T.bind(io["combine"][entry, 0])
    first_slot = T.bind(io["combine"][entry, 1])
    slots = T.bind(io["combine"][entry, 2])
    head_dim = shape.head_dim
    with T.If(row >= 0), T.Then(), T.serial(0, shape.group_size) as g:
        head = T.bind(kv_head * shape.group_size + g)
        maximum, total = scratch((1,)), scratch((1,))
        out = scratch((head_dim,))
        T.buffer_store(maximum, constant(_NO_MAXIMUM), [0])
        T.buffer_store(total, constant(0.0), [0])
        with T.serial(0, head_dim // LANES) as i:
            store(out, splat(0.0, LANES), i * LANES)
        with T.serial(0, slots) as s:
            slot = T.bind(first_slot + s)
            split_maximum = T.bind(io["partial_stats"][slot, head, 0])
            split_total = T.bind(io["partial_stats"][slot, head, 1])
            state = T.bind(maximum[0]), T.bind(total[0])
            merged, summed, keep, take = _merge(*state, split_maximum, split_total, 1)
            T.buffer_store(maximum, merged, [0])
            T.buffer_store(total, summed, [0])
            with T.serial(0, head_dim // LANES) as i:
                part = load(io["partial_out"], slot, head, i * LANES)
                scaled = T.bind(part * tirx.Broadcast(take, LANES))
                value = fma(load(out, i * LANES), tirx.Broadcast(keep, LANES), scaled, LANES)
                store(out, value, i * LANES)
        _emit_head(shape, io, row, head, total[0], lambda i: load(out, i))
