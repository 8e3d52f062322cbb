"""What a converter reads weights from, whatever the file format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlc_server.build.manifest import ModelConfig
from mlc_server.build.quantize.schemes import Floats, Parts


class WeightSource(Protocol):
    """The parameters of one model under MLC's fused names (see architecture.py)."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about this source, such as losses; for the log."""

    def native_scheme(self, base: str) -> str | None:
        """The scheme that keeps matrix `base` as it is; None if floats are all there is."""

    def native_parts(self, base: str) -> Parts:
        """The stored tensors of `base` in its native scheme."""

    def floats(self, base: str) -> Floats:
        """Matrix `base` as float32 [N, K]."""

    def vector(self, name: str) -> Floats:
        """Vector `name` as float32 [N]."""
