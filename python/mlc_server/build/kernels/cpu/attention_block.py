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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, SPLIT, Task
from mlc_server.build.kernels.cpu.attention_tiling import Tiling
from mlc_server.build.kernels.cpu.frame import LANES, lane_max, lane_sum, load, scratch, store
from mlc_server.build.kernels.cpu.vector_ops import exp, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)

NO_MAXIMUM = -1.0e29  # maximum of no tokens
_MASKED = -1.0e30  # score of a token behind the row's position; exp(_MASKED - NO_MAXIMUM) is 0
_SPLIT_PAGES = SPLIT // PAGE_SIZE
_LINE_ELEMENTS = 32  # f16 in a cache line


class ComingKeys(NamedTuple):
    """The K pages that are read next: page table indices first .. last of head `kv_head`, i32."""

    kv_head: Expr
    first: Expr
    last: Expr


@dataclass(frozen=True)
class Block:
    """Query rows first_row .. first_row + num_rows - 1 x the head group, as `tiling` cuts them.

    Pair p is (row p // group_size, head p % group_size); pairs behind the last row's, which fill a
    register block, belong to that row again. Memory of one task, for `tiling.pairs` of them: query,
    out f32 [pairs * D], out not normalised; scores f32 [pairs * SPLIT], then exponentials; per
    pair, padded to whole vectors: maximum and total of what is merged so far, split_maximum and
    split_total of the current split, factors keep and take of both. `widened` f32: the vectors of
    K or V at hand, where they are widened ahead.
    """

    task: Task
    tiling: Tiling
    first_row: Expr
    num_rows: Expr
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
    widened: Any

    @property
    def register_blocks(self) -> Expr:
        """How many of them hold the rows that there are."""
        return self.tiling.register_blocks(1 if self.tiling.streams else self.num_rows)

    def row_of(self, pair: Expr) -> Expr:
        """The batch's row of a pair."""
        if self.tiling.streams:
            return self.first_row
        index = tirx.min(pair // self.task.shape.group_size, self.num_rows - 1)
        return let(self.first_row + index)

    def valid_tokens(self, pair: Expr, split: Expr) -> Expr:
        """Tokens of `split` that pair `pair` sees; may be negative or above SPLIT."""
        return let(self.task.tables["positions"][self.row_of(pair)] + 1 - split * SPLIT)


def open_block(task: Task, most_rows: int, first: Expr) -> Block:
    """Rows first .. first + most_rows - 1 of the item, those that there are."""
    tables, dim, group = task.tables, task.shape.head_dim, task.shape.group_size
    sequence, item_row, count = (let(tables["items"][task.item, i]) for i in range(3))
    tiling = Tiling(task.shape, task.isa, most_rows)
    pairs, padded = tiling.pairs, tiling.padded_pairs
    block = Block(
        task,
        tiling,
        let(item_row + first),
        let(tirx.min(count - first, most_rows)),
        let(tables["page_offsets"][sequence]),
        let(tables["page_offsets"][sequence + 1] - 1),
        _coming_keys(task) if tiling.streams else None,
        query=scratch((pairs * dim,)),
        scores=scratch((pairs * SPLIT,)),
        out=scratch((pairs * dim,)),
        maximum=scratch((padded,)),
        total=scratch((padded,)),
        split_maximum=scratch((padded,)),
        split_total=scratch((padded,)),
        keep=scratch((padded,)),
        take=scratch((padded,)),
        widened=scratch((tiling.widened_vectors * LANES,)),
    )
    column = let(task.kv_head * (group * dim))
    with builder.serial(0, block.register_blocks * tiling.together) as pair:
        row, head = block.row_of(pair), let(pair % group)
        with builder.serial(0, dim // LANES) as i:
            vector = load(tables["q"], row, column + head * dim + i * LANES)
            store(block.query, vector, pair * dim + i * LANES)
            store(block.out, splat(0.0, LANES), pair * dim + i * LANES)
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
    for i in range(0, block.tiling.padded_pairs, LANES):
        merged = merge_states(
            (load(block.maximum, i), load(block.total, i)),
            (load(block.split_maximum, i), load(block.split_total, i)),
            LANES,
        )
        store(block.maximum, merged.maximum, i)
        store(block.total, merged.total, i)
        store(block.keep, merged.keep, i)
        store(block.take, merged.take, i)
    _emit_values(block, table_first, vectors, is_last)


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


def _accumulate(
    tile: list[list[Any]], factors: list[Expr], vector: Callable[[int, Expr], Expr], place: Expr
) -> None:
    """tile[p][v] += factors[p] * vector(v, place)."""
    for v in range(len(tile[0])):
        operand = vector(v, place)
        for p, factor in enumerate(factors):
            register = tile[p][v]
            store(register, fma(factor, operand, load(register, 0), LANES), 0)


def _emit_scores(block: Block, split: Expr, table_first: Expr, vectors: Expr) -> None:
    """scores[p, t] = sum_d q[p, d] * K[d, t], d ascending; unseen tokens get _MASKED."""
    task, tiling, dim = block.task, block.tiling, block.task.shape.head_dim
    width = tiling.score_width
    with builder.serial(0, (vectors + (width - 1)) // width) as step:
        pages = _pages(block, table_first, step, width)
        coming = _pages(block, table_first, step + 1, width) if tiling.streams else []

        def prefetch(d: Expr) -> None:
            for page in pages if tiling.streams else []:
                task.prefetch(1, page, d * PAGE_SIZE)
            for page in coming:
                task.prefetch(0, page, d * PAGE_SIZE)

        def keys(v: int, d: Expr) -> Expr:
            return task.kv_vector(0, pages[v], d * PAGE_SIZE)

        def widened(v: int, d: Expr) -> Expr:
            return load(block.widened, (d * width + v) * LANES)

        if tiling.widens_ahead:
            for d in _components(dim, prefetch):
                for v in range(width):
                    store(block.widened, keys(v, d), (d * width + v) * LANES)
        with builder.serial(0, block.register_blocks) as part:
            first_pair = let(part * tiling.together)
            tile = _register_tile(tiling.together, width)
            for d in _components(dim, None if tiling.widens_ahead else prefetch):
                factors = _factors(block, block.query, first_pair * dim + d, dim)
                _accumulate(tile, factors, widened if tiling.widens_ahead else keys, d)
            _store_scores(block, tile, split, step, first_pair)


def _components(dim: int, prefetch: Callable[[Expr], None] | None) -> Iterator[Expr]:
    """A loop over components, two at a time: 16 tokens of two are one cache line."""
    with builder.serial(0, dim // 2) as pair_of_components:
        first = let(pair_of_components * 2)
        if prefetch is not None:
            prefetch(first)
        yield first
        yield let(first + 1)


def _factors(block: Block, buffer: Any, first: Expr, stride: int) -> list[Expr]:
    """The value of each pair of a register block, in all lanes."""
    return [
        let(tirx.Broadcast(buffer[first + p * stride], LANES)) for p in range(block.tiling.together)
    ]


def _store_scores(
    block: Block, tile: list[list[Any]], split: Expr, step: Expr, first_pair: Expr
) -> None:
    """The scores of one register block, tile[pair][page of the step], unseen ones masked."""
    for p, registers in enumerate(tile):
        pair = let(first_pair + p)
        valid = let(tirx.Broadcast(block.valid_tokens(pair, split), LANES))
        for v, register in enumerate(registers):
            token = let((step * len(registers) + v) * LANES)
            seen = builder.ramp(token, 1, LANES) < valid
            value = tirx.Select(seen, load(register, 0), splat(_MASKED, LANES))
            store(block.scores, value, pair * SPLIT + token)


def _pages(block: Block, table_first: Expr, step: Expr, width: int) -> list[Expr]:
    """Pages of vectors step * width ..; the sequence's last page again where there are no more."""
    indices = [
        let(tirx.min(table_first + step * width + v, block.table_last)) for v in range(width)
    ]
    return [block.task.page_at(index) for index in indices]


def _emit_softmax(block: Block, vectors: Expr) -> None:
    """Maximum of each pair over the split's scores, their exponentials and sum."""
    with builder.serial(0, block.register_blocks * block.tiling.together) as pair:
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


def _emit_values(block: Block, table_first: Expr, vectors: Expr, is_last: Expr) -> None:
    """out[p] = out[p] * keep[p] + take[p] * sum_t weight[p, t] * V[t], t ascending."""
    tiling = block.tiling
    components = block.task.shape.head_dim // LANES
    coming = _keys_after(block, table_first, is_last)
    for begin in range(0, components, tiling.value_width):
        columns = range(begin, min(begin + tiling.value_width, components))
        values = Values(block, table_first, columns, coming)
        if tiling.widens_ahead:
            values.widen(vectors)
        with builder.serial(0, block.register_blocks) as part:
            _emit_value_columns(values, vectors, let(part * tiling.together))


def _keys_after(block: Block, table_first: Expr, is_last: Expr) -> ComingKeys | None:
    """What is read after this split: the next split of the item, or what follows the item."""
    if block.coming is None:
        return None
    within = ComingKeys(block.task.kv_head, table_first + _SPLIT_PAGES, block.table_last)
    chosen = (let(tirx.Select(is_last, *pair)) for pair in zip(block.coming, within, strict=True))
    return ComingKeys(*chosen)


@dataclass(frozen=True)
class Values:
    """The vectors `columns` of V, 16 components each, of a split's tokens.

    `coming`: what is prefetched meanwhile, a share of each page beside each page of these. They
    come from the cache, so memory would idle; all at once would fill the queue to it.
    """

    block: Block
    table_first: Expr
    columns: range
    coming: ComingKeys | None

    def open_page(self, v: Expr) -> Expr:
        """Page id of page v of the split."""
        task, coming = self.block.task, self.coming
        page = task.page_at(self.table_first + v)
        if coming is not None:
            ahead = task.page_at(tirx.min(coming.first + v, coming.last))
            share = range(self.columns.start * LANES, self.columns.stop * LANES)
            for line in range(share.start * PAGE_SIZE, share.stop * PAGE_SIZE, _LINE_ELEMENTS):
                task.prefetch(0, ahead, tirx.const(line, "int32"), coming.kv_head)
        return page

    def from_page(self, page: Expr, token: Expr, i: int) -> Expr:
        """Vector i of token `token` of a page."""
        dim = self.block.task.shape.head_dim
        return self.block.task.kv_vector(1, page, token * dim + self.columns[i] * LANES)

    def widen(self, vectors: Expr) -> None:
        """Puts those of `vectors` pages where `widened` finds them."""
        with builder.serial(0, vectors) as v:
            page = self.open_page(v)
            with builder.serial(0, PAGE_SIZE) as token:
                for i in range(len(self.columns)):
                    place = self._place(v, token, i)
                    store(self.block.widened, self.from_page(page, token, i), place)

    def widened(self, v: Expr, token: Expr, i: int) -> Expr:
        """Vector i of token `token` of page v."""
        return load(self.block.widened, self._place(v, token, i))

    def _place(self, v: Expr, token: Expr, i: int) -> Expr:
        return ((v * PAGE_SIZE + token) * len(self.columns) + i) * LANES


def _emit_value_columns(values: Values, vectors: Expr, first_pair: Expr) -> None:
    """out of the pairs of one register block, for the columns of `values`."""
    block, columns = values.block, values.columns
    dim, ahead = block.task.shape.head_dim, block.tiling.widens_ahead
    tile = _register_tile(block.tiling.together, len(columns))
    with builder.serial(0, vectors) as v:
        page = None if ahead else values.open_page(v)
        with builder.serial(0, PAGE_SIZE) as token:
            weight_at = let(first_pair * SPLIT + v * LANES + token)
            weights = _factors(block, block.scores, weight_at, SPLIT)

            def vector(i: int, token: Expr, page: Expr = page, v: Expr = v) -> Expr:
                if ahead:
                    return values.widened(v, token, i)
                return values.from_page(page, token, i)

            _accumulate(tile, weights, vector, token)
    for p in range(block.tiling.together):
        pair = let(first_pair + p)
        keep = let(tirx.Broadcast(block.keep[pair], LANES))
        take = let(tirx.Broadcast(block.take[pair], LANES))
        for i, column in enumerate(columns):
            at = let(pair * dim + column * LANES)
            scaled = let(load(tile[p][i], 0) * take)
            store(block.out, fma(load(block.out, at), keep, scaled, LANES), at)
