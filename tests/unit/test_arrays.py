"""Array literals are read by Postgres as what they were made of; this is the part that needs no server."""

from __future__ import annotations

import pytest

from shard_node.arrays import bool_array, bytes_array, int_array, nullable_int_array, text_array


def test_literals() -> None:
    """Quotes and backslashes are escaped, nothing else needs to be."""
    assert text_array([]) == "{}"
    assert text_array(["a", 'b"c', "d\\e", "{},", ""]) == '{"a","b\\"c","d\\\\e","{},",""}'
    assert bytes_array([]) == "{}"
    assert bytes_array([b"", b"\x00\xff"]) == '{"\\\\x","\\\\x00ff"}'
    assert int_array([1, -2]) == "{1, -2}"
    assert nullable_int_array([None, 3]) == "{NULL, 3}"
    assert bool_array([True, False]) == "{t, f}"


def test_a_nul_is_refused() -> None:
    """It separates the items while the literal is made, and Postgres could not store it."""
    with pytest.raises(ValueError, match="NUL"):
        text_array(["a\0b", "c"])
