import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import pytest

from provserver.core import credentials as building
from provserver.core.csvfile import DeviceRow, RowError
from provserver.core.model import MqttBasic, ProvisionStrategy
from provserver.errors import Refused
from provserver.services.device_import import BATCH, MAX_ERRORS, ImportReport
from tests.conftest import Space
from tests.services.conftest import Fleet, Locking, contents
from tests.services.imports import load, names, where

PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"


@pytest.fixture
async def checked(space: Space) -> Fleet:
    return await Fleet.make(space, ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES)


async def test_an_import_has_every_kind_of_credentials_and_attribute(checked: Fleet) -> None:
    lines = [
        "name,token,clientId,username,password,certificate,gateway,attribute:rack,shared:unit\n",
        "generated,,,,,,,,\n",
        "token,a-token,,,,,true,3,\n",
        'basic,,client,user,pass,,false,"{""row"": [1, null]}",°C\n',
        f'certificate,,,,,"{PEM}",,00012,"1,5"\n',
    ]

    report = await load(checked, lines)

    assert (report.imported, report.error_count, report.errors) == (4, 0, [])
    shown = {
        name: await checked.space.devices.show(name, open_=True)
        for name in ("generated", "token", "basic", "certificate")
    }
    assert {name: details.opened[0].value for name, details in shown.items() if name != "generated"} == {
        "token": "a-token",
        "basic": MqttBasic("client", "user", "pass"),
        "certificate": "TUlJQg==",
    }
    assert [details.credentials[0].origin for details in shown.values()] == ["generated"] + ["imported"] * 3
    assert [details.device.gateway for details in shown.values()] == [False, True, False, False]
    assert {name: [(a.scope, a.key, a.value) for a in details.attributes] for name, details in shown.items()} == {
        "generated": [],
        "token": [("SERVER", "rack", 3)],
        "basic": [("SERVER", "rack", {"row": [1, None]}), ("SHARED", "unit", "°C")],
        "certificate": [("SERVER", "rack", "00012"), ("SHARED", "unit", "1,5")],
    }
    assert all(details.device.provision_state is None for details in shown.values())


@pytest.mark.parametrize(
    "cell",
    [
        r'"\ud800"',
        r'{"a": ["\udfff"]}',
        "1e999",
        "-1e999",
        "1" * 400,
        "1e-400",
        "NaN",
        "Infinity",
        "[" * 900 + "]" * 900,
        '{"a":1,"a":2}',
        r'"\u0000"',
        '"\ufeff"',
        "true ",
    ],
    ids=lambda cell: cell[:20].encode("ascii", "backslashreplace").decode(),
)
async def test_no_cell_breaks_an_import(checked: Fleet, cell: str) -> None:
    """It is a row's error or it is kept as it was: JSON, or else the text."""
    quoted = cell.replace('"', '""')

    report = await load(checked, ["name,attribute:a\n", f'a,"{quoted}"\n', "b,1\n"], partial=True)

    assert report.imported + report.error_count == 2
    assert report.imported >= 1
    kept = {
        name: [a.value for a in (await checked.space.devices.show(name)).attributes]
        for name in await names(checked.space)
    }
    assert kept.pop("b") == [1]
    for value in kept.values():
        assert value != [None]
        assert value == [cell] or json.dumps(value[0]) == json.dumps(json.loads(cell))


async def test_an_import_is_all_or_nothing(checked: Fleet) -> None:
    before = await contents(checked.space)

    report = await load(checked, ["name\n", "a\n", "\x7f\n", "c\n"])

    assert (report.imported, report.error_count, where(report)) == (0, 1, [(3, "name")])
    assert await contents(checked.space) == before


async def test_a_partial_import_keeps_the_rows_that_are_right(checked: Fleet) -> None:
    report = await load(checked, ["name\n", "a\n", "\x7f\n", "c\n"], partial=True)

    assert (report.imported, report.error_count) == (2, 1)
    assert await names(checked.space) == ["a", "c"]


