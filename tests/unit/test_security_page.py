"""docs/security.md says who may call what, as the table in the code does, and names the settings that there are."""

from __future__ import annotations

import re
from pathlib import Path

from likering.security.roles import RULES, Role
from likering.security.setup import SecuritySettings
from router.settings import RouterSettings

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
ROW = re.compile(r"^\| `([\w.]+)` \| (.+) \| (.+) \|$", re.MULTILINE)


def test_the_table_of_the_page_is_that_of_the_code() -> None:
    said = {}
    for service, calls, who in ROW.findall(PAGE.split("## Who may call what")[1].split("\n## ")[0]):
        of_service = [method for method in RULES if method.startswith(f"{service}/")]
        named = [f"{service}/{call}" for call in re.findall(r"`(\w+)`", calls)]
        assert calls == "all" or set(named) <= set(of_service)
        said.update(dict.fromkeys(named or of_service, who))
    words = {
        method: (
            "nobody asks"
            if rule.anybody
            else "any"
            if rule.roles == frozenset(Role)
            else ", ".join(f"`{role}`" for role in sorted(rule.roles))
        )
        for method, rule in RULES.items()
    }
    assert said == words


def test_the_settings_of_the_page_are_those_of_the_code() -> None:
    said = set(re.findall(r"`--((?:tls|token|health)-[\w-]+)`", PAGE)) - {"token-file"}
    names = {name for name in RouterSettings.model_fields if name.startswith("token_")}
    names |= {"health_listen", *SecuritySettings.model_fields}
    assert said == {name.replace("_", "-") for name in names}
