"""Sizing the KV cache from free memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlc_server.cli.common import show_bytes
from mlc_server.cli.memory import DEFAULT_BYTES_MAX, available_bytes, plan_kv
from mlc_server.errors import UserError

GIB = 1 << 30
SMALL: dict[str, Any] = {
    "page_size": 16,
    "bytes_per_page": 368_640,
    "context_window": 8192,
    "max_batch_size": 64,
    "total_tokens": 0,
    "free_bytes": 8 * GIB,
}


def test_the_default_is_capped_and_fits_the_memory() -> None:
    plan = plan_kv(**SMALL)
    assert DEFAULT_BYTES_MAX - 368_640 < plan.total_bytes <= DEFAULT_BYTES_MAX
    assert plan.context_window == 8192
    scarce = plan_kv(**{**SMALL, "free_bytes": GIB})
    assert scarce.total_bytes <= 0.4 * GIB
    assert scarce.tokens >= 8192


def test_no_more_than_the_batch_can_use() -> None:
    plan = plan_kv(**{**SMALL, "max_batch_size": 2, "context_window": 100})
    assert plan.num_pages == 2 * 7


def test_one_sequence_of_full_length_may_pass_the_cap() -> None:
    plan = plan_kv(**{**SMALL, "context_window": 131_072, "free_bytes": 64 * GIB})
    assert plan.tokens == 131_072


def test_little_memory_shortens_the_context() -> None:
    plan = plan_kv(**{**SMALL, "free_bytes": 50_000_000})
    assert plan.tokens == plan.context_window == 54 * 16


def test_a_given_length_is_kept_or_refused_with_what_fits() -> None:
    assert plan_kv(**{**SMALL, "total_tokens": 1000}).tokens == 1008
    with pytest.raises(UserError) as refused:
        plan_kv(**{**SMALL, "total_tokens": 1_000_000})
    assert refused.value.what == "KV cache needs 21.5 GiB, 8.0 GiB free"
    fitting = int(refused.value.hint.removeprefix("--max-total-seq-length "))
    assert plan_kv(**{**SMALL, "total_tokens": fitting}).tokens == fitting


def test_no_memory_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="KV cache needs"):
        plan_kv(**{**SMALL, "free_bytes": 100_000})


def test_the_description_adds_up() -> None:
    text = plan_kv(**{**SMALL, "total_tokens": 16_384}).describe()
    assert text == "16,384 tokens (1,024 pages, 360.0 MiB): 2.0 sequences of 8,192 tokens"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1000 * 1024),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, 1000 * 1024),
        ({"sys/fs/cgroup/memory.max": "5000", "sys/fs/cgroup/memory.current": "2000"}, 3000),
        ({"sys/fs/cgroup/memory.max": "5000", "sys/fs/cgroup/memory.current": "6000"}, 0),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            },
            1000 * 1024,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "700",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "100",
            },
            600,
        ),
    ],
)
def test_a_container_has_what_its_cgroup_leaves(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, text in {"proc/meminfo": "MemFree: 1 kB\nMemAvailable: 1000 kB\n", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert available_bytes(tmp_path) == expected


def test_this_machine_has_memory() -> None:
    assert 0 < available_bytes() < 1 << 50


def test_sizes_are_written_for_people() -> None:
    assert [show_bytes(n) for n in (0, 1023, 1024, 1536, 5 << 20, 3 << 30, 2 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
