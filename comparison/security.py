"""What TLS and credentials cost: the CPU of router and node per Like, open, with certificates and with tokens.

Run it as ``python -m comparison.security``: each mode once a round, on an embedded cluster of one node. With either
credential the router speaks mutual TLS to the node as well.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Final

import grpc.aio

from comparison.per_like import Figure, likes, processes, table
from likering.client.credentials import credentials_from_files
from likering.dev.cluster import EmbeddedCluster
from likering.serving.tracing import Metadata

OPEN: Final = "open"
CERTIFICATE: Final = "TLS, a certificate"
TOKENS: Final = "TLS, a token"
USER: Final = "u1"


async def put_load_on(cluster: EmbeddedCluster, mode: str, seconds: float) -> Figure:
    """By callers on one connection, for one user: whose token it is."""
    metadata: Metadata = ()
    if cluster.secured is None:
        channel = grpc.aio.insecure_channel(cluster.address)
    elif mode == CERTIFICATE:
        channel = grpc.aio.secure_channel(cluster.address, cluster.secured.app.credentials())
    else:
        authority = cluster.secured.authority
        channel = grpc.aio.secure_channel(cluster.token_address, credentials_from_files(ca=authority.ca))
        metadata = (("authorization", f"Bearer {authority.token(USER)}"),)
    return await likes(channel, seconds, processes(cluster), user=USER, metadata=metadata)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    given = parser.parse_args()
    figures: dict[str, list[Figure]] = {mode: [] for mode in (OPEN, CERTIFICATE, TOKENS)}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(given.rounds):
            for mode, found in figures.items():
                place = Path(directory) / ("open" if mode == OPEN else "secured")
                with EmbeddedCluster(place, nodes=1, secure=mode != OPEN) as cluster:
                    found.append(asyncio.run(put_load_on(cluster, mode, given.seconds)))
    print(table("credential", figures))


if __name__ == "__main__":
    main()
