"""Log-probabilities of prompts, as evaluation harnesses read them: `echo` with `logprobs`, streamed
or not, and vLLM's `prompt_logprobs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from support.answer_schemas import check_answer
from support.byte_model import EOS_ID
from support.core_server import core_server
from support.http_server import MODEL_ID, LiveServer, live_server

Body = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with core_server() as live:
        yield live


def complete(server: LiveServer, **body: Any) -> Body:
    answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    check_answer(found, "Completion")
    return found


def refused(server: LiveServer, path: str = "/v1/completions", **body: Any) -> Body:
    answer = requests.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    error: Body = answer.json()["error"]
    return error


def streamed(server: LiveServer, **body: Any) -> dict[int, Body]:
    """The events of each choice put together."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        choices: dict[int, Body] = {}
        for chunk in client.completions.create(model=MODEL_ID, stream=True, **body):
            for news in chunk.choices:
                choice = choices.setdefault(news.index, {"text": "", "logprobs": {}})
                choice["text"] += news.text
                choice["finish_reason"] = news.finish_reason
                found = {} if news.logprobs is None else news.logprobs.model_dump()
                for key, values in found.items():
                    choice["logprobs"].setdefault(key, []).extend(values)
        return choices


def test_a_prompt_is_scored_without_generating(server: LiveServer) -> None:
    answer = complete(server, prompt="Hello", echo=True, logprobs=2, max_tokens=0)
    (choice,) = answer["choices"]
    assert choice["text"] == "Hello"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 0
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == list("Hello")
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    for token, logprob, top in list(
        zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    )[1:]:
        assert logprob < 0
        assert top[token] == logprob
        assert len(top) in (2, 3)


def test_a_text_scores_as_it_was_generated(server: LiveServer) -> None:
    """Greedy tokens, given back as a prompt, have the very log-probabilities they came with."""
    common: Body = {"temperature": 0, "logprobs": 3, "ignore_eos": True, "return_token_ids": True}
    drawn = complete(server, prompt=list(b"once upon"), max_tokens=300, **common)["choices"][0]
    ids = [*b"once upon", *drawn["token_ids"]]
    scored = complete(server, prompt=ids, max_tokens=0, echo=True, **common)["choices"][0]
    assert len(scored["logprobs"]["tokens"]) == 309
    for key in ("tokens", "token_logprobs", "top_logprobs"):
        assert scored["logprobs"][key][9:] == drawn["logprobs"][key]
    for logprob, top in zip(
        drawn["logprobs"]["token_logprobs"], drawn["logprobs"]["top_logprobs"], strict=True
    ):
        assert logprob == max(top.values())  # what lm-eval calls greedy


def test_prompt_and_completion_are_one_list(server: LiveServer) -> None:
    common: Body = {"prompt": "ab", "max_tokens": 6, "logprobs": 1, "seed": 4, "ignore_eos": True}
    plain = complete(server, **common)["choices"][0]
    echoed = complete(server, echo=True, **common)["choices"][0]
    assert echoed["text"] == "ab" + plain["text"]
    assert echoed["logprobs"]["tokens"] == ["a", "b", *plain["logprobs"]["tokens"]]
    assert echoed["logprobs"]["token_logprobs"][2:] == plain["logprobs"]["token_logprobs"]
    assert echoed["logprobs"]["text_offset"] == [
        0,
        1,
        *(2 + offset for offset in plain["logprobs"]["text_offset"]),
    ]


@pytest.mark.parametrize("max_tokens", [0, 7])
def test_a_stream_says_what_the_whole_answer_says(server: LiveServer, max_tokens: int) -> None:
    body: Body = {
        "prompt": ["x" * 400, "é", [EOS_ID, 98], "abc" * 50],
        "n": 3,
        "echo": True,
        "logprobs": 2,
        "max_tokens": max_tokens,
        "seed": 8,
        "extra_body": {"ignore_eos": True},
    }
    whole = complete(
        server, **{k: v for k, v in body.items() if k != "extra_body"}, ignore_eos=True
    )
    parts = streamed(server, **body)
    assert len(parts) == len(whole["choices"]) == 12
    for choice in whole["choices"]:
        part = parts[choice["index"]]
        assert part["text"] == choice["text"]
        assert part["finish_reason"] == choice["finish_reason"] == "length"
        assert part["logprobs"] == choice["logprobs"]
        lengths = [400, 2, 2, 150]
        count = lengths[choice["index"] // 3] + max_tokens
        assert [len(values) for values in choice["logprobs"].values()] == [count] * 4
    # All choices of a prompt begin with the same.
    first, second, _ = (c["logprobs"]["token_logprobs"][:400] for c in whole["choices"][:3])
    assert first == second


@pytest.mark.parametrize("prompt", ["añb\u20acc", list("añb\u20acc".encode())])
def test_offsets_point_into_the_text(server: LiveServer, prompt: Any) -> None:
    (choice,) = complete(server, prompt=prompt, echo=True, logprobs=0, max_tokens=0)["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "añb\u20acc"
    assert logprobs["tokens"][1:3] == ["bytes:\\xc3", "bytes:\\xb1"]
    # A token within a character is where that begins.
    assert logprobs["text_offset"] == [0, 1, 1, 2, 3, 3, 3, 4]
    assert [choice["text"][i] for i in logprobs["text_offset"]] == list("aññb\u20ac\u20ac\u20acc")
    assert all(len(top) == 1 for top in logprobs["top_logprobs"][1:])


def test_special_tokens_of_a_prompt_are_written_out(server: LiveServer) -> None:
    (choice,) = complete(server, prompt=[97, EOS_ID, 98], echo=True, logprobs=0, max_tokens=0)[
        "choices"
    ]
    assert choice["text"] == "a<eos>b"
    assert choice["logprobs"]["tokens"] == ["a", "<eos>", "b"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 6]


def test_a_prompt_of_one_token_has_nothing_to_score(server: LiveServer) -> None:
    body: Body = {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 0}
    (choice,) = complete(server, **body)["choices"]
    expected = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None]}
    assert choice["logprobs"] == {**expected, "text_offset": [0]}
    assert streamed(server, **body)[0]["logprobs"] == choice["logprobs"]


