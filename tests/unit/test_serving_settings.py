"""Flags over environment over file over defaults, and one sentence for a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.settings import RouterSettings, read

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
    file.write_text('topology = "dsn"\nseeds = ["a:1", "b:2"]\nworkers = 3\nslow_call = 0.5\n')
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
    file.write_text('topology = "dsn"\nbogus = 1\n')
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
