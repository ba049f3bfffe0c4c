"""Profiles that pages are about, and what is read off them."""

import re
from typing import Any

from tests.admin.console.conftest import Shown, Visitor

BASIC = {
    "strategy": "ALLOW_CREATE_NEW_DEVICES",
    "reprovisionPolicy": "deny",
    "clonePolicy": "report",
    "lifetimeUnit": "86400",
}
"""What the form of every profile sends."""


async def made(visitor: Visitor, name: str = "wifi-sensor", **more: Any) -> dict[str, Any]:
    """A profile by the API, with its first key and secret."""
    profile: dict[str, Any] = await visitor.api("POST", "/profiles", {"name": name} | more)
    return profile


def key_and_secret(shown: Shown) -> tuple[str, str]:
    """Those that a page shows this once."""
    key = re.search(r"Key <span class=\"copy\"><code>([^<]+)</code>", shown.html)
    secret = re.search(r"class=\"secret\".*?<code>([^<]+)</code>", shown.html, re.DOTALL)
    assert key, shown.text
    assert secret, shown.text
    return key[1], secret[1]
