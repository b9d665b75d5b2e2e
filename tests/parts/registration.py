"""What nodes of a test say about themselves."""

from __future__ import annotations

import uuid
from typing import Any

from likering.topology.store import NodeRegistration

_NAMESPACE = uuid.UUID("00000000-0000-0000-0000-000000000001")


def registration(name: str, **other: Any) -> NodeRegistration:
    """A registration of a node at generation 1; the uuid depends on the name alone."""
    values = {
        "cluster_id": None,
        "name": name,
        "uuid": str(uuid.uuid5(_NAMESPACE, name)),
        "address": "127.0.0.1:50061",
        "weight": 1,
        "generation": 1,
        "system_identifier": "7000000000000000001",
    }
    return NodeRegistration(**{**values, **other})
