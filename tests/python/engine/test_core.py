"""The compiled core as Python sees it: arguments, results, errors, wake-ups."""

from __future__ import annotations

import array
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mlc_server import _core
from support.fake_core import VOCAB_SIZE, MakeCore, build_core, make_vocabulary


def greedy(**fields: Any) -> _core.SamplingParams:
    return _core.SamplingParams(**{"temperature": 0.0, "max_tokens": 5, **fields})


def read_until(core: _core.Engine, done: Callable[[list[Any]], bool]) -> list[Any]:
    """Drains on each wake-up until `done` says so of all items; fails after 20 s of silence."""
    items: list[Any] = []
    while not done(items):
        readable, _, _ = select.select([core.wake_fd()], [], [], 20)
        assert readable, f"no output; so far {items}"
        items += core.drain()
    return items


def num_ends(items: list[Any]) -> int:
    return sum(item[5] is not None for item in items)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


def test_a_request_comes_out_token_by_token(make_core: MakeCore) -> None:
    core = make_core()
    core.start()
    core.submit(7, [65, 66, 67], greedy(top_logprobs=2))
    items = read_until(core, num_ends)
    assert [item[0] for item in items] == [7] * len(items)
    token_ids = [token_id for item in items for token_id in item[3]]
    assert len(token_ids) == 5
    assert "".join(item[2] for item in items) == "".join(map(chr, token_ids))
    logprobs = [entry for item in items for entry in item[4]]
    assert [entry[0] for entry in logprobs] == token_ids
    for token_id, logprob, alternatives, _ in logprobs:
        assert len(alternatives) == 2
        assert alternatives[0] == (token_id, logprob)  # greedy draws the most likely
        assert alternatives[1][1] <= logprob < 0
    assert items[-1][5:10] == ("length", None, 3, 5, None)
    ((queue_s, _),) = [item[10] for item in items if item[10] is not None]
    assert 0 <= queue_s < 20
    assert items[0][10] == (queue_s, None)


def test_prompt_bytes_equal_prompt_list(make_core: MakeCore) -> None:
    core = make_core()
    core.start()
    core.submit(1, [65, 66, 67], greedy())
    core.submit(2, array.array("i", [65, 66, 67]).tobytes(), greedy())
    items = read_until(core, lambda items: num_ends(items) == 2)
    texts = {i: "".join(item[2] for item in items if item[0] == i) for i in (1, 2)}
    assert texts[1] == texts[2]
    with pytest.raises(_core.CoreError, match="whole int32 values, got 5 bytes"):
        core.submit(3, b"12345", greedy())


def test_stop_reasons(make_core: MakeCore) -> None:
    core = make_core()
    core.start()
    core.submit(1, [65], greedy(max_tokens=1))
    first = read_until(core, num_ends)[0][3][0]
    core.submit(2, [65], greedy(stop_token_ids=[first]))
    assert read_until(core, num_ends)[-1][5:7] == ("stop", first)
    core.submit(3, [65], greedy(stop=["nope", chr(first)]))
    assert read_until(core, num_ends)[-1][5:7] == ("stop", chr(first))


def test_refusals_are_core_errors(make_core: MakeCore) -> None:
    core = make_core(max_queue_size=2)
    with pytest.raises(_core.CoreError) as caught:
        core.submit(1, [65], greedy(top_p=7.0))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "top_p")
    assert caught.value.message == str(caught.value)
    assert "7" in caught.value.message
    with pytest.raises(_core.CoreError) as caught:
        core.submit(1, [65] * 256, greedy())
    assert (caught.value.code, caught.value.param) == ("context_overflow", "prompt")
    with pytest.raises(_core.CoreError) as caught:
        core.submit(1, [65], greedy(), num_choices=17)
    assert caught.value.param == "n"
    core.submit(1, [65], greedy())
    core.submit(2, [65], greedy())
    with pytest.raises(_core.CoreError) as caught:
        core.submit(3, [65], greedy())
    assert caught.value.code == "queue_full"
    core.start()
    with pytest.raises(_core.CoreError) as caught:
        core.start()
    assert caught.value.code == "unavailable"


