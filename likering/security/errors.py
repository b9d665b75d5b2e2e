"""What is wrong with the security settings of a process, or with the files that they name."""

from __future__ import annotations


class SecurityError(Exception):
    """The process cannot be secured as it was asked to. The message is for the operator, and has no secret."""
