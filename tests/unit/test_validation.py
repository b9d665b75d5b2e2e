"""What requests may contain: each rule, its field path and its reason."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from likering import validation
from likering.errors import ERRORS_BY_REASON, IdTooLong, InvalidArgument, LikeringError
from likering.validation import Violations

NOW = 1_790_000_000_000_000


def found(violations: Violations) -> list[tuple[str, str]]:
    return [(violation.field, violation.reason) for violation in violations]


GOOD_IDS = ["a", "u1", "x" * 128, "ü" * 64, "💙" * 32, "with space", "tab\there", "\x7f", "\u0085"]
BAD_IDS = [
    ("", "ID_EMPTY"),
    ("x" * 129, "ID_TOO_LONG"),
    ("ü" * 65, "ID_TOO_LONG"),
    ("💙" * 33, "ID_TOO_LONG"),
    ("a\0b", "ID_NOT_PRINTABLE"),
    ("ü\0", "ID_NOT_PRINTABLE"),
    ("\0", "ID_NOT_PRINTABLE"),
    ("\ud800", "ID_NOT_PRINTABLE"),
]


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_id_is_any_text_of_1_to_128_bytes(value: str) -> None:
    assert validation.valid_id(value)
    assert validation.valid_ids([value, "a"])
    assert not validation.like_violations(value, value, NOW, NOW)


@pytest.mark.parametrize(("value", "reason"), BAD_IDS)
def test_a_bad_id_is_named_with_its_reason(value: str, reason: str) -> None:
    assert not validation.valid_id(value)
    assert not validation.valid_ids(["a", value])
    assert found(validation.like_violations(value, "p", 0, NOW)) == [("user_id", reason)]
    assert found(validation.count_violations(value, 0, 0)) == [("post_id", reason)]


@given(st.text(st.characters(), max_size=140))
def test_the_fast_path_agrees_with_the_definition(value: str) -> None:
    """``valid_id`` asks cheap questions first; this is the rule as it is written down."""
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        size = 0
    expected = 1 <= size <= 128 and "\0" not in value
    assert validation.valid_id(value) is expected
    assert validation.valid_ids([value]) is expected
    assert bool(validation.like_violations(value, "p", 0, NOW)) is not expected


def test_all_violations_of_a_request_are_listed() -> None:
    violations = validation.like_violations("", "x" * 129, -1, NOW)
    assert found(violations) == [
        ("user_id", "ID_EMPTY"),
        ("post_id", "ID_TOO_LONG"),
        ("intent_time", "INTENT_INVALID"),
    ]


def test_the_error_is_of_the_first_violation_and_carries_all() -> None:
    error = InvalidArgument.of(validation.like_violations("x" * 129, "", 0, NOW))
    assert isinstance(error, IdTooLong)
    assert found(error.violations) == [("user_id", "ID_TOO_LONG"), ("post_id", "ID_EMPTY")]


def test_a_mutation_is_named_by_its_index() -> None:
    violations = validation.mutation_violations(3, "", "p\0", 7, NOW + 60_000_001, NOW)
    assert found(violations) == [
        ("mutations[3].user_id", "ID_EMPTY"),
        ("mutations[3].post_id", "ID_NOT_PRINTABLE"),
        ("mutations[3].action", "ENUM_UNKNOWN"),
        ("mutations[3].intent_time", "INTENT_IN_FUTURE"),
    ]


@pytest.mark.parametrize("action", [1, 2])
def test_like_and_unlike_are_actions(action: int) -> None:
    assert not validation.mutation_violations(0, "u", "p", action, 0, NOW)


@pytest.mark.parametrize("action", [0, 3, -1])
def test_no_other_number_is_an_action(action: int) -> None:
    violations = validation.mutation_violations(0, "u", "p", action, 0, NOW)
    assert found(violations) == [("mutations[0].action", "ENUM_UNKNOWN")]


@pytest.mark.parametrize(
    ("count", "reasons"), [(0, ["BATCH_EMPTY"]), (1, []), (1000, []), (1001, ["BATCH_TOO_LARGE"])]
)
def test_a_call_has_1_to_1000_mutations(count: int, reasons: list[str]) -> None:
    assert [violation.reason for violation in validation.mutate_violations(count)] == reasons


@pytest.mark.parametrize(
    ("count", "reasons"), [(0, ["BATCH_EMPTY"]), (1, []), (200, []), (201, ["BATCH_TOO_LARGE"])]
)
def test_a_page_has_1_to_200_posts(count: int, reasons: list[str]) -> None:
    violations = validation.summaries_violations(["p"] * count, "", 0)
    assert [violation.reason for violation in violations] == reasons


@pytest.mark.parametrize(
    ("count", "reasons"), [(0, ["BATCH_EMPTY"]), (1, []), (1000, []), (1001, ["BATCH_TOO_LARGE"])]
)
def test_a_filter_has_1_to_1000_users(count: int, reasons: list[str]) -> None:
    violations = validation.filter_violations("p", ["u"] * count, 0, 0)
    assert [violation.reason for violation in violations] == reasons


def test_items_of_lists_are_named_by_their_index() -> None:
    assert found(validation.summaries_violations(["p", "", "p", "a\0"], "v" * 129, 9)) == [
        ("post_ids[1]", "ID_EMPTY"),
        ("post_ids[3]", "ID_NOT_PRINTABLE"),
        ("viewer_user_id", "ID_TOO_LONG"),
        ("consistency", "ENUM_UNKNOWN"),
    ]
    assert found(validation.filter_violations("", ["u", ""], 0, -1)) == [
        ("post_id", "ID_EMPTY"),
        ("user_ids[1]", "ID_EMPTY"),
        ("min_version", "VERSION_NEGATIVE"),
    ]


def test_a_list_that_is_too_long_is_not_looked_into() -> None:
    assert len(validation.filter_violations("p", [""] * 5000, 0, 0)) == 1


def test_reads_take_known_consistencies_and_versions_from_0() -> None:
    assert not validation.has_liked_violations("u", "p", 3, 2**63 - 1)
    assert found(validation.has_liked_violations("u", "p", 4, -1)) == [
        ("consistency", "ENUM_UNKNOWN"),
        ("min_version", "VERSION_NEGATIVE"),
    ]
    assert found(validation.count_violations("p", -1, -1)) == [
        ("consistency", "ENUM_UNKNOWN"),
        ("min_version", "VERSION_NEGATIVE"),
    ]


def test_an_intent_may_be_60_seconds_ahead_and_as_old_as_1970() -> None:
    assert not validation.like_violations("u", "p", NOW + 60_000_000, NOW)
    assert not validation.like_violations("u", "p", 1, NOW)
    assert found(validation.like_violations("u", "p", NOW + 60_000_001, NOW)) == [
        ("intent_time", "INTENT_IN_FUTURE")
    ]


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (Timestamp(seconds=1, nanos=1999), 1_000_001),
        (Timestamp(seconds=1_790_000_000), NOW),
        (Timestamp(seconds=253_402_300_799, nanos=999_999_999), 253_402_300_799_999_999),
    ],
)
def test_an_intent_is_counted_in_microseconds_rounded_down(time: Timestamp, micros: int) -> None:
    assert validation.intent_micros(time) == micros


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(),
        Timestamp(nanos=999),
        Timestamp(seconds=-1),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=1, nanos=-1),
        Timestamp(seconds=1, nanos=1_000_000_000),
    ],
)
def test_what_is_not_a_time_after_1970_is_no_intent(time: Timestamp) -> None:
    intent = validation.intent_micros(time)
    assert intent == validation.INTENT_INVALID
    assert found(validation.like_violations("u", "p", intent, NOW)) == [("intent_time", "INTENT_INVALID")]


def test_every_reason_given_has_its_error() -> None:
    for reason in {reason for _, reason in BAD_IDS}:
        error: type[LikeringError] = ERRORS_BY_REASON[reason]
        assert issubclass(error, InvalidArgument)
