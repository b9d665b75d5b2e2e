"""``likering bench`` against a whole cluster: what it says that it wrote is in the nodes' databases."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from typer.testing import CliRunner

from comparison.check import in_nodes
from likering.bench.results import from_json
from likering.cli.bench import app
from likering.cli.main import app as likering
from likering.dev.cluster import EmbeddedCluster


def test_the_likes_of_a_load_are_in_the_databases(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Every acknowledged like, with exact counts and versions; and the result, the plot and the check agree."""
    prefix = secrets.token_hex(3)
    output, picture = tmp_path / "result.json", tmp_path / "plot.svg"
    arguments = [
        "--address",
        cluster.address,
        "--rate",
        "100",
        "--seconds",
        "1",
        "--warmup",
        "0.2",
        "--check",
    ]
    arguments += ["--mix", "like=6,count=3,mutate=1", "--batch", "20", "--posts", "50", "--keys", "zipf"]
    arguments += ["--prefix", prefix, "--output", str(output), "--plot", str(picture)]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output

    result = from_json(json.loads(output.read_text()))
    assert result.calls == 100
    assert result.errors == 0
    assert result.written.likes > 100
    found = in_nodes([node.postgres_dsn for node in cluster.nodes.values()], prefix)
    assert found.edges == result.written.likes
    assert found.problem(result.written) is None
    assert f"counts add up to {found.edges:,}" in run.output.replace("\n", " ")
    assert picture.stat().st_size > 1000


def test_a_secured_cluster_takes_a_load_with_a_certificate(tmp_path: Path) -> None:
    """As other commands show it; read back and checked with it, too. Without it nobody answers."""
    load = ["--rate", "50", "--seconds", "1", "--warmup", "0.2", "--posts", "10"]
    run = CliRunner().invoke(likering, ["--tls-ca", str(tmp_path / "missing"), "bench", *load])
    assert run.exit_code == 2
    assert "missing" in run.output
    with EmbeddedCluster(tmp_path / "cluster", nodes=1, slots=8, secure=True) as cluster:
        assert cluster.secured is not None
        own = cluster.secured.app
        shown = [
            "--tls-ca",
            str(own.ca),
            "--tls-certificate",
            str(own.certificate),
            "--tls-key",
            str(own.key),
        ]
        address = ["--address", cluster.address]
        run = CliRunner().invoke(likering, [*shown, "bench", *address, *load, "--check"])
        assert run.exit_code == 0, run.output
        assert "checked: counts add up to" in run.output.replace("\n", " ")
        run = CliRunner().invoke(likering, ["bench", *address, *load])
        assert run.exit_code == 1
        assert "nobody answers" in run.output


def test_no_router_is_one_sentence() -> None:
    """And exit code 1."""
    run = CliRunner().invoke(app, ["--address", "127.0.0.1:1", "--seconds", "1"])
    assert run.exit_code == 1
    assert "nobody answers at 127.0.0.1:1" in run.output
    assert "Traceback" not in run.output
