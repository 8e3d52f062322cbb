"""How much memory there is, and how much of it the KV cache takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlc_server.cli.common import show_bytes
from mlc_server.errors import UserError

# Without --max-total-seq-length the cache takes this much of what is free, and no more bytes than
# this unless one sequence of full length needs them.
DEFAULT_SHARE = 0.4
DEFAULT_BYTES_MAX = 2 * 1024**3
# More than this of what is free would leave nothing for the process itself.
LARGEST_SHARE = 0.9
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63


@dataclass(frozen=True)
class KvPlan:
    """Pages of the KV cache. `context_window` is what one sequence may use of it, tokens."""

    num_pages: int
    page_size: int
    bytes_per_page: int
    context_window: int

    @property
    def tokens(self) -> int:
        return self.num_pages * self.page_size

    @property
    def total_bytes(self) -> int:
        return self.num_pages * self.bytes_per_page

    def describe(self) -> str:
        return (
            f"{self.tokens:,} tokens ({self.num_pages:,} pages, {show_bytes(self.total_bytes)}): "
            f"{self.tokens / self.context_window:.1f} sequences of {self.context_window:,} tokens"
        )


def plan_kv(
    *,
    page_size: int,
    bytes_per_page: int,
    context_window: int,
    max_batch_size: int,
    total_tokens: int,
    free_bytes: int,
) -> KvPlan:
    """Sizes the cache. `total_tokens` 0 sizes it from free memory, else it is taken as given.

    Raises UserError when the memory is not there.
    """
    window_pages = -(-context_window // page_size)
    if total_tokens:
        num_pages = -(-total_tokens // page_size)
    else:
        affordable = int(free_bytes * DEFAULT_SHARE) // bytes_per_page
        capped = max(DEFAULT_BYTES_MAX // bytes_per_page, window_pages)
        num_pages = max(1, min(affordable, capped, max_batch_size * window_pages))
    if num_pages * bytes_per_page > free_bytes * LARGEST_SHARE:
        fitting = int(free_bytes * LARGEST_SHARE) // bytes_per_page * page_size
        raise UserError(
            f"KV cache needs {show_bytes(num_pages * bytes_per_page)}, "
            f"{show_bytes(free_bytes)} free",
            seen=f"{num_pages * page_size} tokens of {bytes_per_page // page_size} bytes each",
            hint=f"--max-total-seq-length {fitting}" if fitting else "free some memory",
        )
    window = min(context_window, num_pages * page_size)
    return KvPlan(num_pages, page_size, bytes_per_page, window)


def available_bytes(root: Path = Path("/")) -> int:
    """Memory this process may still take: the machine's, and what its cgroup leaves."""
    available = _meminfo(root / "proc/meminfo")
    for limit_path, usage_path in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        limit, usage = _number(root / limit_path), _number(root / usage_path)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            available = min(available, max(limit - usage, 0))
    return available


def _meminfo(path: Path) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise UserError(
        "free memory is not known",
        seen=f"{path} has no MemAvailable",
        hint="give --max-total-seq-length",
    )


def _number(path: Path) -> int | None:
    """The number in a cgroup file; None for "max" or no such file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
