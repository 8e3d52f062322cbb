"""Llama and its kin (Mistral): the step function over a mixed batch.

A layer is eight calls of hand-scheduled kernels: norm, qkv, rotary with the KV write, attention,
o_proj with the residual, norm, gate_up with SiLU, down_proj with the residual. Activations are
quantised by the kernel that makes them, when the linear layer that reads them is. Behind the last
layer's attention only the rows whose logits are wanted go on: of a prompt, most often one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_server.build.kernels.cpu.attention import attention_kernel
from mlc_server.build.kernels.cpu.attention_task import AttentionShape
from mlc_server.build.kernels.cpu.embedding import embedding_function, embedding_name
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.linear import LinearSpec, linear_function
from mlc_server.build.kernels.cpu.norm import RmsNormSpec, quantize_kernel, rms_norm_kernel
from mlc_server.build.kernels.cpu.pick_rows import Columns, pick_rows_kernel, pick_rows_name
from mlc_server.build.kernels.cpu.rope import rotary_kernel, rotary_table_kernel, turns_per_token
from mlc_server.build.kernels.cpu.vector_ops import GROUP
from mlc_server.build.library_metadata import Limits, WeightLayout
from mlc_server.build.manifest import ModelConfig
from mlc_server.build.models.calls import KernelCalls, Workspace, constant, inputs_first
from mlc_server.build.models.step import Step, dimension_bounds

# f32 [M, K], or quantised: xq i8 [M, K], xs f32, xi i32, xss f32 [M, K / 32].
Activations = list[Tensor]


class Context:
    """What all modules share: sizes, the arena's layout, the target, kernels and workspace."""

    def __init__(
        self, config: ModelConfig, layout: WeightLayout, isa: VectorIsa, limits: Limits
    ) -> None:
        self.config = config
        self.layout = layout
        self.isa = isa
        self.call = KernelCalls()
        self.workspace = Workspace(dimension_bounds(limits))
        self.attention_shape = AttentionShape(
            config.num_layers, config.num_q_heads, config.num_kv_heads, config.head_dim
        )

    def is_quantized(self, base: str) -> bool:
        """Whether matrix `base` reads quantised activations."""
        return self.layout.matrix(base).is_quantized

    def activations(self, role: str, rows: Any, width: int, quantized: bool) -> Activations:
        """Tensors of the workspace that a linear layer of `width` columns reads."""
        if not quantized:
            return [self.workspace(role, (rows, width), "float32")]
        groups = -(-width // GROUP)
        return [
            self.workspace(f"{role}_quants", (rows, groups * GROUP), "int8"),
            self.workspace(f"{role}_scales", (rows, groups), "float32"),
            self.workspace(f"{role}_totals", (rows, groups), "int32"),
            self.workspace(f"{role}_scaled_totals", (rows, groups), "float32"),
        ]

    def pick_rows(self, tensors: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        """Copies of the `rows` of each tensor."""
        columns = [Columns(int(t.shape[1]), t.dtype) for t in tensors]
        copies = [
            self.workspace(f"picked_{i}", (rows.shape[0], c.width), c.dtype)
            for i, c in enumerate(columns)
        ]
        return self.call(
            pick_rows_name(columns),
            lambda: pick_rows_kernel(columns),
            [*tensors, rows],
            copies,
        )


class RmsNorm(nn.Module):  # type: ignore[misc] # tvm ships no types
    """RMSNorm whose output is what matrix `consumer` reads."""

    def __init__(self, context: Context, name: str, consumer: str) -> None:
        self._context = context
        self._offset = context.layout.offset(name)
        quantize = context.is_quantized(consumer)
        config = context.config
        self._spec = RmsNormSpec(config.hidden_size, config.rms_norm_eps, quantize)

    def forward(self, x: Tensor, weights: Tensor) -> Activations:
        spec = self._spec
        outputs = self._context.activations("normed", x.shape[0], spec.size, spec.quantize)
        return self._context.call(
            spec.name, lambda: rms_norm_kernel(spec), [x, weights, self._offset], outputs
        )


class Linear(nn.Module):  # type: ignore[misc] # tvm ships no types
    """A linear layer with its epilogue (see `LinearSpec`), and its bias where there is one."""

    def __init__(self, context: Context, base: str, epilogue: str = "store") -> None:
        self._context = context
        bias = f"{base}.bias"
        has_bias = bias in context.layout.entries
        self._spec = LinearSpec(context.layout.matrix(base), epilogue, has_bias)
        self._offsets = [context.layout.offset(base)]
        if has_bias:
            self._offsets.append(context.layout.offset(bias))

    def forward(self, x: Activations, weights: Tensor, outputs: Activations) -> Activations:
        """Writes `outputs`, or with epilogue "residual_inplace" adds to it."""
        spec, isa = self._spec, self._context.isa
        return self._context.call(
            spec.name,
            lambda: inputs_first(linear_function(spec, isa), len(outputs)),
            [*x, weights, *self._offsets],
            outputs,
        )


class Attention(nn.Module):  # type: ignore[misc] # tvm ships no types
    """Rotary embedding, KV write and attention of one layer, added to the residual stream.

    The last layer's adds it for the step's logit rows only, and gives only those.
    """

    def __init__(self, context: Context, layer: int) -> None:
        prefix = f"model.layers.{layer}.self_attn"
        self._context = context
        self._layer = layer
        self._is_last = layer == context.config.num_layers - 1
        self._qkv = Linear(context, f"{prefix}.qkv_proj")
        self._output = Linear(context, f"{prefix}.o_proj", "residual_inplace")
        self._quantize = context.is_quantized(f"{prefix}.o_proj")

    def forward(
        self, x: Activations, hidden: Tensor, kv: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        """The residual stream and the KV pages after this layer's attention."""
        context, shape = self._context, self._context.attention_shape
        qkv_width = shape.width + 2 * shape.num_kv_heads * shape.head_dim
        qkv_out = context.workspace("qkv", (step.rows, qkv_width), "float32")
        (qkv,) = self._qkv(x, step.weights, [qkv_out])
        kv, q = context.call(
            "rotary",
            lambda: rotary_kernel(shape, context.isa),
            [qkv, step.rotary_table, step.write_slots, kv, self._layer],
            [kv, context.workspace("q", (step.rows, shape.width), "float32")],
        )
        mixed = self._attend(q, kv, step)
        if self._is_last:
            hidden, *mixed = context.pick_rows([hidden, *mixed], step.logit_rows)
        (hidden,) = self._output(mixed, step.weights, [hidden])
        return hidden, kv

    def _attend(self, q: Tensor, kv: Tensor, step: Step) -> Activations:
        context, shape = self._context, self._context.attention_shape
        fused = self._quantize and shape.quantizes_output
        items = step.attention_items.shape[0]
        outputs = context.activations("mixed", step.rows, shape.width, fused)
        partial = (items, shape.num_q_heads, shape.head_dim)
        statistics = (items, shape.num_q_heads, 2)
        workspaces = [
            context.workspace("partial_out", partial, "float32"),
            context.workspace("partial_statistics", statistics, "float32"),
        ]
        tables = [step.page_offsets, step.page_table, step.attention_items, step.combine_items]
        results = context.call(
            f"attention_{'quantized' if fused else 'f32'}",
            lambda: attention_kernel(shape, context.isa, quantize=fused),
            [q, step.positions, *tables, kv, self._layer],
            [*outputs, *workspaces],
        )
        mixed = results[: len(outputs)]
        if self._quantize and not fused:
            name = f"quantize_rows_{shape.width}"
            quantized = context.activations("mixed", step.rows, shape.width, True)
            mixed = context.call(name, lambda: quantize_kernel(shape.width), mixed, quantized)
        return mixed


class Layer(nn.Module):  # type: ignore[misc] # tvm ships no types
    """One transformer block."""

    def __init__(self, context: Context, index: int) -> None:
        prefix = f"model.layers.{index}"
        qkv, gate_up = f"{prefix}.self_attn.qkv_proj", f"{prefix}.mlp.gate_up_proj"
        down = f"{prefix}.mlp.down_proj"
        self._context = context
        self._gated_quantized = context.is_quantized(down)
        kind = "quantized" if self._gated_quantized else "float"
        self._input_norm = RmsNorm(context, f"{prefix}.input_layernorm.weight", qkv)
        self._attention = Attention(context, index)
        self._mlp_norm = RmsNorm(context, f"{prefix}.post_attention_layernorm.weight", gate_up)
        self._gate_up = Linear(context, gate_up, f"gate_up_{kind}")
        self._down = Linear(context, down, "residual_inplace")

    def forward(self, hidden: Tensor, kv: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        context, weights = self._context, step.weights
        normed = self._input_norm(hidden, weights)
        hidden, kv = self._attention(normed, hidden, kv, step)
        normed = self._mlp_norm(hidden, weights)
        width = context.config.intermediate_size
        gated = context.activations("gated", hidden.shape[0], width, self._gated_quantized)
        gated = self._gate_up(normed, weights, gated)
        (hidden,) = self._down(gated, weights, [hidden])
        return hidden, kv


class LlamaForCausalLM(nn.Module):  # type: ignore[misc] # tvm ships no types
    """The whole network; `forward` is the library's main function. An instance is used once."""

    def __init__(
        self, config: ModelConfig, layout: WeightLayout, isa: VectorIsa, limits: Limits
    ) -> None:
        context = Context(config, layout, isa, limits)
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        self._context = context
        self._layers = [Layer(context, index) for index in range(config.num_layers)]
        self._norm = RmsNorm(context, "model.norm.weight", head)
        self._head = Linear(context, head)

    def forward(  # noqa: PLR0917 - the library's calling convention
        self,
        token_ids: Tensor,
        positions: Tensor,
        write_slots: Tensor,
        page_offsets: Tensor,
        page_table: Tensor,
        attention_items: Tensor,
        combine_items: Tensor,
        logit_rows: Tensor,
        kv_pages: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Writes the rows' K and V into `kv_pages`; logits f32 [L, vocab_size] of `logit_rows`."""
        step = Step(
            positions,
            write_slots,
            page_offsets,
            page_table,
            attention_items,
            combine_items,
            logit_rows,
            weights,
            self._rotary_table(positions),
        )
        hidden = self._embed(token_ids, weights)
        for layer in self._layers:
            hidden, kv_pages = layer(hidden, kv_pages, step)
        normed = self._norm(hidden, weights)
        logits_shape = (logit_rows.shape[0], self._context.config.vocab_size)
        out = self._context.workspace("logits", logits_shape, "float32")
        (logits,) = self._head(normed, weights, [out])
        return logits

    def _rotary_table(self, positions: Tensor) -> Tensor:
        context, config = self._context, self._context.config
        turns = constant(turns_per_token(config.rope_inverse_frequencies))
        (table,) = context.call(
            "rotary_table",
            lambda: rotary_table_kernel(config.head_dim),
            [positions, turns],
            [context.workspace("angles", (positions.shape[0], config.head_dim), "float32")],
        )
        return table

    def _embed(self, token_ids: Tensor, weights: Tensor) -> Tensor:
        context, base = self._context, "model.embed_tokens"
        matrix = context.layout.matrix(base)
        shape = (token_ids.shape[0], context.config.hidden_size)
        (hidden,) = context.call(
            embedding_name(matrix),
            lambda: inputs_first(embedding_function(matrix, context.isa), 1),
            [token_ids, weights, context.layout.offset(base)],
            [context.workspace("hidden", shape, "float32")],
        )
        return hidden
