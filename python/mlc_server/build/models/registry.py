"""Which network a `model_type` is; add an architecture by adding its module's class here."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.target import Target

from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.library_metadata import Limits, WeightLayout
from mlc_server.build.manifest import ModelConfig
from mlc_server.build.models.llama import LlamaForCausalLM
from mlc_server.build.models.step import forward_spec
from mlc_server.errors import CompileError

NETWORKS: dict[str, Any] = {"llama": LlamaForCausalLM, "mistral": LlamaForCausalLM}


def build_network(
    config: ModelConfig, layout: WeightLayout, isa: VectorIsa, target: Target, limits: Limits
) -> tvm.IRModule:
    """The module that holds `forward` of the network and its kernels; raises CompileError."""
    if config.model_type not in NETWORKS:
        raise CompileError(
            "no kernels for this architecture",
            seen=config.model_type,
            hint=f"one of {', '.join(sorted(NETWORKS))}",
        )
    network = NETWORKS[config.model_type](config, layout, isa, limits)
    with target:
        module, _ = network.export_tvm({"forward": forward_spec(config, layout.arena_bytes)})
    return module
