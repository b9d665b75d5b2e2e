"""What a running cluster looks like from outside, as plain values for JSON."""

from __future__ import annotations

import os
from typing import Any

from likering.dev.cluster import EmbeddedCluster
from likering.dev.part import Part
from likering.dev.securing import Secured


def snapshot(cluster: EmbeddedCluster) -> dict[str, Any]:
    """All addresses, processes and states, with the passwords in the connection strings."""
    router, topology = cluster.parts["router", "router"], cluster.parts["topology", "postgres"]
    return {
        "directory": str(cluster.directory),
        "pid": os.getpid(),
        "router": {
            "address": cluster.address,
            "admin_address": cluster.admin_address,
            **({"token_address": cluster.token_address} if cluster.secured else {}),
            "workers": cluster.router_pids,
            **_part(router),
        },
        "tls": _tls(cluster.secured) if cluster.secured else None,
        "topology": {"dsn": cluster.topology_dsn, **_part(topology)},
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "postgres_dsn": node.postgres_dsn,
                "cache_url": node.cache_url,
                "parts": {kind: _part(part) for kind, part in node.parts.items()},
            }
            for node in cluster.nodes.values()
        ],
    }


def _tls(secured: Secured) -> dict[str, Any]:
    """Where the certificates are that callers and operators may show."""
    return {
        holder: {name: str(path) for name, path in files._asdict().items()}
        for holder, files in (("app", secured.app), ("operator", secured.operator))
    }


def _part(part: Part) -> dict[str, Any]:
    return {"state": str(part.state), "pid": part.pid, "port": part.server.port, "restarts": part.restarts}
