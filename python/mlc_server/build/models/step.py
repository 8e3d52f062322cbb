"""The arguments of a step: types and bounds of what `forward` of every network takes.

The runner fills these tables; their meaning is described at `attention_kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE
from mlc_server.build.library_metadata import Limits
from mlc_server.build.manifest import ModelConfig


@dataclass(frozen=True)
class Step:
    """The tables of one step (see `forward_spec`) and what is made once from them."""

    positions: Tensor
    write_slots: Tensor
    page_offsets: Tensor
    page_table: Tensor
    attention_items: Tensor
    combine_items: Tensor
    logit_rows: Tensor
    weights: Tensor
    rotary_table: Tensor

    @property
    def rows(self) -> Any:
        """M, symbolic."""
        return self.positions.shape[0]


def forward_spec(config: ModelConfig, arena_bytes: int) -> dict[str, Any]:
    """Arguments of `forward` in order and their types; named dimensions are symbolic."""
    table = {
        "token_ids": ["num_rows"],
        "positions": ["num_rows"],
        "write_slots": ["num_rows"],
        "page_offsets": ["num_page_offsets"],
        "page_table": ["num_table_pages"],
        "attention_items": ["num_items", 4],
        "combine_items": ["num_combines", 3],
        "logit_rows": ["num_logit_rows"],
    }
    page_values = PAGE_SIZE * config.head_dim
    kv_shape = [config.num_layers, "num_pages", config.num_kv_heads, 2, page_values]
    spec: dict[str, Any] = {name: nn.spec.Tensor(shape, "int32") for name, shape in table.items()}
    spec["kv_pages"] = nn.spec.Tensor(kv_shape, "float16")
    spec["weights"] = nn.spec.Tensor([arena_bytes], "uint8")
    return spec


def dimension_bounds(limits: Limits) -> Mapping[str, int]:
    """Largest values of the symbolic dimensions that intermediate tensors have."""
    return {
        "num_rows": limits.max_rows,
        "num_items": limits.max_attention_items,
        "num_logit_rows": limits.max_logit_rows,
    }
