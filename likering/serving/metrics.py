"""Serves a process' metrics for Prometheus, by a thread of their own: a busy event loop keeps nobody from looking."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import REGISTRY, disable_created_metrics, start_http_server
from prometheus_client.registry import Collector

from likering.serving.server import ListenFailed

_log = structlog.get_logger(__name__)


def serve_metrics(listen: str, *collectors: Collector) -> WSGIServer:
    """Registers the collectors and serves all that is registered on ``host:port``, until the process ends or the
    server is shut down.

    Raises ListenFailed.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # one series more per counter: when that began
    for collector in collectors:
        REGISTRY.register(collector)
    host, _, port = listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"))
    except OverflowError as error:
        raise ListenFailed(f"cannot serve metrics on {listen}: there is no such port") from error
    except OSError as error:
        raise ListenFailed(f"cannot serve metrics on {listen}: {error.strerror}") from error
    _log.info("serves metrics", address=f"{host}:{server.server_port}")
    return server
