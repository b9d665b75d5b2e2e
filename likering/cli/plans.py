"""Plans on paper: shown as a table, kept as a file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Column, Table

from likering.admin.v1 import ring_service_pb2 as api
from likering.cli.figures import count, duration, size
from likering.cli.messages import plain


def show(plan: api.Plan, console: Console, *, moves: bool = True) -> None:
    """The balance before and after and what the moves will take; with ``moves``, each of them."""
    if moves and plan.moves:
        console.print(_moves(plan))
    console.print(_balance(plan))
    console.print(summary(plan), soft_wrap=True)


def summary(plan: api.Plan) -> str:
    """In one line."""
    rows = [move.rows for move in plan.moves]
    held = [move.bytes for move in plan.moves]
    weights = ", ".join(f"{name} → {weight}" for name, weight in sorted(plan.weights.items()))
    return (
        f"{len(plan.moves)} move{'' if len(plan.moves) == 1 else 's'} (the fewest possible: {plan.minimum}),"
        f" {count(-1 if -1 in rows else sum(rows))} rows, {size(-1 if -1 in held else sum(held))};"
        f" expected: {duration(plan.expected_seconds)} in all,"
        f" {duration(plan.expected_pause)} pause of each slot's writes"
        + (f"; weights: {weights}" if weights else "")
    )


def save(plan: api.Plan, path: Path) -> None:
    """As JSON, which ``load`` reads."""
    path.write_text(json.dumps(plain(plan), indent=2) + "\n")


def load(path: Path) -> api.Plan:
    """The plan in a file. A usage error when it holds none."""
    try:
        plan = json_format.Parse(path.read_text(), api.Plan())
    except (OSError, UnicodeDecodeError, json_format.ParseError) as error:
        raise typer.BadParameter(f"{path} holds no plan: {error}", param_hint="PLAN") from error
    if not plan.cluster_id:
        raise typer.BadParameter(
            f"{path} holds no plan; likering ring plan --out FILE makes one", param_hint="PLAN"
        )
    return plan


def same_moves(one: api.Plan, other: api.Plan) -> bool:
    """Whether two plans move the same slots the same way."""
    return {(move.slot, move.source, move.target) for move in one.moves} == {
        (move.slot, move.source, move.target) for move in other.moves
    }


def _moves(plan: api.Plan) -> Table:
    table = Table(
        Column("slot", justify="right"),
        "from",
        "to",
        Column("rows", justify="right"),
        Column("bytes", justify="right"),
    )
    for move in plan.moves:
        table.add_row(str(move.slot), move.source, move.target, count(move.rows), size(move.bytes))
    return table


def _balance(plan: api.Plan) -> Table:
    after = {share.node: share for share in plan.after}
    before = {share.node: share for share in plan.before}
    gives: Counter[str] = Counter(move.source for move in plan.moves)
    takes: Counter[str] = Counter(move.target for move in plan.moves)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for move in plan.moves:
        rows[move.target].append(move.rows)
    headings = ("slots now", "gives", "takes", "slots then", "quota", "rows to copy")
    table = Table("node", *(Column(heading, justify="right") for heading in headings))
    for name in sorted(before.keys() | after.keys()):
        quota = (after.get(name) or before[name]).quota
        table.add_row(
            name,
            str(before[name].slots if name in before else 0),
            str(gives[name]),
            str(takes[name]),
            str(after[name].slots if name in after else 0),
            f"{quota:.2f}",
            count(-1 if -1 in rows[name] else sum(rows[name])),
        )
    return table
