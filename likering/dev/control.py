"""How other commands talk to the supervisor of a directory: JSON lines over a Unix socket that only its user can reach.

The socket lies in a short path of its own (the length of socket paths is limited, that of checkouts is not); a file in
the data directory says where. A request is ``{"command": …, "arguments": {…}}``, the answer ``{"result": …}`` or
``{"error": sentence}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from likering.dev import state
from likering.dev.errors import DevError

Handler = Callable[[str, Mapping[str, Any]], Any]
"""Does a command with its arguments and returns what to answer; raises DevError."""

_PATH_BYTES = 100
_LAST_ANSWERS = 5.0
"""Seconds that the end waits for commands that are still being done."""


class ControlServer:
    """Answers commands, each connection in a thread of its own, until it is closed."""

    def __init__(self, directory: Path, handler: Handler) -> None:
        self._file = _file(directory)
        self._handler = handler
        self._doing = 0
        self._done = threading.Condition()
        _remove_socket(self._file)
        self._folder = Path(tempfile.mkdtemp(prefix="likering-"))  # of mode 0700
        if len(bytes(self._folder / "control")) > _PATH_BYTES:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="likering-", dir="/tmp"))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._folder / "control"))
        self._listener.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()
        state.save(self._file, {"pid": os.getpid(), "socket": str(self._folder / "control")})

    def __repr__(self) -> str:
        return f"ControlServer({str(self._folder)!r})"

    def close(self) -> None:
        """Takes no more commands, and returns once those before are answered.

        Connections stay open until the process ends: ``ask`` waits for that, if told to.
        """
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._done:
            self._done.wait_for(lambda: not self._doing, _LAST_ANSWERS)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), name="command", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                with self._being_done():
                    try:
                        request = json.loads(line)
                        answer = {"result": self._handler(request["command"], request["arguments"])}
                    except DevError as error:
                        answer = {"error": str(error)}
                    # Whoever asked may have gone meanwhile.
                    with contextlib.suppress(OSError):
                        stream.write(json.dumps(answer).encode() + b"\n")
                        stream.flush()

    @contextlib.contextmanager
    def _being_done(self) -> Iterator[None]:
        with self._done:
            self._doing += 1
        try:
            yield
        finally:
            with self._done:
                self._doing -= 1
                self._done.notify_all()


def ask(directory: Path, command: str, *, until_gone: bool = False, **arguments: Any) -> Any:
    """Has the supervisor of a directory do a command; its result. ``until_gone``: waits until it has ended, too.

    Raises DevError with the supervisor's sentence, or when there is none.
    """
    nobody = DevError(f"no cluster is running in {directory}; `likering dev up` starts one")
    path = state.load(_file(directory)).get("socket")
    if path is None:
        raise nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except PermissionError:
            raise DevError(f"the cluster in {directory} belongs to another user") from None
        except OSError:
            raise nobody from None  # its supervisor was killed, and left the file
        with connection.makefile("rwb") as stream:
            stream.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
            if not line:
                raise DevError(f"the supervisor in {directory} ended before it answered")
            answer = json.loads(line)
            if "error" in answer:
                raise DevError(answer["error"])
            if until_gone:
                stream.read()
            return answer["result"]


def _remove_socket(file: Path) -> None:
    """Removes what a supervisor that was killed has left behind."""
    if path := state.load(file).get("socket"):
        with contextlib.suppress(OSError):
            Path(path).unlink()
            Path(path).parent.rmdir()


def _file(directory: Path) -> Path:
    return directory / "supervisor.json"
