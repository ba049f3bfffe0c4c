import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from provserver.core import ids, nvs
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.edgent import BLANK, Settings
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Unavailable
from provserver.services import station
from provserver.services.eol import EndOfLine, Reservation
from provserver.services.injection import NvsPartition, Way
from provserver.services.profiles import ProfileChange
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.services.station import Done, Work
from provserver.store.database import Database
from provserver.store.eol import UnitRow
from tests.conftest import Space
from tests.services.conftest import Locking, Outage

SETTINGS = Settings(BLANK, "iot.example.com")


class Desk:
    """What a station asks, without an API between. database: the station's own connections."""

    def __init__(self, eol: EndOfLine, principal: Principal, profile: str = "meters") -> None:
        self.eol = eol
        self.principal = principal
        self.profile = profile

    @asynccontextmanager
    async def hold(self, unit: str) -> AsyncIterator[str]:
        async with self.eol.hold(self.principal, self.profile, unit) as profile:
            yield profile.template_id

    async def reserve(self, unit: str, match: str | None) -> Reservation:
        return await self.eol.reserve(self.principal, self.profile, unit, match=match)

    async def written(self, reservation: Reservation) -> UnitRow:
        return await self.eol.written(self.principal, reservation.token_id, reservation.unit)


class Line:
    """A profile with tokens, and who works with them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.operator = Principal(OPERATOR, space.organization_id)
        self.tokens = StaticTokens(space.database, space.keys)
        self.eol = EndOfLine(space.database, space.keys)

    async def make(self, count: int, profile: str = "meters") -> None:
        if profile not in [each.name for each in await self.space.profiles.all()]:
            await self.space.profiles.create(ProfileChange(name=profile))
        await self.tokens.make(self.operator, profile, count)

    async def write(
        self,
        unit: str,
        work: Work,
        *,
        on: Database | None = None,
        by: Principal | None = None,
        pauses: Sequence[float] = (),
    ) -> Done[UnitRow]:
        """What a station does; on: another way to the database."""
        eol = self.eol if on is None else EndOfLine(on, self.space.keys)
        return await station.write(Desk(eol, by or self.operator), unit, work, pauses)

    async def written(self, reservation: Reservation) -> UnitRow:
        return await self.eol.written(self.operator, reservation.token_id, reservation.unit)

    async def reserve(self, unit: str, profile: str = "meters", **options: str) -> Reservation:
        return await self.eol.reserve(self.operator, profile, unit, **options)

    async def audit(self) -> list[tuple[str, str, Mapping[str, object]]]:
        statement = "SELECT action, subject_id, detail FROM audit WHERE detail ? 'unit' ORDER BY at, id"
        rows = await self.space.rows(statement)
        return [(row["action"], row["subject_id"], row["detail"]) for row in rows]


@pytest.fixture
async def line(space: Space) -> Line:
    """Three free tokens."""
    made = Line(space)
    await made.make(3)
    return made


async def test_a_unit_gets_a_token_that_is_a_device_s_to_be(line: Line) -> None:
    reservation = await line.reserve(" SN-1 ")

    assert (reservation.unit, reservation.profile, reservation.resumed) == ("SN-1", "meters", False)
    assert len(reservation.auth) == ids.TOKEN_LENGTH
    assert reservation.qr.startswith("sqr_")
    found = await line.space.rows("SELECT id, unit, unit_state FROM static_token WHERE unit IS NOT NULL")
    assert [(row["id"], row["unit"], row["unit_state"]) for row in found] == [
        (reservation.token_id, "SN-1", "reserved")
    ]
    shown = await line.tokens.show(line.operator, reservation.token_id, open_=True)
    assert (shown.auth_token, shown.qr_token) == (reservation.auth, reservation.qr)
    assert reservation.auth not in repr(reservation)
    assert reservation.payload == shown.payload
    assert reservation.qr not in repr(reservation)


async def test_a_unit_that_asks_again_gets_the_same_token_while_it_is_reserved(line: Line) -> None:
    first, other, again = await line.reserve("SN-1"), await line.reserve("SN-2"), await line.reserve("SN-1")

    assert again == replace(first, resumed=True)
    assert other.auth != first.auth


async def test_the_oldest_token_goes_first(line: Line) -> None:
    numbers = [(await line.reserve(f"SN-{n}")).number for n in range(3)]

    assert numbers == sorted(numbers)


async def test_a_unit_that_has_its_token_gets_no_other(line: Line) -> None:
    reservation = await line.reserve("SN-1")
    row = await line.written(reservation)

    assert (row.unit, row.state, row.number) == ("SN-1", "written", reservation.number)
    with pytest.raises(Conflict, match=f"has its token already: number {reservation.number}"):
        await line.reserve("SN-1")


async def test_to_say_twice_that_a_unit_is_written_is_to_say_it_once(line: Line) -> None:
    reservation = await line.reserve("SN-1")

    once = await line.written(reservation)
    twice = await line.written(reservation)

    assert once.at == twice.at
    assert [action for action, *_ in await line.audit()] == ["static_token.reserved", "static_token.written"]


@pytest.mark.parametrize("written", [False, True])
async def test_a_token_that_failed_is_never_given_again(line: Line, written: bool) -> None:
    first = await line.reserve("SN-1")
    if written:
        await line.written(first)

    failed = await line.eol.fail(line.operator, "meters", "SN-1", "a short circuit")
    others = [await line.reserve(unit) for unit in ("SN-1", "SN-2")]

    assert (failed.state, failed.number) == ("failed", first.number)
    assert first.token_id not in {each.token_id for each in others}
    assert not others[0].resumed
    with pytest.raises(Conflict, match="no free static token of the profile 'meters' left"):
        await line.reserve("SN-3")
    with pytest.raises(Conflict, match="marked as failed meanwhile"):
        await line.written(first)


async def test_every_step_is_in_the_audit_without_a_secret(line: Line) -> None:
    reservation = await line.reserve("SN-1")
    await line.reserve("SN-1")
    await line.written(reservation)
    await line.eol.fail(line.operator, "meters", "SN-1", "returned")

    subject = str(reservation.token_id)
    assert await line.audit() == [
        ("static_token.reserved", subject, {"unit": "SN-1", "again": False}),
        ("static_token.reserved", subject, {"unit": "SN-1", "again": True}),
        ("static_token.written", subject, {"unit": "SN-1"}),
        ("static_token.failed", subject, {"unit": "SN-1", "reason": "returned"}),
    ]


async def test_a_unit_without_a_token_cannot_fail(line: Line) -> None:
    with pytest.raises(NotFound, match="'SN-1' has no token of the profile 'meters'"):
        await line.eol.fail(line.operator, "meters", "SN-1")


async def test_a_unit_at_a_customer_s_does_not_fail(line: Line) -> None:
    reservation = await line.reserve("SN-1")
    await line.written(reservation)
    await line.space.rows("UPDATE static_token SET status = 'CLAIMED' WHERE id = $1", reservation.token_id)

    with pytest.raises(Conflict, match="Unclaim it first"):
        await line.eol.fail(line.operator, "meters", "SN-1")


async def test_a_token_that_somebody_uses_already_is_not_free(line: Line) -> None:
    used, claimed, free = [row["id"] for row in await line.space.rows("SELECT id FROM static_token ORDER BY id")]
    await line.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name) SELECT id, organization_id, profile_id, 'd'"
        " FROM static_token WHERE id = $1",
        used,
    )
    await line.space.rows("UPDATE static_token SET status = 'CLAIMED' WHERE id = $1", claimed)

    assert (await line.reserve("SN-1")).token_id == free
    with pytest.raises(Conflict):
        await line.reserve("SN-2")


async def test_a_token_that_was_exported_is_for_no_other_unit(line: Line) -> None:
    """One was flashed by hand, its unit connected, its device was deleted; the others may be in units just as well."""
    exported = [token async for token in line.tokens.stream(line.operator, Selection())]
    await line.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name) SELECT id, organization_id, profile_id, 'd'"
        " FROM static_token WHERE id = $1",
        exported[0].id,
    )
    await line.space.rows("DELETE FROM device")

    with pytest.raises(Conflict, match=r"'meters' left\. 3 may be in units already: they were exported.*token create"):
        await line.reserve("SN-1")
    assert (await line.eol.status(line.operator, "meters")).counts.free == 0
    await line.make(1)
    assert (await line.reserve("SN-1")).token_id not in {token.id for token in exported}


async def test_a_token_that_was_shown_is_for_no_other_unit(line: Line) -> None:
    shown, listed, labelled = [row["id"] for row in await line.space.rows("SELECT id FROM static_token ORDER BY id")]
    await line.tokens.show(line.operator, shown, open_=True)
    await line.tokens.show(line.operator, listed)
    await line.tokens.show_qr(line.operator, labelled)
    _ = [token async for token in line.tokens.stream(line.operator, Selection(), labels=True)]

    assert [(await line.reserve(unit)).token_id for unit in ("SN-1", "SN-2")] == [listed, labelled]
    with pytest.raises(Conflict, match="1 may be in units already"):
        await line.reserve("SN-3")


async def test_a_unit_goes_on_with_a_token_that_was_exported_meanwhile(line: Line) -> None:
    reservation = await line.reserve("SN-1")
    _ = [token async for token in line.tokens.stream(line.operator, Selection())]

    assert await line.reserve("SN-1") == replace(reservation, resumed=True)
    assert (await line.written(reservation)).state == "written"


async def test_the_token_of_a_unit_that_was_exported_is_told(line: Line) -> None:
    *_, last = await line.space.rows("SELECT id FROM static_token ORDER BY id")
    await line.space.rows("UPDATE static_token SET metadata = $2 WHERE id = $1", last["id"], {"Serial": "SN-7"})
    await line.tokens.show(line.operator, last["id"], open_=True)

    with pytest.raises(Conflict, match=r"whose Serial is 'SN-7'\. 1 may be in units already"):
        await line.reserve("SN-7", match="Serial")


async def test_the_token_of_a_unit_is_found_by_its_metadata(line: Line) -> None:
    *_, last = await line.space.rows("SELECT id FROM static_token ORDER BY id")
    await line.space.rows("UPDATE static_token SET metadata = $2 WHERE id = $1", last["id"], {"Serial": "SN-7"})

    assert (await line.reserve("SN-7", match="Serial")).token_id == last["id"]
    with pytest.raises(Conflict, match="no free static token of the profile 'meters' whose Serial is 'SN-8'"):
        await line.reserve("SN-8", match="Serial")


async def test_a_token_that_was_deleted_meanwhile_is_not_written(line: Line) -> None:
    reservation = await line.reserve("SN-1")
    await line.space.rows("DELETE FROM static_token WHERE id = $1", reservation.token_id)

    with pytest.raises(NotFound, match="has been deleted meanwhile"):
        await line.written(reservation)


@pytest.mark.parametrize("unit", ["", "  ", "x" * 101, "a\nb", "a\x7fb"])
async def test_what_is_no_serial_number_is_refused(line: Line, unit: str) -> None:
    with pytest.raises(Invalid, match="serial number is 1-100 printable"):
        await line.reserve(unit)


async def test_a_reason_is_short(line: Line) -> None:
    with pytest.raises(Invalid, match="at most 255"):
        await line.eol.fail(line.operator, "meters", "SN-1", "x" * 256)


async def test_units_of_two_profiles_may_have_one_number(line: Line) -> None:
    await line.make(1, "pumps")

    assert (await line.reserve("SN-1")).profile == "meters"
    assert (await line.reserve("SN-1", "pumps")).profile == "pumps"


async def test_the_line_s_status_says_what_is_left_and_who_has_what(line: Line) -> None:
    first, _ = await line.reserve("SN-1"), await line.reserve("SN-2")
    await line.written(first)
    await line.eol.fail(line.operator, "meters", "SN-2")
    await line.reserve("SN-2")
    await line.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name) SELECT id, organization_id, profile_id, 'd'"
        " FROM static_token WHERE id = $1",
        first.token_id,
    )

    all_ = await line.eol.status(line.operator, "meters")
    one = await line.eol.status(line.operator, "meters", unit="SN-2")
    failed = await line.eol.status(line.operator, "meters", state="failed", limit=1)

    assert (all_.profile, tuple(all_.counts)) == ("meters", (0, 1, 1, 1))
    assert [(each.unit, each.state) for each in all_.units] == [
        ("SN-2", "reserved"),
        ("SN-2", "failed"),
        ("SN-1", "written"),
    ]
    assert [each.connected_at is not None for each in all_.units] == [False, False, True]
    assert [each.state for each in one.units] == ["reserved", "failed"]
    assert [each.unit for each in failed.units] == ["SN-2"]


async def below(line: Line, name: str) -> Principal:
    """Somebody in an organization below the line's."""
    id_ = uuid4()
    await line.space.rows(
        "INSERT INTO organization (id, name, parent_id, path)"
        " VALUES ($1::uuid, $2, $3::uuid, ARRAY[$3::uuid, $1::uuid])",
        id_,
        name,
        line.space.organization_id,
    )
    return Principal("user:u", id_)