def test_configuration_is_checked() -> None:
    with pytest.raises(TypeError, match="unknown field max_bath_size"):
        _core.EngineConfig(max_bath_size=3)
    with pytest.raises(_core.CoreError) as caught:
        _core.EngineConfig(num_pages=0).validate()
    assert caught.value.param == "num_pages"
    with pytest.raises(_core.CoreError) as caught:
        build_core(page_size=8)
    assert caught.value.code == "incompatible"
    assert caught.value.message == "the model's is 4, got 8"
    with pytest.raises(_core.CoreError, match="one entry per token"):
        _core.Vocabulary([b"a"], [])
    with pytest.raises(_core.CoreError) as caught:
        _core.FakeRunner(eos_probability=2.0)
    assert caught.value.param == "eos_probability"
    with pytest.raises(_core.CoreError) as caught:
        _core.SamplingParams(seed=1, min_p=3.0).validate(VOCAB_SIZE)
    assert caught.value.param == "min_p"


def test_a_vocabulary_comes_back_from_what_it_serialises_to() -> None:
    texts, special = [b"", b"a\0\xff", b"<eos>", b"x" * 1000], [False, False, True, False]
    serialized = _core.Vocabulary(texts, special).serialize()
    back = _core.Vocabulary.parse(serialized)
    assert list(back) == texts
    assert [back.is_special(id_) for id_ in range(len(back))] == special
    assert len(_core.Vocabulary.parse(_core.Vocabulary([], []).serialize())) == 0
    cut = [serialized[:size] for size in (0, 3, 4, 19, len(serialized) - 1)]
    for wrong in (*cut, serialized + b"a", b"\xff" * 4, b"\xff" * 64):
        with pytest.raises(_core.CoreError, match="is no vocabulary"):
            _core.Vocabulary.parse(wrong)


def test_sampling_params_keep_what_they_are_given() -> None:
    params = _core.SamplingParams(
        seed=2**64 - 1, stop=("a", "é"), logit_bias=((3, -1.5),), stop_token_ids=(4,)
    )
    assert params.seed == 2**64 - 1
    assert params.stop == ["a", "é"]
    assert params.logit_bias == [(3, -1.5)]
    assert params.stop_token_ids == [4]
    with pytest.raises(TypeError):
        params.max_tokens = 2**40


def test_cancelled_requests_free_their_pages(make_core: MakeCore) -> None:
    core = make_core(runner={"step_ns": 5_000_000}, max_queue_size=64)
    core.start()
    for request_id in range(32):  # half of them wait
        core.submit(request_id, [65 + request_id] * 20, greedy(max_tokens=-1, ignore_eos=True))
    wait_for(lambda: core.stats().num_running == 16, 10)
    assert core.stats().free_pages < core.stats().total_pages
    for request_id in range(32):
        core.cancel(request_id)
        core.cancel(request_id + 1000)  # unknown
    wait_for(lambda: core.stats().free_pages == core.stats().total_pages, 10)
    items = read_until(core, lambda items: num_ends(items) == 32)
    assert {item[5] for item in items if item[5] is not None} == {"cancelled"}
    stats = core.stats()
    assert (stats.num_open, stats.num_waiting, stats.finished_cancelled) == (0, 0, 32)


def test_wake_ups_coalesce_while_nobody_reads(make_core: MakeCore) -> None:
    core = make_core()
    core.start()
    fd = core.wake_fd()
    assert select.select([fd], [], [], 0)[0] == []
    for request_id in range(1, 11):
        core.submit(request_id, [65, request_id], greedy(max_tokens=100, ignore_eos=True))
    wait_for(lambda: core.stats().finished_length == 10, 20)
    assert core.stats().num_steps >= 100
    assert select.select([fd], [], [], 0)[0] == [fd]
    items = core.drain()
    assert len(items) == 10  # one per request, however many steps
    assert all(len(item[3]) == 100 and item[5] == "length" for item in items)
    assert select.select([fd], [], [], 0)[0] == []
    assert core.drain() == []


