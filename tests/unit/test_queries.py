"""The statements as they are read from the file."""

from __future__ import annotations

from shard_node.queries import FEW_SLOTS, QUERIES


def test_a_statement_for_few_slots_differs_by_its_list() -> None:
    for name in ("read_edges", "read_posts", "read_liked"):
        few = QUERIES[f"{name}_of_few_slots"]
        lists = [line for line in few.splitlines() if "AND slot IN (" in line]
        assert [line.count("%(slot_") for line in lists] == [FEW_SLOTS]
        assert "\n".join(line for line in few.splitlines() if line not in lists) == QUERIES[name]


def test_a_statement_with_purges_differs_by_their_part() -> None:
    for form in ("", "_of_few_slots"):
        with_purges = QUERIES[f"read_changes_and_purges{form}"]
        before, after = with_purges.split("    UNION ALL\n    (SELECT place, place")
        assert before + after.partition(") AS purged LIMIT %(limit)s)\n")[2] == QUERIES[f"read_changes{form}"]
    assert "purges" not in QUERIES
    assert not [name for name, sql in QUERIES.items() if "AND purges" in sql]


def test_no_statement_keeps_the_mark() -> None:
    assert not [
        name for name, sql in QUERIES.items() if "AND few slots" in sql.replace('"AND few slots"', "")
    ]
