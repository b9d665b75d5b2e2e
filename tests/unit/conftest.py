"""Logging for the tests of what is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

_LOGGERS = ("likering.security.tokens", "likering.serving.handlers")
"""The modules whose lines tests look at. A logger keeps the configuration that it was first used with."""


@pytest.fixture
def logging_as_at_first(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever other tests have configured, every line is logged; what this one configures is gone afterwards."""
    configured, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.reset_defaults()
    for module in _LOGGERS:
        monkeypatch.setattr(f"{module}._log", structlog.get_logger(module))
    yield
    structlog.configure(**configured)
    root.handlers[:] = handlers
    root.setLevel(level)
