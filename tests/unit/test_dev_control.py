"""How the supervisor of a development cluster is told what to do."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from likering.dev.control import ControlServer, ask
from likering.dev.errors import DevError


def test_a_refusal_is_the_supervisors_sentence(tmp_path: Path) -> None:
    def refuse(command: str, arguments: Mapping[str, Any]) -> Any:
        raise DevError(f"no {command} of {arguments['name']}")

    server = ControlServer(tmp_path, refuse)
    try:
        with pytest.raises(DevError, match=r"^no kill of a$"):
            ask(tmp_path, "kill", name="a")
    finally:
        server.close()
    with pytest.raises(DevError, match="no cluster is running"):
        ask(tmp_path, "kill", name="a")


def test_the_end_waits_for_the_last_answer(tmp_path: Path) -> None:
    """What ends with the process would be cut off in it."""
    begun, done = threading.Event(), threading.Event()

    def work(_command: str, _arguments: Mapping[str, Any]) -> Any:
        begun.set()
        assert done.wait(10)
        return "done"

    server = ControlServer(tmp_path, work)
    with ThreadPoolExecutor(2) as threads:
        try:
            answer = threads.submit(ask, tmp_path, "work")
            assert begun.wait(10)
            closing = threads.submit(server.close)
            with pytest.raises(TimeoutError):
                closing.result(0.2)
        finally:
            done.set()
        closing.result(10)
        assert answer.result(10) == "done"
