"""Fields nobody knows are ignored, but not in silence."""

from __future__ import annotations

import logging

import pytest
import requests

from support.http_server import chat_body, live_server


def test_headers_name_ignored_fields_on_every_kind_of_response() -> None:
    with live_server() as (server, _):
        url = f"{server.url}/v1/chat/completions"
        for fields, status in (({}, 200), ({"stream": True}, 200), ({"n": 99}, 400)):
            answer = requests.post(url, json=chat_body(temprature=1, zzz=1, **fields), timeout=20)
            assert answer.status_code == status
            assert answer.headers["x-ignored-fields"] == "temprature, zzz"
            assert answer.headers["x-field-hints"] == "temprature=temperature"
        answer = requests.post(url, json=chat_body(user="u", store=True), timeout=20)
        assert "x-ignored-fields" not in answer.headers
        assert "x-field-hints" not in answer.headers


def test_the_log_names_each_field_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with live_server() as (server, _):
        for _ in range(3):
            requests.post(
                f"{server.url}/v1/chat/completions", json=chat_body(temprature=1), timeout=20
            )
    told = [record.getMessage() for record in caplog.records if "temprature" in record.getMessage()]
    assert told == [
        "field temprature of /v1/chat/completions is ignored; did you mean temperature?"
    ]


def test_template_variables_that_nothing_reads_are_ignored_fields() -> None:
    with live_server() as (server, _):
        variables = {"enable_thinking": False, "messages": []}
        body = chat_body(zzz=1, chat_template_kwargs=variables)
        answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == (
        "zzz, chat_template_kwargs.enable_thinking, chat_template_kwargs.messages"
    )
