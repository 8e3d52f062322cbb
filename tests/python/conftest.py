"""What holds for every test."""

from __future__ import annotations

import dataclasses
import os

from mlc_server import limits

# scripts/test_sanitized: what is slowed down so many times is given so much more time. Before
# anything else reads the limits.
_SLOWNESS = int(os.environ.get("MLC_SERVER_SLOWNESS", "1"))
for _name in ("GRAMMAR_TIMEOUT_MS", "GRAMMAR_CPU_MS", "GRAMMAR_WALL_MS"):
    _limit = getattr(limits, _name)
    setattr(limits, _name, dataclasses.replace(_limit, default=_limit.default * _SLOWNESS))
