"""Reads a model folder into frozen dataclasses: the one description everything shares.

A folder holds `mlc-chat-config.json`, `tensor-cache.json` (or the older `ndarray-cache.json`),
`params_shard_*.bin` and tokenizer files, written by this package or by MLC-LLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlc_server.build.architecture import ARCHITECTURES, ParameterTable
from mlc_server.build.fields import Fields, read_json_object, shown
from mlc_server.build.rope import inverse_frequencies
from mlc_server.build.tensor_cache import TensorRecord, read_tensor_cache
from mlc_server.errors import FormatError

__all__ = ["Manifest", "ModelConfig", "TensorRecord", "load_manifest", "read_model_config"]

CHAT_CONFIG = "mlc-chat-config.json"
GROUP_SIZE = 32
NIBBLES_PER_WORD = 8

# MLC's names whose layout is read here: groups of 32 along K, rows first.
QUANTIZATIONS = frozenset(
    {"q4f16_1", "q4f32_1", "q4bf16_1", "q4f16_2", "q0f16", "q0f32", "q0bf16"}
    | {"gguf", "q4_0", "q4_1", "q8_0"}
)
SCHEMES = frozenset({"q4_z7", "q4_z8", "q4_min", "q8", "f16", "f32"})


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of the network."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    tie_word_embeddings: bool
    context_window_size: int
    attention_bias: bool = False

    @cached_property
    def rope_inverse_frequencies(self) -> tuple[float, ...]:
        """head_dim / 2 radians per position, rope_scaling applied."""
        return inverse_frequencies(self.head_dim, self.rope_theta, self.rope_scaling)

    @cached_property
    def parameters(self) -> ParameterTable:
        """Names and shapes of the matrices and vectors this network needs."""
        return ARCHITECTURES[self.model_type](self)


@dataclass(frozen=True)
class Manifest:
    """A checked model folder. `schemes`: matrix base name -> storage scheme."""

    folder: Path
    model: ModelConfig
    quantization: str
    schemes: Mapping[str, str]
    tensors: Mapping[str, TensorRecord]
    chat_config: Mapping[str, Any]

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a turn: conv_template.stop_token_ids united with eos_token_id.

        Published templates list wrong ids often enough that neither alone will do.
        """
        fields = Fields(self.chat_config, CHAT_CONFIG)
        template = fields.mapping("conv_template")
        vocab_size = self.model.vocab_size
        ids = template.token_ids("stop_token_ids", vocab_size)
        return tuple(sorted({*ids, *fields.token_ids("eos_token_id", vocab_size)}))


def load_manifest(folder: Path) -> Manifest:
    """Reads and checks a folder; raises FormatError naming the file and the field.

    Every tensor the architecture needs is there once, in a known scheme, with the right shape,
    inside a shard file of the right length. Weights themselves are not read.
    """
    try:
        return _load(folder)
    except OSError as error:
        raise FormatError(
            f"{folder} cannot be read", seen=str(error), hint="check the files' permissions"
        ) from error


