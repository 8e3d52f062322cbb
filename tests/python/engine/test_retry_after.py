"""Retry-After follows the pace at which requests end and stays within its bounds."""

from __future__ import annotations

from mlc_server.engine.retry_after import RetryAfter


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_pace_it_is_one_second() -> None:
    assert RetryAfter(ManualClock()).seconds(500) == 1


def test_half_the_queue_at_the_pace_of_the_latest_ends() -> None:
    clock = ManualClock()
    retry_after = RetryAfter(clock)
    for _ in range(100):
        retry_after.note_end()
        clock.now_s += 0.5  # two a second
    assert retry_after.seconds(40) == 10
    assert retry_after.seconds(0) == 1
    assert retry_after.seconds(100_000) == 60


def test_the_estimate_grows_while_nothing_ends() -> None:
    clock = ManualClock()
    retry_after = RetryAfter(clock)
    for _ in range(10):
        retry_after.note_end()
        clock.now_s += 0.1
    soon = retry_after.seconds(40)
    clock.now_s += 30
    assert retry_after.seconds(40) > soon
