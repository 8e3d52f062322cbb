"""The default model served by the real command line, from no arguments to the seed's programs."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from mlc_server.build.sources import DEFAULT_MODEL, prepare_model
from mlc_server.cli.common import default_cache_dir
from support.golden import load_golden
from support.server_process import READY, Process, process

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("default_model")]

MODEL_ID = "SmolLM2-135M-Instruct"
MESSAGES: Any = [{"role": "user", "content": "Write a haiku about apples."}]


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with process("--port", "0", module="mlc_server") as running:
        running.url = running.wait_for(READY, timeout_s=240)
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.output


def chat(server: Process, **fields: Any) -> Any:
    answer = requests.post(
        f"{server.url}/v1/chat/completions", json={"messages": MESSAGES, **fields}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_start_up_names_its_phases(server: Process) -> None:
    parts = ("imports", "model", "model library", "load weights", "KV cache", "warm up", "HTTP")
    for name in parts:
        assert re.search(rf"^  {name} +\d+\.\d\d s", server.output, re.MULTILINE), server.output
    assert "8,192 tokens" in server.output


def test_the_model_is_listed_by_its_name(server: Process) -> None:
    cards = requests.get(f"{server.url}/v1/models", timeout=20).json()["data"]
    assert [card["id"] for card in cards] == [MODEL_ID]
    assert cards[0]["max_model_len"] == 8192


def test_prompts_have_llama_cpps_length(server: Process) -> None:
    for case in load_golden()[:5]:
        messages = [{"role": "user", "content": case.prompt}]
        answer = chat(server, messages=messages, max_tokens=1)
        assert answer["usage"]["prompt_tokens"] == len(case.prompt_ids)


def test_the_likeliest_first_token_is_among_llama_cpps(server: Process) -> None:
    for case in load_golden():
        if case.first_scored > 0:
            continue  # its first token was not scored
        messages = [{"role": "user", "content": case.prompt}]
        answer = chat(server, messages=messages, max_tokens=1, temperature=0, logprobs=True)
        entry = answer["choices"][0]["logprobs"]["content"][0]
        assert any(abs(entry["logprob"] - logprob) < 0.25 for _, logprob in case.top[0][:3])


def test_streamed_whole_and_repeated_answers_are_the_same(server: Process) -> None:
    fields: Any = {"seed": 11, "temperature": 0.8, "max_tokens": 40}
    whole = chat(server, **fields)["choices"][0]["message"]["content"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=MODEL_ID, messages=MESSAGES, stream=True, **fields
        )
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole == chat(server, **fields)["choices"][0]["message"]["content"]
    assert len(whole) > 20


def test_one_chunk_is_one_event(server: Process) -> None:
    payload = {"model": MODEL_ID, "messages": MESSAGES, "stream": True, "max_tokens": 30}
    text, events = "", 0
    with requests.post(
        f"{server.url}/v1/chat/completions", json=payload, stream=True, timeout=60
    ) as r:
        for chunk in r.iter_content(chunk_size=None):
            if b"[DONE]" in chunk[6:]:
                break
            text += json.loads(chunk[6:])["choices"][0]["delta"].get("content", "")
            events += 1
    assert text
    assert events > 3


def test_a_system_message_changes_the_prompt(server: Process) -> None:
    system = [{"role": "system", "content": "x"}, *MESSAGES]
    short = chat(server, messages=system, max_tokens=1)["usage"]["prompt_tokens"]
    assert short < chat(server, max_tokens=1)["usage"]["prompt_tokens"]


def test_the_log_has_one_line_per_request_and_no_prompts(server: Process) -> None:
    chat(server, max_tokens=2)
    pattern = (
        r"mlc_server.requests.* (req-\w+) 200 \w+ prompt=\d+ output=2 queue=\d+ms ttft=\d+ms rate="
    )
    server.wait_for(re.compile(pattern), timeout_s=60)
    assert "apples" not in server.output


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model-lib", "GARBAGE"], "error: "),
        (["--max-total-seq-length", "16000000"], "error: KV cache needs"),
        (["--context-window-size", "9000"], "try: --context-window-size 8192"),
        (["--chat-template", "GARBAGE"], "error: "),
    ],
)
def test_what_does_not_fit_the_model_is_three_lines(
    tmp_path: Path, argv: list[str], said: str
) -> None:
    garbage = tmp_path / "garbage.so"
    garbage.write_text("{% not a library")
    argv = [str(garbage) if word == "GARBAGE" else word for word in argv]
    with process("--port", "0", *argv, module="mlc_server") as failing:
        assert failing.end(timeout_s=120) == 2
    mistakes = [line for line in failing.lines if line.startswith(("error: ", "seen: ", "try: "))]
    assert len(mistakes) == 3, failing.output
    assert said in "".join(mistakes)
    assert "Traceback" not in failing.output


def test_a_broken_folder_lists_what_it_holds(tmp_path: Path) -> None:
    folder = prepare_model(DEFAULT_MODEL, default_cache_dir())
    (tmp_path / "mlc-chat-config.json").write_bytes((folder / "mlc-chat-config.json").read_bytes())
    with process(str(tmp_path), "--port", "0", module="mlc_server") as failing:
        assert failing.end(timeout_s=60) == 2
    assert "tensor-cache.json" in failing.output
    assert "mlc-chat-config.json" in failing.output
