"""Passwords in connection strings: they may come by the environment and by files, but not as arguments."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_NAMED: Final = re.compile(r"\b((ssl_?)?password|oauth_client_secret)\s*=\s*[^\s&]", re.IGNORECASE)
"""As libpq and redis-py name them: the passwords of the user and of the key, and OAuth's."""

READABLE: Final = "all users of a machine can read arguments, and this one has a password"


def has_password(value: str) -> bool:
    """Whether a DSN or a URL holds a password itself, and not only where one is (passfile=…)."""
    if _NAMED.search(value):
        return True
    try:
        return bool(urlsplit(value).password)
    except ValueError:
        return False
