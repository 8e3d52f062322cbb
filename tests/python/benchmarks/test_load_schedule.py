"""When the open loop sends: the stated rate, the stated burstiness, the same for one seed."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from loadgen.schedule import arrival_times


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_intervals_have_the_mean_and_the_variation_asked_for(burstiness: float):
    times = arrival_times(20_000, rate=5.0, burstiness=burstiness, seed=1)
    assert times[-1] == pytest.approx(20_000 / 5.0)
    intervals = [later - earlier for earlier, later in pairwise([0.0, *times])]
    assert min(intervals) >= 0
    variation = statistics.stdev(intervals) / statistics.mean(intervals)
    assert variation == pytest.approx(burstiness**-0.5, rel=0.05)  # 1 for a Poisson process


def test_a_seed_gives_one_schedule():
    assert arrival_times(50, 3.0, 1.0, seed=7) == arrival_times(50, 3.0, 1.0, seed=7)
    assert arrival_times(50, 3.0, 1.0, seed=7) != arrival_times(50, 3.0, 1.0, seed=8)


@pytest.mark.parametrize(("count", "rate", "burstiness"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_else_is_a_schedule(count: int, rate: float, burstiness: float):
    with pytest.raises(ValueError, match="positive"):
        arrival_times(count, rate, burstiness, 0)
