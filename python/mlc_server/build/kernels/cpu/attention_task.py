"""What attention works on: its sizes, and the pages that one parallel task reads.

Contents:
    PAGE_SIZE, SPLIT  tokens of a KV page, and of a self-contained softmax.
    AttentionShape    sizes of one model's attention.
    Task              one item of one KV head, with access to its pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import LANES, load
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.vector_ops import GROUP, f16_to_f32, let
from mlc_server.errors import CompileError

Expr = Any  # a TIR expression (tvm ships no types)

PAGE_SIZE = 16  # one vector of f32, 32 bytes of f16
SPLIT = 256


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of attention. head_dim is a multiple of 16; q heads share kv heads in equal groups."""

    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if self.head_dim % LANES or self.num_q_heads % self.num_kv_heads:
            raise CompileError(
                "the attention heads of this model are not supported",
                seen=f"{self.num_q_heads} query and {self.num_kv_heads} key-value heads of "
                f"{self.head_dim} components",
                hint="use a model whose head_dim is a multiple of 16",
            )

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


@dataclass(frozen=True)
class Task:
    """One item of one KV head. `tables`: the kernel's tensors; `layer`: i64; others: i32."""

    shape: AttentionShape
    isa: VectorIsa
    tables: Mapping[str, Any]
    layer: Expr
    num_items: Expr
    item: Expr
    kv_head: Expr

    def kv_vector(self, part: int, page: Expr, offset: Expr) -> Expr:
        """16 consecutive values of K (part 0) or V (part 1) of this head in `page`, as f32."""
        place = (self.layer, page, tirx.Cast("int64", self.kv_head), part)
        half = load(self.tables["kv"], *place, offset)
        return f16_to_f32(half, LANES, native=self.isa.has_f16)

    def prefetch(self, part: int, page: Expr, offset: Expr, kv_head: Expr | None = None) -> None:
        """Asks for the cache line of K (part 0) or V (part 1) that holds element `offset`.

        kv_head: another head than the task's.
        """
        head = self.kv_head if kv_head is None else kv_head
        place = (self.layer, page, tirx.Cast("int64", head), part, offset)
        address = tirx.address_of(self.tables["kv"][place])
        read, keep, data = (tirx.const(value, "int32") for value in (0, 3, 1))
        request = tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, keep, data)
        builder.evaluate(request)

    def page_at(self, page_index: Expr) -> Expr:
        """Page id, i64, of page `page_index` of the whole table."""
        return let(tirx.Cast("int64", self.tables["page_table"][page_index]))