@pytest.mark.parametrize("partial", [False, True])
async def test_a_dry_run_tells_and_keeps_nothing(checked: Fleet, partial: bool) -> None:
    before = await contents(checked.space)

    report = await load(checked, ["name\n", "a\n", "\x7f\n", "c\n"], dry_run=True, partial=partial)

    assert (report.imported, report.error_count, where(report)) == (2, 1, [(3, "name")])
    assert await contents(checked.space) == before


async def test_errors_say_line_column_and_reason(checked: Fleet) -> None:
    await checked.import_("existing", building.access_token("taken"))
    lines = [
        "name,token,username,password,gateway\n",
        "existing,,,,\n",
        "a,taken,,,\n",
        "b,,taken,,\n",
        "c,,,,maybe\n",
        '"d\n',
        'd",,,,\n',
        "e,provision,,,\n",
        "f,token,user,,\n",
        "g,,,alone,\n",
        ",,,,\n",
        ",token,,,\n",
        "h,own,,,\n",
        "h,,,,\n",
        "i,own,,,\n",
        "j,,own,,\n",
        "k,1\n",
        "l,,,,\n",
    ]

    report = await load(checked, lines, partial=True)

    assert Counter((error.line, error.column) for error in report.errors) == Counter(
        [
            (2, "name"),
            (3, None),
            (4, None),
            (5, "gateway"),
            (6, "name"),
            (8, "token"),
            (9, "token"),
            (10, "password"),
            (12, "name"),
            (14, "name"),
            (15, None),
            (16, None),
            (17, None),
        ]
    )
    assert report.error_count == len(report.errors) == 13
    assert all(error.reason and "own" not in error.reason.split() for error in report.errors)
    assert report.imported == 2
    assert set(await names(checked.space)) == {"existing", "h", "l"}


async def test_errors_come_in_order_of_lines(checked: Fleet) -> None:
    await checked.import_("existing")

    report = await load(checked, ["name\n", "existing\n", "\x7f\n", "existing\n", "\x7f\n", "a\n", "a\n"])

    assert [error.line for error in report.errors] == [2, 3, 4, 5, 7]


async def test_the_name_of_a_device_of_another_profile_is_taken(space: Space, checked: Fleet) -> None:
    meters = await Fleet.make(space, name="meters")
    await meters.ask("meter-1", token="taken")

    report = await load(checked, ["name,token\n", "meter-1,\n", "a,taken\n"])

    assert where(report) == [(2, "name"), (3, None)]


async def test_what_an_earlier_batch_took_is_taken(checked: Fleet) -> None:
    lines = ["name,token\n", *(f"sensor-{n},token-{n}\n" for n in range(BATCH + 10)), "sensor-0,\n", "new,token-1\n"]

    report = await load(checked, lines, partial=True)

    assert report.imported == BATCH + 10
    assert where(report) == [(BATCH + 12, "name"), (BATCH + 13, None)]


async def test_batches_are_taken_as_they_come(checked: Fleet) -> None:
    """Nothing is read ahead of the batch at hand, so a file of any length needs the memory of a batch."""
    read: list[int] = []
    told: list[tuple[int, int]] = []

    def rows() -> Iterator[DeviceRow]:
        for n in range(2 * BATCH + 5):
            read.append(n)
            yield DeviceRow(n + 2, f"sensor-{n}", None, False)

    report = await checked.space.devices.import_(
        rows(), "sensors", progress=lambda done: told.append((done, len(read)))
    )

    assert told == [(BATCH, BATCH), (2 * BATCH, 2 * BATCH), (2 * BATCH + 5, 2 * BATCH + 5)]
    assert report.imported == 2 * BATCH + 5
    assert await checked.counts() == {
        "device": 2 * BATCH + 5,
        "credentials": 2 * BATCH + 5,
        "attribute": 0,
        "attempt": 0,
        "outbox": 0,
    }


async def test_an_error_in_a_late_batch_takes_the_early_ones_back(checked: Fleet) -> None:
    report = await load(checked, ["name\n", *(f"sensor-{n}\n" for n in range(BATCH + 1)), "sensor-0\n"])

    assert (report.imported, where(report)) == (0, [(BATCH + 3, "name")])
    assert await names(checked.space) == []


