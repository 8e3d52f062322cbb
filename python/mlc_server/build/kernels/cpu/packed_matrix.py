"""How a weight matrix lies in the arena of the CPU kernels.

Contents:
    PackedMatrix    one weight matrix: sizes, offsets inside it, names, disk tensors.

Layout of a matrix of N rows (outputs) and K columns (inputs): panels of 32 rows, one after another,
the last one padded with rows whose scales are zero. In a panel, per group of 32 columns
(ascending), one block:

    q4_*  4 x 128 bytes of nibbles: byte 4 r + i of vector j holds q[r, 4 j + i] in its low half and
          q[r, 16 + 4 j + i] in its high half (r: row in the panel, columns relative to the group);
          32 scales (f16 or f32, as on disk); q4_min also 32 minima of the same type
    q8    8 x 128 bytes: byte 4 r + i of vector j holds q[r, 4 j + i] + 128; then 32 scales
    f16, f32   no groups: [K][32] values

A panel is one linear stream of whole cache lines, and any run of 4 l bytes of a vector is an
operand for l rows x 4 columns, so every vector width up to 1024 bits reads it without shuffles.
Gate and up projections (`gate_up`; on disk all gate rows, then all up rows) share panels: 16 gate
rows, then the 16 up rows that belong to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlc_server.build.kernels.cpu.vector_ops import GROUP
from mlc_server.errors import CompileError

PANEL_ROWS = 32

ZERO_POINTS = {"q4_z7": 7, "q4_z8": 8, "q4_min": 0, "q8": 128}
_WEIGHT_BITS = {"q4_z7": 4, "q4_z8": 4, "q4_min": 4, "q8": 8, "f16": 16, "f32": 32}
_ITEM_BYTES = {"float16": 2, "float32": 4}
_FLOAT_SCHEMES = {"f16": "float16", "f32": "float32"}


@dataclass(frozen=True)
class PackedMatrix:
    """A weight matrix of `rows` x `cols` (N x K) stored as `scheme`.

    `gate_up`: the rows are a gate half and an up half of equal size. `scale_dtype`: element type
    of q_scale (and q_min) on disk, kept in the arena; unused by float schemes.
    """

    scheme: str
    rows: int
    cols: int
    gate_up: bool = False
    scale_dtype: str = "float16"

    def __post_init__(self) -> None:
        known = self.scheme in ZERO_POINTS or self.scheme in _FLOAT_SCHEMES
        if not known or self.scale_dtype not in _ITEM_BYTES:
            raise CompileError(
                "this storage of a weight matrix is not supported",
                seen=f"scheme {self.scheme}, scales {self.scale_dtype}",
                hint=f"one of {', '.join([*ZERO_POINTS, *_FLOAT_SCHEMES])}",
            )
        if self.rows < 1 or self.cols < 1 or (self.gate_up and self.rows % 2):
            raise CompileError(
                "a weight matrix has an impossible shape",
                seen=f"[{self.rows}, {self.cols}], gate_up={self.gate_up}",
                hint="check the shapes in the model folder",
            )
        if self.scheme == "q8" and self.cols % GROUP:
            raise CompileError(
                "8-bit weights need a multiple of 32 columns",
                seen=f"[{self.rows}, {self.cols}]",
                hint="convert the model again from its source",
            )

    @property
    def is_quantized(self) -> bool:
        return self.scheme in ZERO_POINTS

    @property
    def has_minimum(self) -> bool:
        return self.scheme == "q4_min"

    @property
    def bits(self) -> int:
        """Bits of one stored weight."""
        return _WEIGHT_BITS[self.scheme]

    @property
    def zero_point(self) -> int:
        """Subtracted from a stored weight before scaling (quantised schemes)."""
        return ZERO_POINTS[self.scheme]

    @property
    def groups(self) -> int:
        """Groups of 32 columns, the last one padded with zeros by whoever converted the model."""
        return -(-self.cols // GROUP)

    @property
    def float_dtype(self) -> str:
        """Element type of a float scheme."""
        return _FLOAT_SCHEMES[self.scheme]

    @property
    def part_rows(self) -> int:
        """Rows of one half (gate_up) or of the whole."""
        return self.rows // 2 if self.gate_up else self.rows

    @property
    def panels(self) -> int:
        """Panels of 32 rows; with gate_up an even number, so that outputs come in whole 32s."""
        return -(-self.part_rows // PANEL_ROWS) * (2 if self.gate_up else 1)

    @property
    def quant_bytes(self) -> int:
        """Bytes of the weights of one block; the scales follow."""
        return PANEL_ROWS * GROUP * self.bits // 8

    @property
    def scales_bytes(self) -> int:
        """Bytes of the 32 scales of one block; the minima, if any, follow and take as many."""
        return PANEL_ROWS * self.scale_bytes

    @property
    def scale_bytes(self) -> int:
        return _ITEM_BYTES[self.scale_dtype]

    @property
    def float_bytes(self) -> int:
        """Bytes of one weight of a float scheme."""
        return _ITEM_BYTES[self.float_dtype]

    @property
    def block_bytes(self) -> int:
        """Bytes of one step along K: 32 columns with scales and minima, or one float column."""
        if not self.is_quantized:
            return PANEL_ROWS * self.float_bytes
        return self.quant_bytes + self.scales_bytes * (2 if self.has_minimum else 1)

    @property
    def steps(self) -> int:
        """Blocks of a panel."""
        return self.groups if self.is_quantized else self.cols

    @property
    def panel_bytes(self) -> int:
        return self.steps * self.block_bytes

    @property
    def nbytes(self) -> int:
        """Bytes in the arena, a multiple of 64."""
        return self.panels * self.panel_bytes

    @property
    def name(self) -> str:
        """Distinct for distinct layouts; a valid symbol name."""
        suffix = "_gate_up" if self.gate_up else ""
        if self.is_quantized and self.scale_dtype == "float32":
            suffix += "_s32"
        return f"{self.scheme}_{self.rows}_{self.cols}{suffix}"

    @property
    def source_suffixes(self) -> tuple[str, ...]:
        """What follows the matrix's base name in the disk tensors `pack_function` takes."""
        if not self.is_quantized:
            return (".weight",)
        return (".q_weight", ".q_scale", ".q_min")[: 3 if self.has_minimum else 2]

    @property
    def source_types(self) -> tuple[tuple[tuple[int, int], str], ...]:
        """(shape, dtype) of each of those tensors."""
        if not self.is_quantized:
            return (((self.rows, self.cols), self.float_dtype),)
        weight = ((self.rows, self.groups * 4), "uint32")
        if self.scheme == "q8":
            weight = ((self.rows, self.cols), "int8")
        scale = ((self.rows, self.groups), self.scale_dtype)
        return (weight, scale, scale)[: 3 if self.has_minimum else 2]