async def test_nobody_reaches_beyond_the_own_organizations(line: Line) -> None:
    somebody = await below(line, "customer")

    for asked in (
        line.eol.reserve(somebody, "meters", "SN-1"),
        line.eol.fail(somebody, "meters", "SN-1"),
        line.eol.status(somebody, "meters"),
        line.write("SN-1", Work(NvsPartition(Path("/tmp/out.bin")), SETTINGS), by=somebody),
    ):
        with pytest.raises(NotFound, match="There is no profile 'meters'"):
            await asked


async def test_a_token_of_the_organization_above_is_not_taken(line: Line) -> None:
    somebody = await below(line, "branch")
    await line.space.rows("UPDATE device_profile SET organization_id = $1", somebody.organization_id)

    with pytest.raises(Conflict, match="no free static token"):
        await line.eol.reserve(somebody, "meters", "SN-1")
    assert (await line.reserve("SN-1")).profile == "meters"


async def test_a_profile_of_two_organizations_must_be_told_apart(line: Line) -> None:
    for name in ("one", "two"):
        somebody = await below(line, name)
        await line.space.rows(
            "INSERT INTO device_profile SELECT (json_populate_record(p, json_build_object('id', $1::uuid,"
            " 'organization_id', $2::uuid, 'template_id', $3::text, 'name', 'theirs'))).* FROM device_profile p"
            " WHERE name = 'meters'",
            uuid4(),
            somebody.organization_id,
            f"TMPL{name}",
        )

    with pytest.raises(Conflict, match="Several organizations have a profile 'theirs'"):
        await line.reserve("SN-1", "theirs")
    with pytest.raises(Conflict, match="no free static token of the profile 'theirs'"):
        await line.reserve("SN-1", "TMPLone")


