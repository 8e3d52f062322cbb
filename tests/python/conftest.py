"""What holds for every test."""

from __future__ import annotations

import dataclasses
import os

from hypothesis import settings

from mlc_server import limits

# An example that other work held up is no failure: what takes time is bounded where it matters.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# scripts/test_sanitized: what is slowed down so many times is given so much more time. Before
# anything else reads the limits.
_SLOWNESS = int(os.environ.get("MLC_SERVER_SLOWNESS", "1"))
# Whatever else this machine does is no reason for a test to fail, so for that there is more again.
for _name, _times in (("GRAMMAR_CPU_MS", 1), ("GRAMMAR_WALL_MS", 40)):
    _limit = getattr(limits, _name)
    _default = _limit.default * _SLOWNESS * _times
    setattr(limits, _name, dataclasses.replace(_limit, default=_default))
