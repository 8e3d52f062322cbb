"""Rows of the comparison: medians, the better peer, targets; and the plots."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from peers.comparison import ROWS, RowSpec, add_overheads, compare, compare_row
from peers.session import CORE, HTTP, Samples, turns
from report.plot import Series, bar_chart, line_chart, ticks

OURS, A, B = "mlc_server", "peer A", "peer B"
RATE = RowSpec("rate", "rate", "rate", "tok/s", (HTTP, CORE), target=2.0)
TIME = RowSpec("time", "time", "time", "ms", higher_is_better=False)


def samples(metric: str, **values: list[float]) -> Samples:
    made = Samples()
    for name, numbers in zip((OURS, A, B), values.values(), strict=False):
        for number in numbers:
            made.add(metric, name, HTTP, number)
    return made


def test_the_ratio_is_to_the_better_peer():
    row = compare_row(samples("rate", o=[300.0], a=[100.0], b=[120.0]), RATE, [OURS, A, B], 2.0)
    assert row is not None
    assert (row.better_peer, row.ratio, row.met) == (B, 2.5, True)


def test_of_latencies_the_lower_one_is_better_and_the_ratio_stays_above_one_for_us():
    row = compare_row(samples("time", o=[50.0], a=[100.0], b=[80.0]), TIME, [OURS, A, B], None)
    assert row is not None
    assert (row.better_peer, row.ratio, row.met) == (B, pytest.approx(1.6), None)


def test_every_contestant_is_taken_at_its_best_way_by_medians():
    made = samples("rate", o=[100.0, 900.0, 110.0], a=[100.0])
    for value in (120.0, 130.0, 60.0):
        made.add("rate", A, CORE, value)
    row = compare_row(made, RATE, [OURS, A], 2.0)
    assert row is not None
    assert row.medians[OURS].value == 110.0
    assert (row.medians[OURS].low, row.medians[OURS].high) == (100.0, 900.0)
    assert (row.medians[A].value, row.medians[A].way) == (120.0, CORE)
    assert row.met is False


def test_overheads_compare_pairs_and_meet_an_absolute_target():
    made = Samples()
    for http, core in ((96.0, 100.0), (99.0, 100.0), (196.0, 200.0)):
        made.add("paired 8", OURS, HTTP, http)
        made.add("paired 8", OURS, CORE, core)
    add_overheads(made, (1, 8))
    rows = compare(made, [OURS], weights_and_kv_mb=None)
    overhead = next(row for row in rows if row.spec.key == "overhead8")
    assert overhead.medians[OURS].value == pytest.approx(98.0)
    assert overhead.met is True
    assert overhead.target_text == ">= 97 %"


def test_memory_may_exceed_weights_and_kv_by_a_fixed_amount():
    made = Samples()
    made.add("rss", OURS, HTTP, 440.0)
    (row,) = compare(made, [OURS], weights_and_kv_mb=285.0)
    assert (row.target, row.met, row.ratio) == (435.0, False, None)


def test_rows_have_distinct_keys_and_need_samples_of_ours():
    assert len({row.key for row in ROWS}) == len(ROWS)
    made = Samples()
    made.add("streams 8", A, HTTP, 100.0)
    assert compare(made, [OURS, A], weights_and_kv_mb=None) == []


def test_turns_alternate():
    assert list(turns("abc", 3)) == [(0, [0, 1, 2]), (1, [2, 1, 0]), (2, [0, 1, 2])]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.03), (0, 799), (0, 12345), (0, 1e-9)])
def test_ticks_cover_the_range_with_few_round_numbers(low: float, high: float):
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high * 0.999
    assert 2 <= len(marks) <= 8


def test_plots_are_well_formed_and_escape_names():
    series = [Series("<&>", [(1, 5.0), (8, 40.0)], ["1", "8"]), Series("other", [(2, 3.0)])]
    for log2_x in (False, True):
        svg = ET.fromstring(line_chart("a < b", series, "x", "y", log2_x=log2_x))
        assert len(svg.findall(".//{*}circle")) == 3
        assert len(svg.findall(".//{*}polyline")) == 2
    bars = ET.fromstring(bar_chart("t", [("a&b", 2.0, 4.0), ("c", 1.0, None)], "x"))
    assert len(bars.findall(".//{*}rect")) == 2
    assert line_chart("empty", [], "x", "y") == ""
