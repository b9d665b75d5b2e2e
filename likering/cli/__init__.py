"""The ``likering`` command."""
