"""The reasons of errors: those of the API and the classes are the same."""

from __future__ import annotations

from likering.errors import ERRORS_BY_REASON, InvalidArgument, LikeringError
from likering.serving.status import from_status, to_status
from likering.topology.moves import MoveChanged
from likering.topology.store import NodeSuperseded, NodeUnknown
from likering.v1.error_reason_pb2 import ErrorReason

_NAMES = [value.name for value in ErrorReason.DESCRIPTOR.values]


def test_each_reason_has_a_class() -> None:
    """And no class another one."""
    names = {name.removeprefix("ERROR_REASON_") for name in _NAMES}
    assert names - {"UNSPECIFIED"} == ERRORS_BY_REASON.keys()


def test_a_kind_of_error_that_callers_need_not_know_arrives_as_its_reason() -> None:
    """With its own sentence."""
    for error in (
        NodeUnknown.of("x", ["a"]),
        NodeSuperseded(),
        MoveChanged("The move is gone"),
        InvalidArgument("limit is 0 to 1000, not -1"),
    ):
        arrived = from_status(to_status(error))
        assert isinstance(arrived, LikeringError)
        assert type(arrived) is ERRORS_BY_REASON[error.reason]
        assert (arrived.message, arrived.code) == (error.message, error.code)
