"""Serves a process' metrics for Prometheus, by a thread of their own: a busy event loop keeps nobody from looking."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import start_http_server

from likering.serving.server import ListenFailed

_log = structlog.get_logger(__name__)


def serve_metrics(listen: str) -> WSGIServer:
    """Serves all that is registered on ``host:port``, until the process ends or the server is shut down.

    Raises ListenFailed.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"))
    except OSError as error:
        raise ListenFailed(f"cannot serve metrics on {listen}: {error.strerror}") from error
    _log.info("serves metrics", address=f"{host}:{server.server_port}")
    return server
