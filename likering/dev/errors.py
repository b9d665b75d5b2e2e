"""The one error of the embedded cluster: a sentence for the person at the terminal."""

from __future__ import annotations


class DevError(Exception):
    """The embedded cluster cannot do what was asked; the message is one sentence that says why."""


class Interrupted(DevError):
    """The cluster is being stopped while it was still starting."""
