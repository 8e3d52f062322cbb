"""Health, models and documentation through the server's life."""

from __future__ import annotations

import re
import threading

import pytest
import requests

from mlc_server import __version__
from mlc_server.api.service import model_names, normal_name
from mlc_server.settings import ServerSettings
from support.http_server import (
    MODEL_ID,
    MODEL_PATH,
    FakeEngine,
    LiveServer,
    Script,
    chat_body,
    live_server,
)


def test_everything_is_503_while_loading() -> None:
    server = LiveServer(ServerSettings())
    server.start()
    try:
        for path in ("/health", "/v1/models"):
            answer = requests.get(server.url + path, timeout=20)
            assert answer.status_code == 503
            assert "loading" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
        answer = requests.post(f"{server.url}/v1/chat/completions", json=chat_body(), timeout=20)
        assert answer.status_code == 503
        assert requests.get(f"{server.url}/version", timeout=20).json() == {"version": __version__}
        server.set_ready(FakeEngine(Script()))
        assert requests.get(f"{server.url}/health", timeout=20).json() == {"status": "ok"}
    finally:
        server.stop()


def test_health_follows_the_engine() -> None:
    with live_server() as (server, engine):
        assert requests.get(f"{server.url}/health", timeout=20).status_code == 200
        engine.state = "dead: a broken invariant"
        answer = requests.get(f"{server.url}/health", timeout=20)
        assert answer.status_code == 503
        assert "a broken invariant" in answer.json()["error"]["message"]
        engine.state = "ok"
        assert requests.get(f"{server.url}/health", timeout=20).status_code == 200


def test_a_dead_engine_answers_every_open_request() -> None:
    answers: list[requests.Response] = []

    def ask(stream: bool) -> None:
        answers.append(
            requests.post(
                f"{server.url}/v1/chat/completions", json=chat_body(stream=stream), timeout=20
            )
        )

    with live_server(script=Script(hang_after=2)) as (server, engine):
        threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
        for thread in threads:
            thread.start()
        while len(engine.requests) < 8:
            pass
        server.on_loop(lambda: server.service.set_dead("dead: a broken invariant"))
        for thread in threads:
            thread.join(timeout=5)
            assert not thread.is_alive()
        assert requests.get(f"{server.url}/health", timeout=20).status_code == 503
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4
    assert all("a broken invariant" in answer.text for answer in answers)


def test_draining_refuses_new_requests_and_finishes_open_ones() -> None:
    with live_server(script=Script(step_s=0.1)) as (server, _):
        with requests.post(
            f"{server.url}/v1/chat/completions",
            json=chat_body(stream=True),
            stream=True,
            timeout=20,
        ) as stream:
            server.on_loop(server.service.set_draining)
            assert requests.get(f"{server.url}/health", timeout=20).status_code == 503
            refused = requests.post(
                f"{server.url}/v1/chat/completions", json=chat_body(), timeout=20
            )
            assert refused.status_code == 503
            assert "shutting down" in refused.json()["error"]["message"]
            body = stream.content
        assert body.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"stop"' in body


def test_model_card() -> None:
    with live_server() as (server, _):
        card = requests.get(f"{server.url}/v1/models", timeout=20).json()["data"][0]
        assert card["id"] == card["root"] == MODEL_ID
        assert card["object"] == "model"
        assert card["parent"] is None
        assert card["max_model_len"] == 4096
        again = requests.get(f"{server.url}/v1/models/{MODEL_ID}", timeout=20).json()
        assert again == card


