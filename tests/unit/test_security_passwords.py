"""What is taken for a password in a connection string."""

from __future__ import annotations

import pytest

from likering.security.passwords import has_password


@pytest.mark.parametrize(
    "value",
    [
        "rediss://host:6379/0?ssl_certfile=/run/node.pem&ssl_password=hunter2",
        "redis://host/0?username=u&password=hunter2",
        "redis://:hunter2@host/0",
        "host=db sslkey=/run/key sslpassword=hunter2",
        "host=db oauth_client_id=likes oauth_client_secret=hunter2",
        "host=db PASSWORD = 'hunter2'",
        "postgresql://u:hunter2@a,b/likes",
    ],
)
def test_a_password_is_found(value: str) -> None:
    assert has_password(value)


@pytest.mark.parametrize(
    "value",
    [
        "host=db passfile=/run/pgpass",
        "postgresql://u@host/likes",
        "rediss://host/0?ssl_keyfile=/run/key",
        "password=",
    ],
)
def test_where_one_is_or_none_is_no_password(value: str) -> None:
    assert not has_password(value)
