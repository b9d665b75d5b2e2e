"""One likering process with a gRPC port (node, replica or router), ready when its health service says so."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from likering.dev.authority import CertificateFiles
from likering.dev.ports import HOST, choose_port
from likering.dev.process import Child
from likering.dev.server import Server

_PROBE_SECONDS = 0.5
# Longer than a process takes to drain and to give up waiting for its own workers.
_STOP_STEPS = ((signal.SIGTERM, 25.0),)


class Service(Server):
    """Runs ``python -m <module>`` and watches its health. Stopped, it finishes the calls in progress."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        port: int,
        environment: Callable[[], Mapping[str, str]],
        log: Path,
        what: str,
        certificate: CertificateFiles | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """``environment``, asked at each start, is added to ours. Secrets go there: arguments are open to all users.

        ``certificate``: what to show the process when asking for its health; None: it speaks no TLS.
        """
        super().__init__(what, _STOP_STEPS)
        self._port = port
        self.log = log
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = environment
        self._certificate = certificate
        self._death_signal = death_signal

    def __repr__(self) -> str:
        return f"Service({self.what!r}, {self.address}, process={self._process!r})"

    @property
    def port(self) -> int:
        """Of its gRPC server."""
        return self._port

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    def serving_pids(self) -> list[int]:
        """The processes that serve calls: the workers, where there are several; else the one process."""
        if self._process is None or not self._process.running:
            return []
        return self._process.descendants() or [self._process.pid]

    def start(self, timeout: float = 60, cancel: threading.Event | None = None) -> None:
        """Starts the process and waits until it serves. Raises DevError with a sentence, Interrupted on ``cancel``."""
        self._require_stopped()
        choose_port(self._port, kept=0, what=self.what)
        process = Child(
            self._command,
            log=self.log,
            death_signal=self._death_signal,
            environment={**os.environ, **self._environment()},
        )
        with self._coming_up(process):
            process.until(self.is_serving, what=self.what, timeout=timeout, cancel=cancel)

    def is_serving(self) -> bool:
        """Asks the process itself: False as well when it is frozen."""
        # A channel of its own each time: one that has failed would wait before it connects again.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        with self._channel(options) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = check(health_pb2.HealthCheckRequest(service=""), timeout=_PROBE_SECONDS)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _channel(self, options: Sequence[tuple[str, int]]) -> grpc.Channel:
        if self._certificate is None:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, self._certificate.credentials(), options=options)