def _load(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise FormatError(
            f"{folder} is not a model folder",
            seen="a file" if folder.exists() else "nothing there",
            hint="give a folder that holds mlc-chat-config.json",
        )
    chat_config = read_json_object(folder / CHAT_CONFIG)
    fields = Fields(chat_config, CHAT_CONFIG)
    tensors = read_tensor_cache(folder)
    model = read_model_config(chat_config, has_lm_head=_has_matrix(tensors, "lm_head"))
    quantization = fields.text("quantization")
    if quantization not in QUANTIZATIONS:
        raise fields.error(
            "quantization", f"is not supported ({', '.join(sorted(QUANTIZATIONS))})", quantization
        )
    schemes = _find_schemes(model, tensors, fields)
    _check_vectors(model, tensors)
    _check_no_others(model, schemes, tensors)
    manifest = Manifest(
        folder=folder,
        model=model,
        quantization=quantization,
        schemes=MappingProxyType(schemes),
        tensors=MappingProxyType(tensors),
        chat_config=MappingProxyType(dict(chat_config)),
    )
    _ = manifest.stop_token_ids  # checked now, not at the first request
    return manifest


def read_model_config(chat_config: Mapping[str, Any], *, has_lm_head: bool) -> ModelConfig:
    """The `model_config` of a raw mlc-chat-config.json; raises FormatError."""
    fields = Fields(chat_config, CHAT_CONFIG)
    model_type = fields.text("model_type")
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise fields.error("model_type", f"is not supported ({known})", model_type)
    if not fields.has("model_config"):
        raise fields.missing("model_config")
    model = fields.mapping("model_config")
    hidden = model.integer("hidden_size", 1, 1 << 18)
    q_heads = model.integer("num_attention_heads", 1, 4096)
    kv_heads = model.integer("num_key_value_heads", 1, 4096, default=q_heads)
    if q_heads % kv_heads:
        raise model.error("num_key_value_heads", f"must divide {q_heads} heads", kv_heads)
    if not model.has("head_dim") and hidden % q_heads:
        raise model.error("hidden_size", f"must be a multiple of {q_heads} heads", hidden)
    head_dim = model.integer("head_dim", 2, 1024, default=hidden // q_heads)
    if head_dim % 2:
        raise model.error("head_dim", "must be even", head_dim)
    activation = model.text("hidden_act", "silu")
    if activation not in {"silu", "swish"}:
        raise model.error("hidden_act", "is not supported (silu)", activation)
    if not has_lm_head and not model.boolean("tie_word_embeddings", default=True):
        raise model.error("tie_word_embeddings", "is false but lm_head is absent", False)
    config = ModelConfig(
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=model.integer("intermediate_size", 1, 1 << 20),
        num_layers=model.integer("num_hidden_layers", 1, 1024),
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=model.integer("vocab_size", 1, 1 << 22),
        rms_norm_eps=model.real("rms_norm_eps", 0.0, 1.0),
        rope_theta=_rope_theta(model),
        rope_scaling=model.mapping("rope_scaling").data or None,
        tie_word_embeddings=not has_lm_head,
        context_window_size=_context_window(fields, model),
        attention_bias=model.boolean("attention_bias", default=False),
    )
    _ = config.rope_inverse_frequencies  # refuses an unknown rope_scaling now
    return config


def _rope_theta(model: Fields) -> float:
    name = "position_embedding_base" if model.has("position_embedding_base") else "rope_theta"
    return model.real(name, 1.0, 1e12, default=10000.0)


def _context_window(fields: Fields, model: Fields) -> int:
    """Tokens; never beyond a sliding window, within which attention is the same as full."""
    largest = 1 << 24
    window = -1
    for source in (fields, model):
        for name in ("context_window_size", "max_position_embeddings"):
            if window <= 0:
                window = source.integer(name, -1, largest, default=-1)
    sliding = fields.integer("sliding_window_size", -1, largest, default=-1)
    if sliding <= 0:
        sliding = model.integer("sliding_window_size", -1, largest, default=-1)
    limits = [size for size in (window, sliding) if size > 0]
    if not limits:
        raise fields.missing("context_window_size")
    return min(limits)


def _has_matrix(tensors: Mapping[str, TensorRecord], base: str) -> bool:
    return f"{base}.weight" in tensors or f"{base}.q_weight" in tensors


def scheme_parts(scheme: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Suffix -> shape of the tensors that store an [rows, columns] matrix in `scheme`."""
    if scheme in {"f16", "f32"}:
        return {"weight": (rows, columns)}
    groups = -(-columns // GROUP_SIZE)
    if scheme == "q8":
        return {"q_weight": (rows, groups * GROUP_SIZE), "q_scale": (rows, groups)}
    parts: dict[str, tuple[int, ...]] = {
        "q_weight": (rows, groups * GROUP_SIZE // NIBBLES_PER_WORD),
        "q_scale": (rows, groups),
    }
    if scheme == "q4_min":
        parts["q_min"] = (rows, groups)
    return parts


def _find_schemes(
    model: ModelConfig, tensors: Mapping[str, TensorRecord], fields: Fields
) -> dict[str, str]:
    stated = fields.mapping("tensor_schemes")
    schemes: dict[str, str] = {}
    for base, (rows, columns) in model.parameters.matrices.items():
        scheme = _derive_scheme(base, tensors)
        if stated.has(base):
            named = stated.text(base)
            if named not in SCHEMES:
                raise stated.error(base, f"must be one of {', '.join(sorted(SCHEMES))}", named)
            if named != scheme and {named, scheme} != {"q4_z7", "q4_z8"}:
                raise stated.error(base, f"does not fit the tensors, which are {scheme}", named)
            scheme = named
        for suffix, shape in scheme_parts(scheme, rows, columns).items():
            _check_shape(tensors, f"{base}.{suffix}", shape)
        schemes[base] = scheme
    return schemes


def _derive_scheme(base: str, tensors: Mapping[str, TensorRecord]) -> str:
    """The scheme told by names and dtypes alone; q4_z8 looks like q4_z7."""
    packed = tensors.get(f"{base}.q_weight")
    if packed is None:
        plain = _get(tensors, f"{base}.weight")
        if plain.dtype not in {"float16", "float32"}:
            raise _tensor_error(plain.name, "dtype must be float16 or float32", plain.dtype)
        return "f16" if plain.dtype == "float16" else "f32"
    scale = _get(tensors, f"{base}.q_scale")
    minimum = tensors.get(f"{base}.q_min")
    if scale.dtype not in {"float16", "float32"}:
        raise _tensor_error(scale.name, "dtype must be float16 or float32", scale.dtype)
    if minimum is not None and minimum.dtype != scale.dtype:
        raise _tensor_error(minimum.name, f"dtype must be {scale.dtype}", minimum.dtype)
    if packed.dtype == "int8" and minimum is None:
        return "q8"
    if packed.dtype != "uint32":
        raise _tensor_error(packed.name, "dtype must be uint32 or int8", packed.dtype)
    return "q4_z7" if minimum is None else "q4_min"


def _check_vectors(model: ModelConfig, tensors: Mapping[str, TensorRecord]) -> None:
    for name, length in model.parameters.vectors.items():
        _check_shape(tensors, name, (length,))
        if tensors[name].dtype not in {"float16", "float32"}:
            raise _tensor_error(name, "dtype must be float16 or float32", tensors[name].dtype)


def _check_no_others(
    model: ModelConfig, schemes: Mapping[str, str], tensors: Mapping[str, TensorRecord]
) -> None:
    """A tensor left over is a part of the network that would be silently left out."""
    expected = set(model.parameters.vectors)
    for base, (rows, columns) in model.parameters.matrices.items():
        expected.update(f"{base}.{suffix}" for suffix in scheme_parts(schemes[base], rows, columns))
    for name in sorted(tensors.keys() - expected):
        raise _tensor_error(name, f"is no part of architecture {model.model_type}", name)


def _get(tensors: Mapping[str, TensorRecord], name: str) -> TensorRecord:
    record = tensors.get(name)
    if record is None:
        raise _tensor_error(name, "is missing", f"{len(tensors)} tensors")
    return record


def _check_shape(tensors: Mapping[str, TensorRecord], name: str, shape: tuple[int, ...]) -> None:
    record = _get(tensors, name)
    if record.shape != shape:
        raise _tensor_error(name, f"shape must be {list(shape)}", list(record.shape))


def _tensor_error(name: str, problem: str, value: object) -> FormatError:
    return FormatError(
        f"tensor-cache.json: tensor {name} {problem}",
        seen=shown(value),
        hint="check that the weights belong to this mlc-chat-config.json, or convert again",
    )
