"""Flags over environment over file over defaults, and one sentence for a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.settings import RouterSettings, read
from shard_node.settings import read as read_node

DSN = ("--topology", "postgresql://topology")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of settings that end the process."""
    with pytest.raises(SystemExit) as ended:
        read(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_defaults_and_flags() -> None:
    settings = read([*DSN, "--listen", "0.0.0.0:1234", "--workers", "3", "--seeds", "a:1, b:2"])
    assert settings.topology.get_secret_value() == "postgresql://topology"
    assert (settings.listen, settings.workers, settings.seeds) == ("0.0.0.0:1234", 3, ("a:1", "b:2"))
    assert settings.default_deadline == 10


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "router.toml"
    file.write_text('topology = "dbname=dsn"\nseeds = ["a:1", "b:2"]\nworkers = 3\nslow_call = 0.5\n')
    monkeypatch.setenv("LIKERING_ROUTER_WORKERS", "4")
    monkeypatch.setenv("LIKERING_ROUTER_SLOW_CALL", "0.25")
    settings = read(["--config", str(file), "--workers", "5"])
    assert (settings.workers, settings.slow_call, settings.seeds) == (5, 0.25, ("a:1", "b:2"))
    monkeypatch.setenv("LIKERING_ROUTER_CONFIG", str(file))
    assert read([]).workers == 4


def test_secrets_are_not_in_what_is_printed() -> None:
    assert "topology" not in repr(read(DSN)).replace("topology=SecretStr('**********')", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "likering-router: --topology (LIKERING_ROUTER_TOPOLOGY) is missing"),
        (
            (*DSN, "--workers", "0"),
            "likering-router: --workers (LIKERING_ROUTER_WORKERS): input should be greater than or equal to 1",
        ),
        (
            (*DSN, "--listen", "nowhere"),
            "likering-router: --listen (LIKERING_ROUTER_LISTEN): 'nowhere' is not host:port",
        ),
        ((*DSN, "--config", "/no/such"), "likering-router: the configuration file /no/such does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *arguments) == sentence


def test_an_unknown_flag_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--bogus" in refused(capsys, *DSN, "--bogus", "1")


def test_an_unknown_name_in_the_file_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "router.toml"
    file.write_text('topology = "dbname=dsn"\nbogus = 1\n')
    assert (
        refused(capsys, "--config", str(file))
        == "likering-router: bogus in the configuration file is not a setting"
    )


def test_a_file_that_is_not_toml_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "router.toml"
    file.write_text("topology = ")
    assert str(file) in refused(capsys, "--config", str(file))


def test_every_setting_says_what_it_is_for() -> None:
    unexplained = {name for name, field in RouterSettings.model_fields.items() if not field.description}
    assert unexplained == {"log_level"}


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hunter2@host/likes",
        "postgresql://host/likes?user=u&password=hunter2",
        "host=host user=u password=hunter2",
        "host=host password = 'hunter2'",
        "host=host sslkey=/run/key sslpassword=hunter2",
    ],
)
def test_a_password_is_not_taken_as_an_argument(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    """All users can read it there; the environment and the file are for their owner."""
    sentence = refused(capsys, "--topology", dsn)
    assert sentence.endswith("this one has a password: use LIKERING_ROUTER_TOPOLOGY or the --config file")
    assert "hunter2" not in sentence
    monkeypatch.setenv("LIKERING_ROUTER_TOPOLOGY", dsn)
    assert read([]).topology.get_secret_value() == dsn


def test_where_a_password_is_may_be_an_argument() -> None:
    assert read(["--topology", "host=host passfile=/run/secrets/pgpass"])


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:p%zzhunter2@host/likes", "host=host pass word hunter2", "postgresql://[::hunter2/x"],
)
def test_what_is_wrong_with_a_connection_string_is_said_without_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    """The driver's own words quote it."""
    monkeypatch.setenv("LIKERING_ROUTER_TOPOLOGY", dsn)
    sentence = refused(capsys)
    assert "this is not a Postgres connection string" in sentence
    assert "hunter2" not in sentence
    with pytest.raises(SystemExit):
        read_node(["--name", "a", "--listen", "h:1", "--postgres", "dbname=x", "--topology", "dbname=x"])
    monkeypatch.setenv("LIKERING_NODE_CACHE", "redis://u:p/hunter2@host")
    with pytest.raises(SystemExit):
        read_node(["--name", "a", "--listen", "h:1", "--postgres", "dbname=x", "--topology", "dbname=x"])
    said = capsys.readouterr().err
    assert "this is not the URL of a Valkey or Redis" in said
    assert "hunter2" not in said