def test_nothing_to_generate_and_nothing_to_show(server: LiveServer) -> None:
    answer = complete(server, prompt=["ab", "c"], max_tokens=0, n=2)
    assert [choice["text"] for choice in answer["choices"]] == [""] * 4
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 0
    full = [1] * 4096
    assert complete(server, prompt=full, max_tokens=0)["usage"]["prompt_tokens"] == 4096
    assert refused(server, prompt=full, max_tokens=1)["code"] == "context_length_exceeded"
    assert refused(server, prompt=[*full, 1], max_tokens=0)["code"] == "context_length_exceeded"


def test_prompt_logprobs_are_listed_by_token_id(server: LiveServer) -> None:
    answer = complete(
        server, prompt=["abc", "d"], prompt_logprobs=2, max_tokens=1, n=2, echo=True, logprobs=1
    )
    choices = answer["choices"]
    assert [len(choice["prompt_logprobs"]) for choice in choices] == [3, 3, 1, 1]
    first, *rest = choices[0]["prompt_logprobs"]
    assert first is None
    for token, entries in zip("bc", rest, strict=True):
        own = entries[str(ord(token))]
        assert own["decoded_token"] == token
        ranked = sorted(entries.values(), key=lambda entry: int(entry["rank"]))
        assert [entry["rank"] for entry in ranked[:2]] == [1, 2]
        assert own["logprob"] <= ranked[0]["logprob"] < 0
    echoed = choices[0]["logprobs"]
    assert echoed["token_logprobs"][1] == rest[0][str(ord("b"))]["logprob"]
    assert all(len(top) <= 2 for top in echoed["top_logprobs"][1:])


def test_a_chats_prompt_is_scored_too(server: LiveServer) -> None:
    body: Body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    url = f"{server.url}/v1/chat/completions"
    answer = requests.post(url, json={**body, "prompt_logprobs": 0}, timeout=60).json()
    check_answer(answer, "ChatCompletion")
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    written = [next(iter(entries.values())) for entries in answer["prompt_logprobs"][1:]]
    text = "".join(entry["decoded_token"] for entry in written)
    assert text == "user: hi\nassistant: "[1:]
    assert all(entry["rank"] >= 1 for entry in written)
    assert "prompt_logprobs" not in requests.post(url, json=body, timeout=60).json()


def test_what_cannot_be_scored_is_refused(server: LiveServer) -> None:
    chat: Body = {"messages": [{"role": "user", "content": "hi"}]}
    for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", chat)):
        assert refused(server, path, prompt_logprobs=21, **body)["param"] == "prompt_logprobs"
        assert refused(server, path, prompt_logprobs=-1, **body)["param"] == "prompt_logprobs"
        error = refused(server, path, prompt_logprobs=1, stream=True, **body)
        assert error["param"] == "prompt_logprobs"
    error = refused(server, prompt=[[1] * 4000] * 17, echo=True, logprobs=0, max_tokens=0)
    assert error["param"] == "logprobs"
    assert "at most 65536 prompt tokens" in error["message"]
    assert "got 68000" in error["message"]
    error = refused(server, prompt=[[1] * 4000] * 17, prompt_logprobs=0)
    assert error["param"] == "prompt_logprobs"
    # Each choice repeats its prompt.
    error = refused(server, prompt=[[1] * 3000] * 2, n=16, prompt_logprobs=0)
    assert "got 96000" in error["message"]
    # Only what is scored counts.
    assert complete(server, prompt=[[1] * 4000] * 17, max_tokens=0, logprobs=1)["choices"]


def test_news_of_other_choices_waits_for_the_echo() -> None:
    """The engine may have tokens of a choice before it has all of the prompt's scores."""
    with live_server() as (live, engine):
        submit = engine.submit

        def late(request: Any, sink: Any) -> int:
            held: list[Any] = []

            def reorder(deltas: list[Any]) -> None:
                news = [delta for delta in deltas if delta.prompt is not None]
                held.extend(news)
                sink([delta for delta in deltas if delta.prompt is None])
                if deltas[0].completion_tokens == 2 and held:
                    sink([held.pop()])

            return submit(request, reorder)

        engine.submit = late  # type: ignore[method-assign]
        parts = streamed(live, prompt="ab", n=2, echo=True, logprobs=1)
    for choice in parts.values():
        assert choice["text"] == "abAn apple a day"
        assert choice["logprobs"]["tokens"] == ["a", "b", "A", "B", "C", "D"]
        assert choice["logprobs"]["token_logprobs"] == [None, -98.0, -0.5, -0.5, -0.5, -0.5]
