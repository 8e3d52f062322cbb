"""When the requests of an open loop are sent."""

from __future__ import annotations

import random
from itertools import accumulate


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """`count` ascending times in seconds from the start, `rate` of them a second on average.

    Intervals are gamma-distributed with shape `burstiness`: 1 is a Poisson process, less is
    burstier, more is more even. As `vllm bench serve` does, times are scaled so that the last one
    is count / rate: every run of one rate offers exactly that rate.
    """
    if count < 1 or rate <= 0 or burstiness <= 0:
        raise ValueError("count, rate and burstiness must be positive")
    generator = random.Random(seed)
    scale = 1.0 / (rate * burstiness)
    times = list(accumulate(generator.gammavariate(burstiness, scale) for _ in range(count)))
    stretch = count / rate / times[-1]
    return [time * stretch for time in times]
