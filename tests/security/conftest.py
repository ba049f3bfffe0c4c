"""A server with every listener and its limits as they are by default, and a profile on it, for the attacks."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.server import UNLIMITED, Server


@dataclass(frozen=True)
class Target:
    """A server, and the right key and secret of a profile that lets any device in."""

    server: Server
    key: str
    secret: str = field(repr=False)

    def request(self, name: str | None = None, **members: object) -> dict[str, object]:
        """A request that would be granted. members: instead of the right ones, or beside them."""
        named = {} if name is None else {"deviceName": name}
        return {"provisionDeviceKey": self.key, "provisionDeviceSecret": self.secret} | named | members


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    server = Server(tmp_path_factory.mktemp("target") / "data", tls=True)
    for option in UNLIMITED:
        server.env.pop(option)
    with server:
        made = server.cli("profile", "create", f"target-{secrets.token_hex(4)}")
        yield Target(server, made["provisionDeviceKey"], made["provisionDeviceSecret"])