async def test_it_takes_the_permission_to_manage_tokens(line: Line) -> None:
    nobody = Principal("user:u", line.space.organization_id, frozenset(Permission) - {Permission.TOKENS_MANAGE})
    reservation = await line.reserve("SN-1")

    for asked in (
        line.eol.reserve(nobody, "meters", "SN-1"),
        line.eol.written(nobody, reservation.token_id, "SN-1"),
        line.eol.fail(nobody, "meters", "SN-1"),
        line.eol.status(nobody, "meters"),
        line.write("SN-1", Work(NvsPartition(Path("/tmp/out.bin")), SETTINGS), by=nobody),
    ):
        with pytest.raises(Forbidden, match="tokens:manage"):
            await asked


class Pocket:
    """A way into units that remembers what each was given, and fails when told to."""

    def __init__(self, given: dict[str, list[str]], unit: str, fails: bool) -> None:
        self.given = given
        self.unit = unit
        self.fails = fails

    def check(self, settings: Settings, template_id: str | None = None) -> None:
        assert settings.auth == BLANK
        assert template_id is None or template_id.startswith("TMPL")

    async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
        assert template_id.startswith("TMPL")
        self.given.setdefault(self.unit, []).append(settings.auth)
        await asyncio.sleep(0)
        if self.fails:
            raise Refused("It broke.")
        return {}


