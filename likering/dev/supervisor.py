"""Behind ``likering dev up``: runs a cluster until a signal or ``likering dev down``, and takes commands meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from likering.dev import example
from likering.dev.cluster import EmbeddedCluster
from likering.dev.control import ControlServer
from likering.dev.errors import DevError, Interrupted
from likering.dev.securing import Secured
from likering.dev.status import snapshot

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Owns the cluster of one process. ``run`` it in the main thread, where signals arrive."""

    def __init__(self, cluster: EmbeddedCluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self._leave = threading.Event()
        self._stopped = threading.Event()

    def run(self, *, once: bool) -> None:
        """Starts the cluster, runs the example, and serves until told to stop (``once``: only that).

        Raises DevError when the cluster does not start or the example fails; no process is left then, either.
        """
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            self._cluster.start()
        except Interrupted:
            if not self._leave.is_set():
                raise
            return
        control = ControlServer(self._cluster.directory, self._do)
        try:
            self._run_example()
            if not once:
                self._say(
                    f"operators: `likering ring status --admin {self._cluster.admin_address}`, and without"
                    ' --admin after `eval "$(likering dev env)"`'
                )
                if self._cluster.secured is not None:
                    self._say_how_to_connect(self._cluster.secured)
                self._say(
                    f"likering serves on {self._cluster.address}; Ctrl-C or `likering dev down` stops it"
                )
                self._leave.wait()
        finally:
            self._say("stopping")
            # Only one stop: what comes meanwhile changes nothing, the parts have their own deadlines.
            self._cluster.stop()
            self._stopped.set()
            control.close()

    def _run_example(self) -> None:
        secured = self._cluster.secured
        shown = secured.app.credentials() if secured is not None else None
        answers = example.run(self._cluster.address, shown)
        self._say("the README's example says:")
        for answer in answers:
            self._say(str(answer))

    def _say_how_to_connect(self, secured: Secured) -> None:
        app = secured.app
        self._say(f"callers show {app.certificate} with {app.key}, and trust {app.ca};")
        self._say(
            f"those with tokens call {self._cluster.token_address} (`likering dev token USER` makes one);"
            ' operators take `eval "$(likering dev env)"`'
        )
        self._say(
            "router and nodes speak TLS only; Postgres and Valkey ask for passwords, on the loopback interface"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._leave.set()
        self._cluster.give_up()

    def _do(self, command: str, arguments: Mapping[str, Any]) -> Any:
        match command:
            case "status":
                return snapshot(self._cluster)
            case "add-node":
                self._cluster.add_node(arguments["name"])
            case "stop-node":
                self._cluster.stop_node(arguments["name"])
            case "kill":
                self._cluster.kill(arguments["name"], arguments["part"])
            case "down":
                self._leave.set()
                self._stopped.wait()
            case _:
                raise DevError(f"this supervisor does not know the command {command!r}")
        return None
