"""Free ports on the loopback interface."""

from __future__ import annotations

import errno
import os
import socket
import threading
from itertools import chain

from likering.dev.errors import DevError

HOST = "127.0.0.1"

# Below the range from which the kernel takes the ports of outgoing connections: a server that restarts must find its
# port free, and not in use as the far end of somebody's connection.
_RANGE = range(20_000, 32_000)
_STRIDE = 7_919
"""Places between two processes of which one was started right after the other; a prime, so that many of them differ."""
_given: set[int] = set()
_lock = threading.Lock()


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port() -> int:
    """A port that nobody listens on, and that this process has not handed out before.

    Each process begins to look at a place of its own: a port is taken some time after it was found, and another process
    that looks meanwhile would find it as well.
    """
    first = os.getpid() * _STRIDE % len(_RANGE)
    with _lock:
        for port in chain(_RANGE[first:], _RANGE[:first]):
            if port not in _given and is_free(port):
                _given.add(port)
                return port
    raise DevError(f"no port between {_RANGE.start} and {_RANGE.stop} is free on {HOST}")


def choose_port(wanted: int, *, kept: int, what: str) -> int:
    """The port to listen on: exactly ``wanted``, else the one ``kept`` from an earlier run, else any free one.

    Raises DevError when the wanted one is taken.
    """
    if wanted:
        if not is_free(wanted):
            raise DevError(
                f"{what} cannot listen on {HOST}:{wanted}: something else listens there; choose another port"
            )
        return wanted
    return kept if kept and is_free(kept) else free_port()
