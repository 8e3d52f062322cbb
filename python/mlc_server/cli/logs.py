"""The log of `serve`: lines of text or of JSON on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

from mlc_server.settings import ServerSettings


class JsonFormatter(logging.Formatter):
    """One JSON object a line. A record's `fields`, if it has any, become keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure_logging(settings: ServerSettings) -> None:
    """Sets up the root logger, and the one of --enable-tracing."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # uvicorn announces its own life; the phases and the ready line do that here.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if settings.enable_tracing:
        tracer = logging.getLogger("mlc_server.trace")
        tracer.setLevel(logging.INFO)
        tracer.propagate = False
        plain = logging.StreamHandler(sys.stderr)
        plain.setFormatter(logging.Formatter("%(message)s"))
        tracer.addHandler(plain)
