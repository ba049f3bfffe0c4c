"""Devices that pages are about, and the profile that they are of."""

import re
from typing import Any

from tests.admin.console.conftest import Shown, Visitor

SCRIPT = "<script>alert(1)</script>"
"""No device may be called so; what it sends and is told may hold it."""


async def make_profile(visitor: Visitor) -> str:
    """The id of a profile with metadata fields of several types."""
    fields = [
        {"name": "Serial", "unique": True},
        {"name": "Built", "type": "integer"},
        {"name": "Size", "type": "list", "options": ["small", "large"]},
        {"name": "Root Key", "type": "key128"},
    ]
    made = await visitor.api("POST", "/profiles", {"name": "wifi-sensor", "metadataFields": fields})
    return str(made["id"])


async def make(visitor: Visitor, profile: str, name: str = "sensor-1", **more: object) -> dict[str, Any]:
    """A device by the API."""
    made: dict[str, Any] = await visitor.api("POST", "/devices", {"name": name, "profile": profile, **more})
    return made


def tokens(shown: Shown) -> list[str]:
    """What is offered to be copied that looks like a token."""
    return re.findall(r'data-copy="([A-Za-z0-9]{32})"', shown.html)
