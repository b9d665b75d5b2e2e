"""The statements as they are read from the file."""

from __future__ import annotations

import pytest

from shard_node.queries import LISTED, QUERIES, query


@pytest.mark.parametrize("size", LISTED)
def test_a_statement_for_few_slots_differs_by_its_lists(size: int) -> None:
    """Where it reads, and where it looks for posts that are not known."""
    for name in ("read_edges_of_unknown_posts", "read_posts", "read_liked"):
        for kind, form in (("slot", query(name, slots=size)), ("unknown", query(name, unknown=size))):
            lists = [line for line in form.splitlines() if "AND slot IN (" in line or "AND false" in line]
            assert [line.count(f"%({kind}_") for line in lists] == [size] * len(lists)
            assert "\n".join(line for line in form.splitlines() if line not in lists) == QUERIES[name]
            assert bool(lists) is (kind == "slot" or "unknown" in name)


def test_a_statement_with_purges_differs_by_their_part() -> None:
    for slots in (None, 4):
        with_purges = query("read_changes_and_purges", slots=slots)
        before, after = with_purges.split("    UNION ALL\n    (SELECT place, place")
        assert before + after.partition(") AS purged LIMIT %(limit)s)\n")[2] == query(
            "read_changes", slots=slots
        )
    assert not [name for name, sql in QUERIES.items() if "AND purges" in sql]


def test_parts_stand_in_statements_and_are_none() -> None:
    assert "fence AS (" in QUERIES["insert_likes"]
    assert not [name for name, sql in QUERIES.items() if "-- with:" in sql]
    assert not {"inserted", "counted", "likes", "wanted", "purges"}.intersection(QUERIES)


def test_no_statement_keeps_the_mark() -> None:
    assert not [
        name
        for name, sql in QUERIES.items()
        for mark in ("AND few slots", "AND few unknown")
        if mark in sql.replace(f'"{mark}"', "")
    ]
