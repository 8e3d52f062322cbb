"""Attention of a block of query rows with the heads that share one KV head.

Contents:
    Block         state of the (row, head) pairs of a block.
    open_block    a block with nothing attended to yet.
    emit_split    attends to one split: scores, softmax, values, merge.
    merge_states  the merge of two softmax states, everywhere the same.

Scores have tokens in their lanes (K pages are [head_dim][16]), values have components of the head
(V pages are [16][head_dim]), so a page's vectors are loaded and widened once for several pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, SPLIT, Task
from mlc_server.build.kernels.cpu.frame import LANES, lane_max, lane_sum, load, scratch, store
from mlc_server.build.kernels.cpu.vector_ops import exp, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)

NO_MAXIMUM = -1.0e29  # maximum of no tokens
_MASKED = -1.0e30  # score of a token behind the row's position; exp(_MASKED - NO_MAXIMUM) is 0
_SPLIT_PAGES = SPLIT // PAGE_SIZE
_LINE_ELEMENTS = 32  # f16 in a cache line
_MAX_TOGETHER = 7  # pairs of one register block
_MAX_ACCUMULATORS = 16  # of 16 lanes


class ComingKeys(NamedTuple):
    """The K pages that are read next: page table indices first .. last of head `kv_head`, i32."""

    kv_head: Expr
    first: Expr
    last: Expr


@dataclass(frozen=True)
class Block:
    """`rows` query rows x the head group. Pair p is (row p // group_size, head p % group_size).

    Memory of one task: query, out f32 [pairs * D], out not normalised; scores f32 [pairs * SPLIT],
    then exponentials; per pair, padded to whole vectors: maximum and total of what is merged so
    far, split_maximum and split_total of the current split, factors keep and take of both.
    """

    task: Task
    row_index: list[Expr]
    table_begin: Expr
    table_last: Expr
    coming: ComingKeys | None
    query: Any
    scores: Any
    out: Any
    maximum: Any
    total: Any
    split_maximum: Any
    split_total: Any
    keep: Any
    take: Any

    @property
    def pairs(self) -> int:
        return len(self.row_index) * self.task.shape.group_size

    @property
    def streams(self) -> bool:
        """Whether pages come from memory: one row (decode) reads them once, blocks from cache."""
        return len(self.row_index) == 1

    @property
    def padded_pairs(self) -> int:
        return -(-self.pairs // LANES) * LANES

    @property
    def together(self) -> int:
        """Pairs of one register block: a divisor of `pairs`."""
        limit = min(_MAX_TOGETHER, self.accumulators)
        return max(d for d in range(1, limit + 1) if self.pairs % d == 0)

    @property
    def accumulators(self) -> int:
        """16-lane accumulators that stay in registers beside the operands."""
        isa = self.task.isa
        return min(_MAX_ACCUMULATORS, isa.registers * 3 // 4 * isa.lanes // LANES)

    def fits(self, vectors: int) -> bool:
        """Whether LLVM keeps a tile of `together` pairs x `vectors` in registers.

        Beside several vectors it keeps the factors of all pairs, and two operands being widened.
        """
        isa = self.task.isa
        parts = LANES // isa.lanes
        operands = self.together + 2 * parts
        tile = self.together * vectors
        return tile <= _MAX_ACCUMULATORS and tile * parts + operands <= isa.registers

    def valid_tokens(self, pair: Expr, split: Expr) -> Expr:
        """Tokens of `split` that pair `pair` sees; may be negative or above SPLIT."""
        positions, group = self.task.tables["positions"], self.task.shape.group_size
        position = positions[self.row_index[0]]
        for j in range(1, len(self.row_index)):
            position = tirx.Select(pair >= j * group, positions[self.row_index[j]], position)
        return let(position + 1 - split * SPLIT)


def open_block(task: Task, num_rows: int, first: Expr) -> Block:
    """Rows first .. first + num_rows - 1 of the item; those beyond its count repeat the last."""
    tables, shape = task.tables, task.shape
    sequence, item_row, count = (let(tables["items"][task.item, i]) for i in range(3))
    row_index = [let(item_row + tirx.min(first + j, count - 1)) for j in range(num_rows)]
    pairs = num_rows * shape.group_size
    padded = -(-pairs // LANES) * LANES
    block = Block(
        task,
        row_index,
        let(tables["page_offsets"][sequence]),
        let(tables["page_offsets"][sequence + 1] - 1),
        _coming_keys(task) if num_rows == 1 else None,
        query=scratch((pairs * shape.head_dim,)),
        scores=scratch((pairs * SPLIT,)),
        out=scratch((pairs * shape.head_dim,)),
        maximum=scratch((padded,)),
        total=scratch((padded,)),
        split_maximum=scratch((padded,)),
        split_total=scratch((padded,)),
        keep=scratch((padded,)),
        take=scratch((padded,)),
    )
    group_width = shape.group_size * shape.head_dim
    column = let(task.kv_head * group_width)
    for j, row in enumerate(row_index):
        with builder.serial(0, group_width // LANES) as i:
            vector = load(tables["q"], row, column + i * LANES)
            store(block.query, vector, j * group_width + i * LANES)
    with builder.serial(0, pairs * shape.head_dim // LANES) as i:
        store(block.out, splat(0.0, LANES), i * LANES)
    for i in range(0, padded, LANES):
        for buffer in (block.maximum, block.split_maximum):
            store(buffer, splat(NO_MAXIMUM, LANES), i)
        for buffer in (block.total, block.split_total):
            store(buffer, splat(0.0, LANES), i)
    return block


def _coming_keys(task: Task) -> ComingKeys:
    """The first split of the next item or KV head, which most often the same thread works on."""
    tables, heads = task.tables, task.shape.num_kv_heads
    is_last_head = task.kv_head == heads - 1
    more = let(task.item + 1 < task.num_items)
    item = let(task.item + tirx.Cast("int32", tirx.all(is_last_head, more)))
    sequence, split = let(tables["items"][item, 0]), let(tables["items"][item, 3])
    first = tables["page_offsets"][sequence] + tirx.max(split, 0) * _SPLIT_PAGES
    kv_head = let(tirx.Select(is_last_head, tirx.const(0, "int32"), task.kv_head + 1))
    return ComingKeys(kv_head, let(first), let(tables["page_offsets"][sequence + 1] - 1))


def emit_split(block: Block, split: Expr, last_position: Expr, *, is_last: Expr) -> None:
    """Attends to split `split`, as far as the position of the block's last row.

    is_last: whether the item has no later split.
    """
    tokens = let(tirx.min(last_position + 1 - split * SPLIT, SPLIT))
    vectors = let((tokens + (LANES - 1)) // LANES)
    table_first = let(block.table_begin + split * _SPLIT_PAGES)
    _emit_scores(block, split, table_first, vectors)
    _emit_softmax(block, vectors)
    for i in range(0, block.padded_pairs, LANES):
        merged = merge_states(
            (load(block.maximum, i), load(block.total, i)),
            (load(block.split_maximum, i), load(block.split_total, i)),
            LANES,
        )
        store(block.maximum, merged.maximum, i)
        store(block.total, merged.total, i)
        store(block.keep, merged.keep, i)
        store(block.take, merged.take, i)
    with builder.serial(0, block.pairs // block.together) as part:
        _emit_values(block, table_first, vectors, let(part * block.together), is_last)


class MergedState(NamedTuple):
    """Maximum and total after a merge; factors of the old output and of the split's."""

    maximum: Expr
    total: Expr
    keep: Expr
    take: Expr


def merge_states(state: tuple[Expr, Expr], split: tuple[Expr, Expr], lanes: int) -> MergedState:
    """Merges (maximum, total) of what came before with that of one split.

    Merging with the initial state (NO_MAXIMUM, 0, zeros) changes nothing, to the bit: `take` is
    exp(0) = 1. The same holds for a split of which no token is seen, by `keep`.
    """
    maximum = let(tirx.max(state[0], split[0]))
    keep = exp(let(state[0] - maximum), lanes)
    take = exp(let(split[0] - maximum), lanes)
    total = fma(state[1], keep, let(split[1] * take), lanes)
    return MergedState(maximum, let(total), keep, take)


def _register_tile(rows: int, columns: int) -> list[list[Any]]:
    """rows x columns accumulators, zero."""
    tile = [[scratch((LANES,)) for _ in range(columns)] for _ in range(rows)]
    for row in tile:
        for register in row:
            store(register, splat(0.0, LANES), 0)
    return tile


def _accumulate(register: Any, a: Expr, b: Expr) -> None:
    store(register, fma(a, b, load(register, 0), LANES), 0)


def _emit_scores(block: Block, split: Expr, table_first: Expr, vectors: Expr) -> None:
    """scores[p, t] = sum_d q[p, d] * K[d, t], d ascending; unseen tokens get _MASKED."""
    dim, together = block.task.shape.head_dim, block.together
    width = 1
    while width < 8 and block.fits(2 * width):
        width *= 2  # a power of two, so that no vector lies beyond the split
    with (
        builder.serial(0, block.pairs // together) as part,
        builder.serial(0, (vectors + (width - 1)) // width) as step,
    ):
        first_pair = let(part * together)
        pages = _pages(block, table_first, step, width)
        coming = _pages(block, table_first, step + 1, width) if block.streams else []
        tile = _register_tile(together, width)
        # Two components of 16 tokens are one cache line.
        with builder.serial(0, dim // 2) as pair_of_components:
            first = let(pair_of_components * 2)
            for page in pages if block.streams else []:
                block.task.prefetch(1, page, first * PAGE_SIZE)
            for page in coming:
                block.task.prefetch(0, page, first * PAGE_SIZE)
            for d in (first, let(first + 1)):
                factors = [
                    let(tirx.Broadcast(block.query[(first_pair + p) * dim + d], LANES))
                    for p in range(together)
                ]
                for v in range(width):
                    keys = block.task.kv_vector(0, pages[v], d * PAGE_SIZE)
                    for p in range(together):
                        _accumulate(tile[p][v], factors[p], keys)
        for p in range(together):
            pair = let(first_pair + p)
            valid = let(tirx.Broadcast(block.valid_tokens(pair, split), LANES))
            for v in range(width):
                token = let((step * width + v) * LANES)
                seen = builder.ramp(token, 1, LANES) < valid
                value = tirx.Select(seen, load(tile[p][v], 0), splat(_MASKED, LANES))
                store(block.scores, value, pair * SPLIT + token)


def _pages(block: Block, table_first: Expr, step: Expr, width: int) -> list[Expr]:
    """Pages of vectors step * width ..; the sequence's last page again where there are no more."""
    indices = [
        let(tirx.min(table_first + step * width + v, block.table_last)) for v in range(width)
    ]
    return [block.task.page_at(index) for index in indices]


def _emit_softmax(block: Block, vectors: Expr) -> None:
    """Maximum of each pair over the split's scores, their exponentials and sum."""
    with builder.serial(0, block.pairs) as pair:
        row = let(pair * SPLIT)
        largest, total = scratch((LANES,)), scratch((LANES,))
        store(largest, splat(NO_MAXIMUM, LANES), 0)
        with builder.serial(0, vectors) as v:
            store(largest, tirx.max(load(largest, 0), load(block.scores, row + v * LANES)), 0)
        maximum = let(lane_max(load(largest, 0)))
        builder.buffer_store(block.split_maximum, maximum, [pair])
        subtrahend = let(tirx.Broadcast(maximum, LANES))
        store(total, splat(0.0, LANES), 0)
        with builder.serial(0, vectors) as v:
            score = load(block.scores, row + v * LANES)
            weight = exp(let(score - subtrahend), LANES)
            store(block.scores, weight, row + v * LANES)
            store(total, load(total, 0) + weight, 0)
        builder.buffer_store(block.split_total, lane_sum(load(total, 0)), [pair])


def _emit_values(
    block: Block, table_first: Expr, vectors: Expr, first_pair: Expr, is_last: Expr
) -> None:
    """out[p] = out[p] * keep[p] + take[p] * sum_t weight[p, t] * V[t], t ascending."""
    components = block.task.shape.head_dim // LANES
    widest = 1
    while block.fits(widest + 1):
        widest += 1
    coming = _keys_after(block, table_first, is_last)
    for begin in range(0, components, widest):
        columns = range(begin, min(begin + widest, components))
        _emit_value_columns(block, table_first, vectors, first_pair, columns=columns, coming=coming)


def _keys_after(block: Block, table_first: Expr, is_last: Expr) -> ComingKeys | None:
    """What is read after this split: the next split of the item, or what follows the item."""
    if block.coming is None:
        return None
    within = ComingKeys(block.task.kv_head, table_first + _SPLIT_PAGES, block.table_last)
    chosen = (let(tirx.Select(is_last, *pair)) for pair in zip(block.coming, within, strict=True))
    return ComingKeys(*chosen)


def _emit_value_columns(
    block: Block,
    table_first: Expr,
    vectors: Expr,
    first_pair: Expr,
    *,
    columns: range,
    coming: ComingKeys | None,
) -> None:
    """The pairs of one register block; `columns`: which 16 components of the head, each.

    `coming` is prefetched, page by page: the values come from the cache, so memory would idle.
    """
    dim = block.task.shape.head_dim
    tile = _register_tile(block.together, len(columns))
    with builder.serial(0, vectors) as v:
        page = block.task.page_at(table_first + v)
        if coming is not None:
            # A share of the page in every loop: all of it at once would fill the queue to memory.
            ahead = block.task.page_at(tirx.min(coming.first + v, coming.last))
            share = range(columns.start * LANES * PAGE_SIZE, columns.stop * LANES * PAGE_SIZE)
            for element in share[::_LINE_ELEMENTS]:
                block.task.prefetch(0, ahead, tirx.const(element, "int32"), coming.kv_head)
        with builder.serial(0, PAGE_SIZE) as token:
            weight_at = let(first_pair * SPLIT + v * LANES + token)
            weights = [
                let(tirx.Broadcast(block.scores[weight_at + p * SPLIT], LANES))
                for p in range(block.together)
            ]
            for i, column in enumerate(columns):
                values = block.task.kv_vector(1, page, token * dim + column * LANES)
                for p in range(block.together):
                    _accumulate(tile[p][i], weights[p], values)
    for p in range(block.together):
        pair = let(first_pair + p)
        keep = let(tirx.Broadcast(block.keep[pair], LANES))
        take = let(tirx.Broadcast(block.take[pair], LANES))
        for i, column in enumerate(columns):
            at = let(pair * dim + column * LANES)
            scaled = let(load(tile[p][i], 0) * take)
            store(block.out, fma(load(block.out, at), keep, scaled, LANES), at)
