"""Log lines: one JSON object per line on stderr, of this program and of the libraries it uses."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

request_id_of_call: ContextVar[str] = ContextVar("request_id", default="")
"""The request id of the call that the current task serves."""


def configure(service: str, level: str = "info") -> None:
    """Makes structlog and the standard library's logging write JSON lines to stderr.

    ``service`` names the program in each line. ``level`` is a name of the standard library, in any case.
    """
    number = logging.getLevelNamesMapping()[level.upper()]

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_request_id,
    ]
    render: list[Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries say little below WARNING that an operator wants to read.
    root.setLevel(max(number, logging.WARNING))


class _Stderr:
    """Whatever stderr is at the moment. A line that it does not take is lost: it must not fail the call it is about."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "request_id" not in event and (request_id := request_id_of_call.get()):
        event["request_id"] = request_id
    return event
