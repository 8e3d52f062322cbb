"""Which machine a library is compiled for: a name given by the user -> a TVM target.

Importing this module is cheap; only `resolve_target` imports TVM.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc_server.errors import CompileError

_HOST_NAMES = frozenset({"", "auto", "cpu", "llvm"})
_CPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Features a hypervisor may hide although the CPU's name implies them, and kernels may use.
_MASKABLE = ("avx", "fma", "f16c", "bmi", "gfni", "vaes", "vpclmul", "amx")
_CPUINFO_NAMES = {"bmi": "bmi1"}


@dataclass(frozen=True)
class CompileTarget:
    """`target`: a tvm Target; `feature_level`: its VectorIsa's name; `description`: for people."""

    target: Any
    description: str
    feature_level: str


def is_host(name: str) -> bool:
    """Whether `name` asks for the CPU this runs on."""
    return name.strip().lower() in _HOST_NAMES


def target_key(name: str) -> str:
    """Text that changes when the meaning of `name` does: for the host, which CPU it is."""
    if not is_host(name):
        return " ".join(name.split())
    flags = sorted(host_cpu_flags())
    return f"host {platform.system()} {platform.machine()} {host_cpu_model()} {' '.join(flags)}"


def host_cpu_flags() -> frozenset[str]:
    """Feature flags as the kernel lists them; empty where it lists none."""
    return frozenset(_cpuinfo_value(("flags", "Features")).split())


def host_cpu_model() -> str:
    return _cpuinfo_value(("model name", "CPU part")) or platform.processor()


def _cpuinfo_value(names: tuple[str, ...]) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def resolve_target(name: str) -> CompileTarget:
    """The target that `name` stands for.

    `name`: "auto" or "cpu" (the CPU this runs on), an LLVM CPU name such as "skylake-avx512", or
    "llvm -mcpu=<CPU> [-mattr=+a,-b]". Raises CompileError for anything else.
    """
    if is_host(name):
        return _describe(*_host_config())
    cpu, attributes = _parse(name)
    return _describe(cpu, attributes)


def _parse(name: str) -> tuple[str, list[str]]:
    words = name.split()
    cpu, attributes = "", list[str]()
    if len(words) == 1 and _CPU_NAME.fullmatch(words[0]):
        cpu = words[0]
    elif words and words[0] == "llvm":
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key == "-mcpu" and _CPU_NAME.fullmatch(value):
                cpu = value
            elif key == "-mattr" and value:
                attributes = value.split(",")
            else:
                raise _unknown(name)
    if not cpu or any(item[:1] not in {"+", "-"} for item in attributes):
        raise _unknown(name)
    return cpu, attributes


def _unknown(name: str) -> CompileError:
    return CompileError(
        "unknown device to compile for",
        seen=name,
        hint='"auto", an LLVM CPU name such as "znver4", or "llvm -mcpu=<CPU> -mattr=+a,-b"',
    )


def _host_config() -> tuple[str, list[str]]:
    from tvm.target import Target, codegen  # noqa: PLC0415 - takes more than a second

    cpu = str(codegen.llvm_get_system_cpu())
    flags = host_cpu_flags()
    if not flags or platform.machine() != "x86_64":
        return cpu, []
    implied = codegen.llvm_get_cpu_features(Target({"kind": "llvm", "mcpu": cpu}))
    present = {flag.replace("_", "") for flag in flags}
    hidden = [
        feature
        for feature in sorted(str(item) for item in implied)
        if feature.startswith(_MASKABLE)
        and _CPUINFO_NAMES.get(feature, feature).replace("-", "").replace("_", "") not in present
    ]
    return cpu, [f"-{feature}" for feature in hidden]


def _describe(cpu: str, attributes: list[str]) -> CompileTarget:
    from tvm.target import Target, codegen  # noqa: PLC0415 - takes more than a second

    from mlc_server.build.kernels.cpu.isa import select_isa  # noqa: PLC0415 - imports TVM

    known = {str(item) for item in codegen.llvm_get_cpu_archlist(Target("llvm"))}
    if cpu not in known:
        raise CompileError(
            "unknown CPU to compile for",
            seen=cpu,
            hint=f'"auto" for this machine, or one of LLVM\'s names for {platform.machine()} CPUs',
        )
    config: dict[str, Any] = {"kind": "llvm", "mcpu": cpu}
    description = f"llvm -mcpu={cpu}"
    if attributes:
        config["mattr"] = attributes
        description += f" -mattr={','.join(attributes)}"
    target = Target(config)
    return CompileTarget(target, description, select_isa(target).name)
