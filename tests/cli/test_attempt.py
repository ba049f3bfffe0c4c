import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from io import StringIO
from uuid import UUID, uuid4

import asyncpg
import pytest
from rich.console import Console

from provserver.cli import attempt, output
from provserver.core.ids import uuid7
from tests.cli.conftest import Cli

SUCCESS = ("MQTT", "192.0.2.7", "success", None, None)
REFUSED = ("HTTP", "192.0.2.8", "failure", "NAME_TAKEN", "why it was")


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def device_id(url: str, local: Cli, profile: str) -> Iterator[UUID]:
    """Of a profile's three attempts: refused, granted, and the newest, refused."""
    profile_id = UUID(local.json("profile", "show", profile)["id"])
    device_id = uuid4()
    ids = [uuid7(now, lambda size: bytes(size)) for now in (4e9, 4e9 + 2, 4e9 + 1)]  # written in another order

    async def write(statement: str, *values: object) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement, *values)
        await connection.close()

    async def write_all() -> None:
        insert = (
            "INSERT INTO attempt (id, profile_id, device_name, device_id, transport, address, outcome, reason, detail)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        )
        await write(insert, ids[0], profile_id, f"{profile} a", None, *REFUSED)
        await write(insert, ids[1], None, None, None, *REFUSED)
        await write(insert, ids[2], profile_id, f"{profile} b", device_id, *SUCCESS)

    asyncio.run(write_all())
    yield device_id
    asyncio.run(write("DELETE FROM attempt WHERE id = ANY($1)", ids))


def listed(cli: Cli, *options: str) -> list[str | None]:
    return [attempt["device"] for attempt in cli.json("attempt", "list", *options)]


def test_the_newest_is_first(cli: Cli, profile: str, device_id: UUID) -> None:
    newest, second, third = cli.json("attempt", "list", "--limit", "3")

    assert (newest["profile"], newest["profileId"], newest["device"]) == (None, None, None)
    assert UUID(second.pop("id"))
    assert UUID(second.pop("profileId"))
    assert datetime.fromisoformat(second.pop("time"))
    assert second == {
        "transport": "MQTT",
        "address": "192.0.2.7",
        "outcome": "success",
        "reason": None,
        "device": f"{profile} b",
        "deviceId": str(device_id),
        "profile": profile,
        "detail": None,
    }
    assert (third["device"], third["reason"], third["detail"]) == (f"{profile} a", "NAME_TAKEN", "why it was")


def test_some_are_chosen(cli: Cli, profile: str, device_id: UUID) -> None:
    a, b = f"{profile} a", f"{profile} b"
    assert listed(cli, "--profile", profile) == [b, a]
    assert listed(cli, "--profile", profile, "--limit", "1") == [b]
    assert listed(cli, "--profile", profile, "--refused") == [a]
    assert listed(cli, "--device", a) == [a]
    assert listed(cli, "--device", str(device_id)) == [b]
    assert listed(cli, "--device", "nobody") == []
    assert listed(cli, "--refused", "--limit", "2") == [None, a]


@pytest.mark.usefixtures("device_id")
def test_people_get_a_table(cli: Cli, profile: str) -> None:
    head, line = cli.run("attempt", "list", "--profile", profile, "--refused").out.splitlines()

    assert head.split() == ["ID", "TIME", "TRANSPORT", "ADDRESS", "OUTCOME", "REASON", "DEVICE", "PROFILE", "DETAIL"]
    [refused] = cli.json("attempt", "list", "--profile", profile, "--refused")
    assert line.split()[0] == refused["id"]  # as `explain` wants it
    assert line.split()[3:] == ["HTTP", "192.0.2.8", "failure", "NAME_TAKEN", profile, "a", profile, "why", "it", "was"]


def test_what_cannot_be_is_refused(cli: Cli) -> None:
    assert "There is no profile 'nothing'" in cli.refused("attempt", "list", "--profile", "nothing")
    assert "--limit" in cli.refused("attempt", "list", "--limit", "0", code=2)


async def test_an_id_can_be_copied_from_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves out, `explain` has."""
    found = {
        "id": str(uuid7(4e9, lambda size: bytes(size))),
        "time": "2026-11-22T17:30:00.123456+00:00",
        "transport": "HTTP",
        "address": "192.0.2.8",
        "outcome": "failure",
        "reason": "ALREADY_PROVISIONED",
        "device": "sensor-1",
        "profile": "sensors",
        "detail": "why it was",
    }

    async def items() -> AsyncIterator[dict[str, str]]:
        yield found

    for width, named in ((80, False), (200, True)):
        shown = StringIO()
        terminal = Console(file=shown, force_terminal=True, width=width, color_system=None)
        monkeypatch.setattr(output, "_out", terminal)
        members = {name.upper(): name for name in found}
        await output.print_list(items(), members, json=False, spare=attempt._SPARE, whole="ID")
        lines = shown.getvalue().splitlines()
        assert found["id"] in lines[1]
        assert ("why it was" in shown.getvalue()) is named
        assert len(lines) <= 3
        assert max(map(len, lines)) <= width
