"""One process of a load: reads what to do from standard input, reports each second and the result, all as JSON lines.

Started by ``likering.bench.processes``: ``python -m likering.bench.worker``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from likering.bench.choices import Arrivals, CallerKind, Keys
from likering.bench.load import Load, run_load, run_paced
from likering.bench.results import Second, to_json
from likering.bench.workload import Op, Workload
from likering.client.credentials import CredentialFiles

_CALLBACKS = {"on_second", "on_begin", "on_end"}


def load_to_json(load: Load) -> dict[str, Any]:
    """What to run, as JSON; without its callbacks, which stay in the process that has them."""
    data = {name: getattr(load, name) for name in Load.__dataclass_fields__ if name not in _CALLBACKS}
    data["workload"] = asdict(load.workload)
    data["shown"] = [str(path) if path is not None else None for path in load.shown]
    return data


def load_from_json(data: dict[str, Any]) -> Load:
    """The opposite of ``load_to_json``."""
    workload = dict(data["workload"])
    workload["mix"] = {Op(name): share for name, share in workload["mix"].items()}
    workload["keys"] = Keys(workload["keys"])
    kinds = {"arrivals": Arrivals(data["arrivals"]), "caller": CallerKind(data["caller"])}
    shown = CredentialFiles(*(Path(path) if path is not None else None for path in data["shown"]))
    return Load(**{**data, **kinds, "workload": Workload(**workload), "shown": shown})


def _say(kind: str, data: object) -> None:
    sys.stdout.write(json.dumps({kind: data}) + "\n")
    sys.stdout.flush()


def _main() -> int:
    data = json.loads(sys.stdin.readline())
    pace = data.pop("pace")

    def on_second(second: Second) -> None:
        _say("second", asdict(second))

    load = load_from_json({**data, "on_second": on_second})
    try:
        outcome = run_paced(run_load(load), pace)
    except OSError as error:
        _say("error", f"nobody answers at {load.address}: {error}")
        return 1
    _say("result", to_json(outcome.result))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
