"""The SQL that makes roles with as few rights as the parts of a cluster can do with."""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files


class Database(StrEnum):
    """Which kind of database the roles are for."""

    TOPOLOGY = "topology"
    NODE = "node"


def statements(database: Database) -> str:
    """For a superuser, who runs them in the database; they may be run again."""
    return files(__name__).joinpath(f"{database}.sql").read_text("utf-8")