async def test_two_stations_at_one_unit_have_one_token(line: Line, lock: Locking) -> None:
    """Both find that the unit has none; the first to commit wins, the other gets what the unit has then."""
    oldest, *_ = await line.space.rows("SELECT id FROM static_token ORDER BY id")
    async with lock(
        "UPDATE static_token SET unit = 'SN-1', unit_state = 'reserved', unit_at = now() WHERE id = $1", oldest["id"]
    ) as first:
        second = asyncio.create_task(line.reserve("SN-1"))
        await first.until_waiting()
        await first.commit()
        reservation = await second

    assert (reservation.token_id, reservation.resumed) == (oldest["id"], True)
    assert (await line.eol.status(line.operator, "meters")).counts.free == 2


async def test_two_stations_are_not_at_one_unit_at_once(line: Line) -> None:
    class Slow(Pocket):
        async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
            inside.set()
            await go_on.wait()
            return await super().inject(settings, template_id)

    given: dict[str, list[str]] = {}
    inside, go_on = asyncio.Event(), asyncio.Event()
    slow = Work(Slow(given, "slow", fails=False), SETTINGS)
    quick = Work(Pocket(given, "quick", fails=False), SETTINGS)
    first = asyncio.create_task(line.write("SN-1", slow))
    await inside.wait()

    with pytest.raises(Conflict, match="Another station is at the unit 'SN-1'"):
        await line.write("SN-1", quick)
    await line.write("SN-2", quick)
    go_on.set()

    assert (await first).record.state == "written"
    assert set(given["slow"]).isdisjoint(given["quick"])


async def test_stations_pass_each_other_by(line: Line, lock: Locking) -> None:
    oldest, next_, _ = await line.space.rows("SELECT id FROM static_token ORDER BY id")
    async with lock("SELECT FROM static_token WHERE id = $1 FOR UPDATE", oldest["id"]):
        assert (await line.reserve("SN-1")).token_id == next_["id"]


