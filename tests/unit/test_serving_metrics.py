"""What is registered is served to Prometheus, and a taken port is told."""

from __future__ import annotations

import urllib.request

import pytest

from likering.serving.metrics import serve_metrics
from likering.serving.server import ListenFailed


def test_metrics_are_served() -> None:
    server = serve_metrics("127.0.0.1:0")
    try:
        address = f"127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            assert b"process_cpu_seconds_total" in response.read()
        with pytest.raises(ListenFailed):
            serve_metrics(address)
    finally:
        server.shutdown()
        server.server_close()
