"""Shows a load's result on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from likering.bench.results import LoadResult

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def milliseconds(us: float) -> str:
    """A latency in ms for people: ``0.84``, ``12.3``, ``1,203``."""
    if us >= 1_000_000:
        return f"{us / 1000:,.0f}"
    return f"{us / 1000:.1f}" if us >= 10_000 else f"{us / 1000:.2f}"


def show(result: LoadResult, console: Console) -> None:
    """Prints throughput, latencies per operation, status codes and the generator's own figures."""
    table = Table(title="latency from the intended send time, ms", title_justify="left")
    table.add_column("operation", no_wrap=True)
    for name in ("calls/s", "items/s", "errors", *(f"p{percent:g}" for percent in _PERCENTILES), "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for op, part in result.ops.items():
        table.add_row(
            op.value,
            f"{(part.calls - part.errors) / result.seconds:,.0f}",
            f"{part.items / result.seconds:,.0f}",
            f"{part.errors:,}",
            *(milliseconds(part.latency.percentile(percent)) for percent in _PERCENTILES),
            milliseconds(part.latency.maximum),
        )
    console.print(table)
    codes = {code: sum(part.codes[code] for part in result.ops.values()) for code in _codes(result)}
    console.print("codes: " + ", ".join(f"{code} {count:,}" for code, count in codes.items()))
    for message, count in result.messages.most_common():
        console.print(f"  {count:,} × {message}", markup=False, style="red")
    if result.send_lag.count:
        late = milliseconds(result.send_lag.percentile(99))
        console.print(f"the generator sent its calls late by {late} ms at the 99th percentile")
    if result.calls:
        cpu = result.client_cpu_seconds / result.calls * 1e6
        console.print(f"the generator itself took {cpu:.0f} µs of CPU per call")


def _codes(result: LoadResult) -> list[str]:
    names: list[str] = []
    for part in result.ops.values():
        names += [code for code in part.codes if code not in names]
    return sorted(names, key=lambda code: (code != "OK", code))