async def test_twenty_stations_with_failures_never_give_a_token_to_two_units(line: Line, database_url: str) -> None:
    chance = random.Random(200)
    await line.make(197)
    units = iter([f"SN-{n}" for n in range(120)])
    given: dict[str, list[str]] = {}
    written: dict[str, str] = {}

    async def station() -> None:
        """Works on one unit after the other until it is written, or the tokens are at their end."""
        database = Database(database_url, size=1)
        await database.open()
        try:
            for unit in units:
                while unit not in written:
                    what = chance.random()
                    work = Work(Pocket(given, unit, fails=what < 0.3), SETTINGS)
                    try:
                        if 0.3 <= what < 0.4:  # as if it were killed before it could say so
                            reservation = await line.reserve(unit)
                            given.setdefault(unit, []).append(reservation.auth)
                            continue
                        if 0.4 <= what < 0.5 and unit in given:
                            await line.eol.fail(line.operator, "meters", unit)
                            continue
                        await line.write(unit, work, on=database)
                    except Conflict as fault:
                        assert "no free static token" in str(fault)  # noqa: PT017
                        return
                    except Refused:
                        continue
                    written[unit] = given[unit][-1]
        finally:
            await database.close()

    await asyncio.gather(*(station() for _ in range(20)))

    holders: dict[str, set[str]] = {}
    for unit, tokens in given.items():
        for token in tokens:
            holders.setdefault(token, set()).add(unit)
    assert max(map(len, holders.values())) == 1
    assert len(written) > 100
    assert len(set(written.values())) == len(written)
    status = await line.eol.status(line.operator, "meters", state="written", limit=500)
    assert {each.unit for each in status.units} == set(written)
    assert sum(status.counts) == 200


async def test_a_database_that_goes_between_write_and_record_leaves_the_token_with_its_unit(
    line: Line, outage: Outage, tmp_path: Path
) -> None:
    class Cut(NvsPartition):
        async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
            about = await super().inject(settings, template_id)
            await outage.begin()
            return about

    out = tmp_path / "nvs.bin"
    with pytest.raises(Unavailable):
        await line.write("SN-1", on=outage.database, work=Work(Cut(out), SETTINGS))
    first = nvs.read(out.read_bytes())
    outage.end()
    other = await line.reserve("SN-2")
    done = await line.write("SN-1", Work(NvsPartition(out), SETTINGS))

    assert nvs.read(out.read_bytes()) == first
    assert (done.record.state, done.reservation.resumed) == ("written", True)
    assert other.auth != done.reservation.auth


async def test_a_line_that_comes_back_is_told_then(line: Line, outage: Outage, tmp_path: Path) -> None:
    class Cut(NvsPartition):
        async def inject(self, settings: Settings, template_id: str) -> Mapping[str, str]:
            about = await super().inject(settings, template_id)
            await outage.begin()
            asyncio.get_running_loop().call_soon(outage.end)
            return about

    work = Work(Cut(tmp_path / "out.bin"), SETTINGS)
    done = await line.write("SN-1", work, on=outage.database, pauses=(0,) * 10_000)

    assert done.record.state == "written"


async def test_what_is_wrong_with_a_request_costs_no_token(line: Line, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "out"
    ways: list[tuple[Way, Path | None]] = [
        (NvsPartition(missing), None),
        (NvsPartition(tmp_path / "out", 5), None),
        (NvsPartition(tmp_path / "out"), missing.with_suffix(".png")),
        (NvsPartition(tmp_path / "out"), tmp_path / "label.txt"),
    ]
    for way, label in ways:
        with pytest.raises(Invalid):
            await line.write("SN-1", Work(way, SETTINGS, label))

    assert (await line.eol.status(line.operator, "meters")).counts.free == 3


async def test_a_unit_is_written_only_when_its_label_is_there(line: Line, tmp_path: Path) -> None:
    label = tmp_path / "label.png"
    work = Work(NvsPartition(tmp_path / "out"), SETTINGS, label)
    label.mkdir()
    with pytest.raises(Invalid, match="it is a directory"):
        await line.write("SN-1", work)
    label.rmdir()

    done = await line.write("SN-1", work)

    assert label.read_bytes().startswith(b"\x89PNG")
    assert done.reservation.resumed is False


async def test_a_station_without_a_database_writes_nothing(line: Line, outage: Outage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    work = Work(NvsPartition(out), SETTINGS)
    await outage.begin()

    with pytest.raises(Unavailable):
        await line.write("SN-1", on=outage.database, work=work)

    assert not out.exists()
    outage.end()
