"""JSON logs, one object a line; nothing personal is ever put into them."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure(service: str, level: str, worker: int | None = None) -> None:
    """Send this process's log to standard error as JSON lines with time, level, logger, service, the number of a worker, and message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service} if worker is None else {"service": service, "worker": worker},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Libraries log request URLs and association details, which hold original identifiers.
    for chatty in ("httpx", "httpcore", "pynetdicom", "pydicom", "sqlglot", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
