"""What secures a server: the certificate that it shows, and the guard that it asks about each call."""

from __future__ import annotations

from typing import NamedTuple

from likering.security.certificates import Certificates
from likering.security.guard import Guard


class Access(NamedTuple):
    """Of one server."""

    certificates: Certificates
    guard: Guard
