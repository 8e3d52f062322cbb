"""What a model library says about itself: its ABI, its KV layout and its packed weights.

The runner reads this before anything else. A change of the meaning of any field, of the arguments
of `forward` or of the KV layout is a new ABI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.manifest import Manifest
from mlc_server.build.targets import CompileTarget

ABI_VERSION = 1
LIBRARY_FORMAT = "mlc_server-model-library"
ARENA_ALIGNMENT = 64


@dataclass(frozen=True)
class Limits:
    """Upper bounds of the dimensions of one step; the library's memory is planned for them."""

    max_rows: int = 2048
    max_sequences: int = 512
    max_logit_rows: int = 512
    max_attention_items: int = 4096


@dataclass(frozen=True)
class WeightEntry:
    """One parameter in the arena: `pack` makes it of the disk tensors `sources`."""

    name: str
    offset: int
    nbytes: int
    pack: str
    sources: tuple[str, ...]
    source_shapes: tuple[tuple[int, ...], ...]
    source_dtypes: tuple[str, ...]
    matrix: PackedMatrix | None

    def to_json(self) -> dict[str, Any]:
        fields = ("name", "offset", "nbytes", "pack")
        lists = ("sources", "source_shapes", "source_dtypes")
        return {
            **{field: getattr(self, field) for field in fields},
            **{field: list(getattr(self, field)) for field in lists},
        }


@dataclass(frozen=True)
class WeightLayout:
    """All parameters in one byte arena, in the order a step reads them."""

    entries: Mapping[str, WeightEntry]
    arena_bytes: int

    def offset(self, name: str) -> int:
        """First byte of parameter `name`."""
        return self.entries[name].offset

    def matrix(self, base: str) -> PackedMatrix:
        """Layout of matrix `base`."""
        matrix = self.entries[base].matrix
        assert matrix is not None, base
        return matrix


def plan_weights(manifest: Manifest) -> WeightLayout:
    """Places every parameter of `manifest`; raises CompileError for sizes no kernel takes."""
    entries: dict[str, WeightEntry] = {}
    end = 0
    for name in _reading_order(manifest):
        entry = _plan_entry(manifest, name, end)
        entries[name] = entry
        end = -(-(entry.offset + entry.nbytes) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
    return WeightLayout(entries, end)


def _reading_order(manifest: Manifest) -> Iterator[str]:
    """Matrices by base name, vectors by full name."""
    yield "model.embed_tokens"
    for layer in range(manifest.model.num_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight"
        yield f"{prefix}.self_attn.qkv_proj"
        if manifest.model.attention_bias:
            yield f"{prefix}.self_attn.qkv_proj.bias"
        yield f"{prefix}.self_attn.o_proj"
        yield f"{prefix}.post_attention_layernorm.weight"
        yield f"{prefix}.mlp.gate_up_proj"
        yield f"{prefix}.mlp.down_proj"
    yield "model.norm.weight"
    if not manifest.model.tie_word_embeddings:
        yield "lm_head"


def _plan_entry(manifest: Manifest, name: str, offset: int) -> WeightEntry:
    tensors = manifest.tensors
    if name not in manifest.model.parameters.matrices:
        record = tensors[name]
        (length,) = record.shape
        pack = f"pack_vector_{record.dtype}_{length}"
        sources = ((name,), ((length,),), (record.dtype,))
        return WeightEntry(name, offset, 4 * length, pack, *sources, matrix=None)
    rows, columns = manifest.model.parameters.matrices[name]
    scale = tensors.get(f"{name}.q_scale")
    matrix = PackedMatrix(
        scheme=manifest.schemes[name],
        rows=rows,
        cols=columns,
        gate_up=name.endswith(".gate_up_proj"),
        scale_dtype="float16" if scale is None else scale.dtype,
    )
    names = tuple(name + suffix for suffix in matrix.source_suffixes)
    shapes, dtypes = zip(*matrix.source_types, strict=True)
    pack = f"pack_{matrix.name}"
    return WeightEntry(name, offset, matrix.nbytes, pack, names, shapes, dtypes, matrix)


def library_metadata(
    manifest: Manifest, layout: WeightLayout, target: CompileTarget, limits: Limits
) -> dict[str, Any]:
    """The JSON object that the library's `metadata` function returns."""
    model = manifest.model
    page_values = PAGE_SIZE * model.head_dim
    sizes = ("vocab_size", "hidden_size", "num_layers", "num_q_heads", "num_kv_heads", "head_dim")
    return {
        "abi": ABI_VERSION,
        "format": LIBRARY_FORMAT,
        "target": target.description,
        "feature_level": target.feature_level,
        "model_type": model.model_type,
        "quantization": manifest.quantization,
        **{name: getattr(model, name) for name in sizes},
        "context_window_size": model.context_window_size,
        "kv": {
            "dtype": "float16",
            "page_size": PAGE_SIZE,
            "shape": ["num_layers", "num_pages", "num_kv_heads", 2, page_values],
            "bytes_per_page": model.num_layers * model.num_kv_heads * 2 * page_values * 2,
        },
        "limits": {name: getattr(limits, name) for name in limits.__dataclass_fields__},
        "weights": {
            "arena_bytes": layout.arena_bytes,
            "alignment": ARENA_ALIGNMENT,
            "entries": [entry.to_json() for entry in layout.entries.values()],
        },
    }
