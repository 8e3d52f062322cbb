"""Log lines as JSON."""

from __future__ import annotations

import json
import logging
import sys

from mlc_server.cli.logs import JsonFormatter


def test_a_record_is_one_json_object_with_its_fields() -> None:
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "x\ny %s", ("z",), None)
    record.fields = {"status": 200}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"level": "INFO", "logger": "a.b", "message": "x\ny z", "status": 200}


def test_an_exception_is_part_of_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f.py", 1, "m", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["exception"]
