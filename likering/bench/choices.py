"""What a load can be told to be, as a command line names it. Needs nothing of the extra ``bench``."""

from __future__ import annotations

from enum import StrEnum


class Keys(StrEnum):
    """How calls spread over the posts."""

    SPREAD = "spread"  # all posts alike
    ZIPF = "zipf"  # few posts get most
    HOT = "hot"  # one post gets everything


class Arrivals(StrEnum):
    """How calls of an open loop follow each other."""

    STEADY = "steady"  # evenly
    POISSON = "poisson"  # as independent callers would, with their bursts


class CallerKind(StrEnum):
    """What makes the calls."""

    LIGHT = "light"  # plain HTTP/2, at a fraction of the CPU
    GRPC = "grpc"  # grpcio's asyncio client
