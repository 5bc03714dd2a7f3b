"""Logs of the service on standard error, as text or as lines of JSON.

Lines of the audit log are JSON in both. What is logged is the business of who logs it.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class _Json(logging.Formatter):
    """A line of JSON: what is known of every record, and the fields it has of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", None) or {"message": record.getMessage()}
        line = {"at": round(record.created, 3), "level": record.levelname.lower(),
                "logger": record.name, **fields}  # fmt: skip
        return json.dumps(line)


def log_to_standard_error(form: LogFormat, level: LogLevel) -> None:
    """Have the loggers of this process write; the audit log does at every level."""
    shown = _Json() if form == "json" else logging.Formatter("%(levelname)s: %(message)s")
    for name, least, formatter in (
        ("copersona.audit", "info", logging.Formatter("%(message)s")),
        ("copersona", level, shown),
        ("mcp", "warning", shown),
        ("uvicorn.error", "warning", shown),
    ):
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(least.upper())
        logger.propagate = False