def test_a_model_answers_to_each_of_its_names() -> None:
    """Lists, cards and answers call it what the client does; a path means its id."""
    with live_server(ServerSettings(served_model_names=("other", "org/third"))) as (server, _):
        listed = requests.get(f"{server.url}/v1/models", timeout=20).json()["data"]
        assert [card["id"] for card in listed] == [MODEL_ID, "other", "org/third"]
        assert {card["root"] for card in listed} == {MODEL_ID}
        for card in listed:
            answer = requests.get(f"{server.url}/v1/models/{card['id']}", timeout=20)
            assert answer.json() == card
        calls = (("chat/completions", chat_body()), ("completions", {"prompt": "a"}))
        for route, body in calls:
            for name, shown in (
                ("other", "other"),
                ("org/third", "org/third"),
                (MODEL_ID, MODEL_ID),
                (MODEL_PATH, MODEL_ID),
                (None, MODEL_ID),
            ):
                url = f"{server.url}/v1/{route}"
                answer = requests.post(url, json={**body, "model": name}, timeout=20)
                assert answer.json()["model"] == shown
            streamed = {**body, "model": "other", "stream": True}
            stream = requests.post(f"{server.url}/v1/{route}", json=streamed, timeout=20)
            assert '"model":"other"' in stream.text
            assert f'"model":"{MODEL_ID}"' not in stream.text
        refused = requests.get(f"{server.url}/v1/models/fourth", timeout=20)
        assert refused.status_code == 404
        error = refused.json()["error"]
        assert error["code"] == "model_not_found"
        for name in ("fourth", MODEL_ID, "other", "org/third"):
            assert f'"{name}"' in error["message"]


@pytest.mark.parametrize(
    "name",
    ["m", "./dist/m-MLC/", "./dist/m-MLC", "dist/m-MLC", "dist//m-MLC/", "m-MLC"],
)
def test_spellings_of_a_model(name: str) -> None:
    assert normal_name(name) in model_names("m", "./dist/m-MLC/")


@pytest.mark.parametrize("name", ["", "other/m-MLC", "M", "dist", "../dist/m-MLC"])
def test_other_names_are_other_models(name: str) -> None:
    assert normal_name(name) not in model_names("m", "./dist/m-MLC/")


def test_docs_list_every_route_and_need_no_network() -> None:
    with live_server() as (server, _):
        page = requests.get(f"{server.url}/docs", timeout=20)
        openapi = requests.get(f"{server.url}/openapi.json", timeout=20).json()
    assert page.headers["content-type"].startswith("text/html")
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            assert f'<section id="{method}{path}">' in page.text
            assert f'<a href="#{method}{path}">' in page.text
            examples = operation.get("requestBody", {}).get("content", {})
            assert method == "get" or path.startswith("/debug") or examples
        shown = path.replace("{model_id}", MODEL_ID)  # so that the example works as it stands
        assert f"curl {server.url}{shown}</pre>" in page.text or "get" not in operations
        assert f"{server.url}{shown}" in page.text
    sections = page.text.split("<section")[1:]
    assert all("<pre>curl" in section and "<h3>Answers</h3>" in section for section in sections)
    for field in ("temperature", "logit_bias", "stop_token_ids"):
        assert f"<code>{field}</code>" in page.text
    assert "Write a haiku about apples." in page.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.text)


def test_docs_name_the_address_they_were_asked_for_by() -> None:
    def docs(host: str) -> str:
        return requests.get(f"{server.url}/docs", headers={"Host": host}, timeout=20).text

    with live_server(ServerSettings(allowed_hosts=("*",))) as (server, _):
        assert "curl -X POST http://my.box:81/tokenize" in docs("my.box:81")
        assert "<script>" not in docs("example.com:1<script>")


def test_openapi_describes_the_chat_request() -> None:
    with live_server() as (server, _):
        openapi = requests.get(f"{server.url}/openapi.json", timeout=20).json()
    operation = openapi["paths"]["/v1/chat/completions"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    schema = openapi["components"]["schemas"][name]
    assert schema["required"] == ["messages"]
    assert "tool_calls" in openapi["components"]["schemas"]["ChatMessage"]["properties"]


def test_the_examples_of_the_docs_work() -> None:
    with live_server() as (server, _):
        openapi = requests.get(f"{server.url}/openapi.json", timeout=20).json()
        operation = openapi["paths"]["/v1/chat/completions"]["post"]
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            answer = requests.post(
                f"{server.url}/v1/chat/completions", json=example["value"], timeout=20
            )
            assert answer.status_code == 200
