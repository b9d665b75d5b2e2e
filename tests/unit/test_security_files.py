"""Files that are read again when they change, and certificates among them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from likering.dev.authority import Authority
from likering.security.certificates import checked
from likering.security.errors import SecurityError
from likering.security.files import LOOK_SECONDS, Reloaded
from likering.security.identity import roles_of_names
from likering.security.roles import Role
from tests.parts.clock import Clock


def words(contents: Sequence[bytes]) -> list[str]:
    if b"broken" in contents:
        raise SecurityError("a broken file")
    return [content.decode() for content in contents]


def test_changed_files_are_read_again_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "word", Clock()
    path.write_text("one")
    file = Reloaded((path,), words, what="words", clock=clock)
    path.write_text("another")
    assert (file.value, file.version) == (["one"], 1)
    clock.now += LOOK_SECONDS
    assert (file.value, file.version) == (["another"], 2)
    clock.now += LOOK_SECONDS
    assert file.version == 2


def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """That is how Kubernetes renews what it mounts."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "word").write_text(name)
    link, clock = tmp_path / "data", Clock()
    link.symlink_to("old")
    file = Reloaded((link / "word",), words, what="words", clock=clock)
    link.unlink()
    link.symlink_to("new")
    clock.now += LOOK_SECONDS
    assert file.value == ["new"]


@pytest.mark.parametrize("trouble", ["broken", None])
def test_files_that_are_no_good_change_nothing(tmp_path: Path, trouble: str | None) -> None:
    """Broken or gone; when they are good again, they are taken."""
    path, clock = tmp_path / "word", Clock()
    path.write_text("good")
    file = Reloaded((path,), words, what="words", clock=clock)
    path.unlink()
    if trouble is not None:
        path.write_text(trouble)
    clock.now += LOOK_SECONDS
    assert (file.value, file.version) == (["good"], 1)
    path.write_text("better")
    clock.now += LOOK_SECONDS
    assert (file.value, file.version) == (["better"], 2)


def test_a_start_with_files_that_are_no_good_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "word"
    with pytest.raises(SecurityError, match=r"words: .*word cannot be read: No such file"):
        Reloaded((path,), words, what="words")
    path.write_text("broken")
    with pytest.raises(SecurityError, match=r"words \(.*word\): a broken file"):
        Reloaded((path,), words, what="words")


def test_a_key_of_another_certificate_is_noticed(tmp_path: Path) -> None:
    """Renewal writes one file after the other; in between they do not fit together."""
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    chain, key, ca = (path.read_bytes() for path in one)
    assert checked((chain, key, ca)).chain == chain
    with pytest.raises(SecurityError, match="not that of the certificate"):
        checked((chain, other.key.read_bytes(), ca))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_pem_is_told_apart_and_not_shown(tmp_path: Path, place: int) -> None:
    contents = [path.read_bytes() for path in Authority(tmp_path).issue("one")]
    contents[place] = b"very secret"
    with pytest.raises(SecurityError, match=("certificate", "key", "CA")[place]) as caught:
        checked(contents)
    assert "very secret" not in str(caught.value)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("written", [0.0, 0.3, 0.9])
def test_a_file_that_is_half_written_is_not_used(tmp_path: Path, place: int, written: float) -> None:
    contents = [path.read_bytes() for path in Authority(tmp_path).issue("one")]
    contents[place] = contents[place][: int(len(contents[place]) * written)]
    with pytest.raises(SecurityError, match=("certificate", "key", "CA")[place]):
        checked(contents)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_whatever_stands_in_a_file_is_said_in_a_sentence(tmp_path: Path, place: int) -> None:
    """Each byte of a certificate or key wrong in turn: other curves, versions and kinds of keys among them."""
    good = [path.read_bytes() for path in Authority(tmp_path).issue("one")]
    for position in range(0, len(good[place]), 3):
        contents = [bytearray(content) for content in good]
        contents[place][position] ^= 0x01
        with suppress(SecurityError), warnings.catch_warnings(action="ignore"):
            checked([bytes(content) for content in contents])


def test_roles_are_given_to_whole_names() -> None:
    file = b'[certificates]\n"uri:spiffe://x/router" = ["node"]\n"cn:alice" = ["operator", "reader"]\n'
    assert roles_of_names([file]) == {
        "uri:spiffe://x/router": {Role.NODE},
        "cn:alice": {Role.OPERATOR, Role.READER},
    }


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"certificates = 1", "one table"),
        (b"[certificate]\n", "one table"),
        (b"[certificates]\n[more]\n", "one table"),
        (b'[certificates]\n"alice" = ["reader"]\n', "begins with none of"),
        (b'[certificates]\n"cn:" = ["reader"]\n', "begins with none of"),
        (b'[certificates]\n"cn:alice" = "reader"\n', "has a list of roles"),
        (b'[certificates]\n"cn:alice" = []\n', "has a list of roles"),
        (b'[certificates]\n"cn:alice" = ["root"]\n', "are among reader, writer, operator, node"),
        (b"[certificates", "not TOML"),
        (b"\xff", "not TOML"),
    ],
)
def test_a_mistake_in_the_roles_is_said(file: bytes, sentence: str) -> None:
    with pytest.raises(SecurityError, match=sentence):
        roles_of_names([file])
