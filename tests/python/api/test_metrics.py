"""What /metrics says, under our names and vLLM's."""

from __future__ import annotations

import time

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mlc_server.api.metrics import VLLM_NAMES
from mlc_server.settings import ServerSettings
from support.http_server import MODEL_ID, LiveServer, Script, chat_body, live_server
from support.waiting import wait_for

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    answer = requests.get(f"{url}/metrics", timeout=20)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            assert sample.labels["model_name"] == MODEL_ID
            samples[sample.name, tuple(sorted(labels.items()))] = sample.value
    return samples


def test_counts_and_histograms_follow_the_requests() -> None:
    with live_server(script=Script(step_s=0.02, queue_s=0.004)) as (server, _):
        url = f"{server.url}/v1/chat/completions"
        for fields in ({}, {"stream": True}, {"n": 2}, {"max_tokens": 2}):
            assert requests.post(url, json=chat_body(**fields), timeout=20).status_code == 200
        assert requests.post(url, json=chat_body(n=99), timeout=20).status_code == 400
        prompt = len("user: hi\nassistant: ")
        # The log of a stream ends after its last byte.
        wait_for(
            lambda: scrape(server.url)["mlc_server_e2e_request_latency_seconds_count", ()] == 4, 5
        )
        samples = scrape(server.url)
    assert samples["mlc_server_prompt_tokens_total", ()] == 4 * prompt
    assert samples["mlc_server_requests_finished_total", (("finished_reason", "stop"),)] == 4
    assert samples["mlc_server_requests_finished_total", (("finished_reason", "length"),)] == 1
    assert samples["mlc_server_responses_total", (("status", "200"),)] == 4
    assert samples["mlc_server_responses_total", (("status", "400"),)] == 1
    assert samples["mlc_server_time_to_first_token_seconds_count", ()] == 4
    assert samples["mlc_server_time_to_first_token_seconds_bucket", (("le", "0.01"),)] == 0
    assert samples["mlc_server_request_generation_tokens_sum", ()] == 5 + 5 + 10 + 2
    assert samples["mlc_server_request_queue_time_seconds_count", ()] == 4
    assert samples["mlc_server_request_queue_time_seconds_sum", ()] == pytest.approx(4 * 0.004)
    parts = ("prefill", "decode", "inference")
    prefill, decode, inference = (f"mlc_server_request_{part}_time_seconds" for part in parts)
    assert [samples[f"{name}_count", ()] for name in (prefill, decode, inference)] == [4, 4, 4]
    assert samples[f"{prefill}_sum", ()] + samples[f"{decode}_sum", ()] == pytest.approx(
        samples[f"{inference}_sum", ()]
    )
    assert samples[f"{decode}_sum", ()] >= (3 + 3 + 3 + 1) * 0.02
    # Between the five tokens of each choice that stopped (the last is EOS), and of the cut one.
    assert samples["mlc_server_inter_token_latency_seconds_count", ()] == 4 * 4 + 1
    assert samples["mlc_server_time_per_output_token_seconds_count", ()] == 4


def test_gauges_come_from_the_engine() -> None:
    with live_server() as (server, _):
        samples = scrape(server.url)
    assert samples["mlc_server_requests_waiting", ()] == 3
    assert samples["mlc_server_kv_cache_usage_ratio", ()] == 0.5
    info = (("block_size", "16"), ("num_gpu_blocks", "16"))
    assert samples["vllm:cache_config_info", info] == 1


def test_every_alias_has_the_value_of_its_original() -> None:
    with live_server() as (server, _):
        requests.post(f"{server.url}/v1/chat/completions", json=chat_body(), timeout=20)
        samples = scrape(server.url)
    for name, aliases in VLLM_NAMES.items():
        own = {k: v for k, v in samples.items() if k[0].startswith(f"mlc_server_{name}")}
        assert own, name
        for alias in aliases:
            for (sample, labels), value in own.items():
                suffix = sample.removeprefix(f"mlc_server_{name}")
                if suffix in {"", "_total", "_count", "_sum", "_bucket"}:
                    assert samples[alias + suffix, labels] == value


def test_metrics_work_while_the_model_loads() -> None:
    server = LiveServer(ServerSettings())
    server.start()
    try:
        text = requests.get(f"{server.url}/metrics", timeout=20).text
    finally:
        server.stop()
    assert "mlc_server_prompt_tokens_total" in text
    assert "requests_running" not in text


def test_a_scrape_is_cheap() -> None:
    with live_server() as (server, _):
        begin_s = time.process_time()
        for _ in range(50):
            server.on_loop(server.metrics.render)
        assert (time.process_time() - begin_s) / 50 < 0.03