def test_a_dead_engine_answers_everyone_and_says_why(make_core: MakeCore) -> None:
    # Steps long enough for all requests to be in before the one that fails.
    core = make_core(runner={"throw_at_step": 3, "step_ns": 50_000_000})
    assert core.health() == "not started"
    core.start()
    assert core.health() == "ok"
    for request_id in range(40):
        core.submit(request_id, [65, 66], greedy(max_tokens=50, ignore_eos=True))
    items = read_until(core, lambda items: num_ends(items) == 40)
    assert {item[5] for item in items if item[5] is not None} == {"error"}
    assert {item[9] for item in items} <= {None, "the engine stopped because of an internal error"}
    assert core.health() == "dead: injected fault at step 3"
    assert not core.stats().alive
    with pytest.raises(_core.CoreError) as caught:
        core.submit(100, [65], greedy())
    assert caught.value.code == "unavailable"


def test_stop_ends_open_requests(make_core: MakeCore) -> None:
    core = make_core(runner={"step_ns": 1_000_000})
    core.start()
    core.submit(1, [65], greedy(max_tokens=-1, ignore_eos=True))
    assert core.stop()
    assert core.stop()
    assert core.health() == "stopped"
    assert core.drain()[-1][5] == "error"


def test_poisoned_request_fails_alone(make_core: MakeCore) -> None:
    core = make_core(runner={"poison_token_id": 99})
    core.start()
    core.submit(1, [65, 99], greedy())
    core.submit(2, [65, 66], greedy(logit_bias=[(99, -100.0)]))
    items = read_until(core, lambda items: num_ends(items) == 2)
    ends = {item[0]: item for item in items if item[5] is not None}
    assert ends[1][5] == "error"
    assert "not finite" in ends[1][9]
    assert ends[2][5] != "error"


def test_forward_runs_tables_given_by_hand() -> None:
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE, page_size=4)
    assert (runner.info.vocab_size, runner.info.page_size) == (VOCAB_SIZE, 4)
    runner.allocate_kv(8)
    tokens = np.arange(10, 16)
    whole = runner.forward(
        token_ids=tokens, positions=range(6), write_slots=[8, 9, 10, 11, 20, 21],
        query_offsets=[0, 6], page_offsets=[0, 2], page_table=[2, 5], logit_rows=[5],
    )  # fmt: skip
    assert whole.shape == (1, VOCAB_SIZE)
    assert whole.dtype == np.float32
    again = runner.forward(
        token_ids=tokens[5:], positions=[5], write_slots=[21],
        query_offsets=[0, 1], page_offsets=[0, 2], page_table=[2, 5], logit_rows=[0],
    )  # fmt: skip
    np.testing.assert_array_equal(again, whole)
    with pytest.raises(_core.CoreError) as caught:
        runner.forward([1], [0], [9], [0, 1], [0, 1], [2], [0])
    assert (caught.value.param, caught.value.message) == (
        "write_slots", "row 0 belongs in slot 8, got 9",
    )  # fmt: skip


def test_a_runner_in_an_engine_is_not_called_from_python(make_core: MakeCore) -> None:
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE)
    config = _core.EngineConfig(vocab_size=VOCAB_SIZE, num_pages=8, max_sequence_length=64)
    core = _core.Engine(runner, make_vocabulary(), config)
    with pytest.raises(_core.CoreError, match="in use by an engine"):
        runner.forward([1], [0], [0], [0, 1], [0, 1], [0], [0])
    with pytest.raises(_core.CoreError, match="in use by an engine"):
        _core.Engine(runner, make_vocabulary(), config)
    del core
    _core.Engine(runner, make_vocabulary(), config)  # one after the other


def test_a_runner_in_a_call_is_not_given_to_an_engine() -> None:
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE, step_ns=2_000_000_000)
    runner.allocate_kv(8)
    config = _core.EngineConfig(vocab_size=VOCAB_SIZE, num_pages=8, max_sequence_length=64)
    begins = threading.Event()

    def forward() -> None:
        begins.set()
        runner.forward([1], [0], [0], [0, 1], [0, 1], [0], [0])

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(forward)
        begins.wait()
        time.sleep(0.2)
        with pytest.raises(_core.CoreError, match="in use"):
            runner.allocate_kv(8)
        with pytest.raises(_core.CoreError, match="in use"):
            _core.Engine(runner, make_vocabulary(), config)
        running.result()
    _core.Engine(runner, make_vocabulary(), config)