async def test_errors_past_a_number_are_counted_only(checked: Fleet) -> None:
    report = await load(checked, ["name\n", *["\x7f\n"] * (MAX_ERRORS + 7)])

    assert (len(report.errors), report.error_count) == (MAX_ERRORS, MAX_ERRORS + 7)


async def test_rows_that_end_in_a_fault_leave_nothing(checked: Fleet) -> None:
    def rows() -> Iterator[DeviceRow | RowError]:
        yield from (DeviceRow(n, f"sensor-{n}", None, False) for n in range(BATCH))
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    with pytest.raises(UnicodeDecodeError):
        await checked.space.devices.import_(rows(), "sensors")

    assert await names(checked.space) == []


async def test_an_import_into_a_profile_that_is_not_there_is_refused_with_the_fix(space: Space) -> None:
    with pytest.raises(Refused, match="Look in the list of profiles"):
        await space.devices.import_([], "nothing")


async def test_an_empty_import_is_nothing(checked: Fleet) -> None:
    report = await load(checked, ["name\n"])

    assert (report.imported, report.error_count) == (0, 0)


async def test_a_device_that_provisions_during_an_import_makes_it_be_refused(fleet: Fleet, lock: Locking) -> None:
    """The name is taken after the import has looked for it."""
    async with lock(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $3, 'c')",
        uuid4(),
        fleet.space.organization_id,
        fleet.profile.id,
    ) as held:
        importing = asyncio.create_task(load(fleet, ["name\n", "a\n", "c\n"], partial=True))
        await held.until_waiting()
        await held.commit()

    with pytest.raises(Refused, match="Run the import again"):
        await importing
    assert await names(fleet.space) == ["c"]


async def test_two_imports_of_the_same_devices_at_once_import_them_once(checked: Fleet) -> None:
    lines = ["name\n", *(f"sensor-{n}\n" for n in range(500))]

    outcomes = await asyncio.gather(*(load(checked, lines) for _ in range(3)), return_exceptions=True)

    imported = [outcome.imported for outcome in outcomes if isinstance(outcome, ImportReport)]
    assert sum(imported) == 500
    assert all(isinstance(outcome, ImportReport | Refused) for outcome in outcomes)
    assert len(await names(checked.space)) == 500


async def test_a_profile_deleted_during_an_import_takes_the_import_with_it(checked: Fleet, lock: Locking) -> None:
    async with lock("LOCK TABLE attribute IN ACCESS EXCLUSIVE MODE") as held:
        importing = asyncio.create_task(load(checked, ["name,attribute:a\n", "a,1\n"]))
        await held.until_waiting()
        async with checked.space.database.connection() as connection:
            await connection.execute("DELETE FROM device_profile WHERE name = 'sensors'")

    with pytest.raises(Refused, match="There is no profile"):
        await importing
    assert await names(checked.space) == []


async def test_a_profile_can_be_changed_during_an_import(checked: Fleet, lock: Locking) -> None:
    async with lock("LOCK TABLE attribute IN ACCESS EXCLUSIVE MODE") as held:
        importing = asyncio.create_task(load(checked, ["name,attribute:a\n", "a,1\n"]))
        await held.until_waiting()
        await checked.space.profiles.add_key("sensors", "second")

    assert (await importing).imported == 1


async def test_a_profile_is_not_deleted_while_devices_are_imported_elsewhere(
    space: Space, checked: Fleet, lock: Locking
) -> None:
    """Nor does it wait for long, as every new device would have to wait behind it."""
    await Fleet.make(space, name="meters")
    async with lock(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $3, 'c')",
        uuid4(),
        space.organization_id,
        checked.profile.id,
    ):
        with pytest.raises(Refused, match=r"are being made just now\. Try again"):
            await space.profiles.delete("meters")
    assert (await space.profiles.delete("meters")).name == "meters"


async def test_what_an_import_brought_can_provision(checked: Fleet) -> None:
    await load(checked, ["name,token\n", "sensor-1,\n", "sensor-2,own-token\n"])

    replies = [await checked.ask("sensor-1", token="brought"), await checked.ask("sensor-2", token="brought-2")]

    assert [reply["credentialsValue"] for reply in replies] == ["brought", "own-token"]
