"""Names of devices to compile for: what they resolve to, and how bad ones are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlc_server.build import targets
from mlc_server.build.targets import is_host, resolve_target, target_key
from mlc_server.errors import CompileError


@pytest.mark.parametrize("name", ["auto", "cpu", "", " CPU "])
def test_host_names_mean_this_machine(name: str) -> None:
    assert is_host(name)
    assert resolve_target(name).description == resolve_target("auto").description


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("znver4", "avx512vnni"),
        ("llvm -mcpu=znver4 -mattr=-avx512f", "avx2"),
        ("alderlake", "avxvnni"),
        ("haswell", "avx2"),
        ("x86-64", "portable"),
    ],
)
def test_named_cpus_get_the_best_level_they_can_run(name: str, level: str) -> None:
    pytest.importorskip("tvm")
    if "x86" not in str(resolve_target("auto").target) + target_key("auto"):
        pytest.skip("CPU names are the host architecture's")
    assert resolve_target(name).feature_level == level


@pytest.mark.parametrize(
    "name",
    ["cuda", "no-such-cpu", "llvm -mcpu", "llvm -mfoo=1", "znver4 extra", "llvm -mattr=avx2"],
)
def test_unknown_names_are_refused_in_three_lines(name: str) -> None:
    with pytest.raises(CompileError) as error:
        resolve_target(name)
    lines = error.value.render().splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "seen", "try"]
    assert any(word in lines[1] for word in name.split())


def test_features_hidden_by_the_hypervisor_are_not_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "avx512f" not in targets.host_cpu_flags():
        pytest.skip("this CPU has no AVX-512 to hide")
    shown = frozenset(f for f in targets.host_cpu_flags() if not f.startswith("avx512"))
    monkeypatch.setattr(targets, "host_cpu_flags", lambda: shown)
    hidden = resolve_target("auto")
    assert hidden.feature_level in {"avxvnni", "avx2"}
    assert "-avx512f" in hidden.description


def test_the_key_of_the_host_names_its_cpu_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    before = target_key("auto")
    monkeypatch.setattr(targets, "host_cpu_flags", lambda: frozenset({"sse2"}))
    assert target_key("auto") != before
    assert target_key("auto") == target_key("cpu")
    assert target_key("znver4") != target_key("auto")


def test_importing_and_keying_targets_does_not_import_tvm() -> None:
    code = (
        "import sys; from mlc_server.build.targets import target_key; target_key('auto');"
        "sys.exit('tvm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
