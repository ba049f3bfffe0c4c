import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.particle import MAX_RESPONSE
from provserver.core.authorization import Permission, Principal
from provserver.core.model import CredentialsType, MetadataField
from provserver.core.particle import LEDGER, UNANSWERED, Acting, Can, Check, Pace, Run
from provserver.core.statictoken import TokenStatus
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Stale, Unavailable
from provserver.services import particle, particle_delivery
from provserver.services.credentials import open_credentials
from provserver.services.eol import EndOfLine
from provserver.services.particle import ParticleProduct, ParticleProducts, ProductChange
from provserver.services.profiles import ProfileChange
from provserver.services.sealed_columns import COLUMNS
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.store.database import Database
from provserver.store.jobs import Job
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree, only
from tests.services.jobs import Yard
from tests.support.particle import PRODUCT, TOKEN, Call, How, Particle

QUICK = Pace(rate=1e9, parallel=4, tries=2, first=0, last=0)
FIELDS = [MetadataField("Particle Device ID", "text", unique=True), MetadataField("Serial Number", "text")]


ALL = Run()


def client() -> Outgoing:
    return Outgoing(networks("127.0.0.1"), max_response=MAX_RESPONSE)


class Fleet:
    """A product that is connected, a profile with tokens, and a runner for the jobs."""

    def __init__(self, space: Space, cloud: Particle, yard: Yard, product: ParticleProduct) -> None:
        self.space = space
        self.cloud = cloud
        self.yard = yard
        self.operator = yard.operator
        self.product = product
        self.products = ParticleProducts(space.database, space.keys, connect=client)
        self.tokens = StaticTokens(space.database, space.keys)
        self.eol = EndOfLine(space.database, space.keys)

    async def start(self, acting: Acting = Acting.APPLY, run: Run = ALL) -> Job:
        return await self.products.start(self.operator, self.product.product, acting, run)

    async def run(self, acting: Acting = Acting.APPLY, run: Run = ALL) -> dict[str, Any]:
        job = await self.yard.ended((await self.start(acting, run)).id)
        assert (job.state, job.error) == ("done", None)
        assert isinstance(job.result, dict)
        return job.result

    async def secrets(self) -> list[str]:
        """The AuthTokens, in the order in which they were made."""
        # Read from the table, as whoever is shown a token has it used.
        rows = await self.space.rows("SELECT id, sealed FROM static_token ORDER BY id")
        kind = CredentialsType.ACCESS_TOKEN
        return [open_credentials(self.space.keys, row["id"], kind, row["sealed"]).id for row in rows]

    async def units(self) -> list[tuple[str | None, str | None]]:
        rows = await self.space.rows("SELECT unit, unit_state FROM static_token ORDER BY id")
        return [tuple(row) for row in rows]


@pytest.fixture
async def cloud() -> AsyncIterator[Particle]:
    async with Particle() as made:
        made.add(1, 2, 3)
        yield made


@pytest.fixture
async def fleet(space: Space, cloud: Particle) -> AsyncIterator[Fleet]:
    async with Yard.open(space) as yard:
        await space.profiles.create(ProfileChange(name="meters", metadata_fields=FIELDS))
        products = ParticleProducts(space.database, space.keys, connect=client)
        product = await products.create(yard.operator, "meters", PRODUCT, TOKEN, url=cloud.url)
        made = Fleet(space, cloud, yard, product)
        await made.tokens.make(yard.operator, "meters", 5)
        await yard.runner(particle.kinds(space.database, space.keys, client, QUICK))
        yield made


async def test_a_job_gives_each_device_its_token_and_again_nothing_changes(fleet: Fleet) -> None:
    one, two, three = fleet.cloud.devices
    plan = await fleet.run(Acting.PLAN)
    assert (plan["counts"], plan["changes"], plan["settled"]) == ({"write": 3}, 3, True)
    assert not fleet.cloud.ledgers

    report = await fleet.run()
    secrets = await fleet.secrets()
    assert fleet.cloud.tokens_given() == dict(zip((one, two, three), secrets, strict=False))
    assert [entry["token"] for entry in report["entries"]] == ["No. 1", "No. 2", "No. 3"]
    assert await fleet.units() == [*((device, "written") for device in (one, two, three)), (None, None), (None, None)]

    fleet.cloud.reorder()
    assert (await fleet.run())["counts"] == {"keep": 3}
    assert (await fleet.run(Acting.VERIFY))["settled"]
    assert fleet.cloud.count(Call.WRITE) == 3
    everything = str([dict(row) for table in ("job", "job_step", "audit") for row in await _rows(fleet.space, table)])
    assert not any(secret in everything for secret in [*secrets, TOKEN])
    audit = await fleet.space.rows("SELECT action, count(*) FROM audit WHERE action ~ '^(particle|static)' GROUP BY 1")
    assert {tuple(row) for row in audit} >= {("static_token.reserved", 3), ("static_token.written", 3)}
    shown = await fleet.products.show(fleet.operator, str(fleet.product.id))
    assert shown.expires_at is not None


async def _rows(space: Space, table: str) -> list[Any]:
    return await space.rows(f"SELECT * FROM {table}")


async def test_tokens_that_name_a_device_are_its_and_others_get_those_that_name_nobody(fleet: Fleet) -> None:
    one, two, three = fleet.cloud.devices
    rows = f"Particle Device ID,Serial Number\n{three.upper()},\n{'f' * 24},\n,P000002\n"
    report = await fleet.tokens.import_(fleet.operator, "meters", io.StringIO(rows))
    assert report.error_count == 0
    await fleet.run()
    secrets = await fleet.secrets()
    assert fleet.cloud.tokens_given() == {one: secrets[0], two: secrets[7], three: secrets[5]}


async def test_the_line_and_a_product_give_no_token_twice(fleet: Fleet) -> None:
    reserved = await fleet.eol.reserve(fleet.operator, "meters", "SN-1")
    await fleet.tokens.show(fleet.operator, "2", open_=True)
    await fleet.run()
    given = set(fleet.cloud.tokens_given().values())
    assert len(given) == 3
    assert reserved.auth not in given
    assert (await fleet.secrets())[1] not in given, "it was shown, so it may be in a unit"
    with pytest.raises(Conflict, match="no free"):
        await fleet.eol.reserve(fleet.operator, "meters", "SN-2")
    status = await fleet.eol.status(fleet.operator, "meters")
    assert {unit.unit for unit in status.units} == {"SN-1", *fleet.cloud.devices}


async def test_what_is_there_is_adopted_or_left(fleet: Fleet) -> None:
    one, two, three = fleet.cloud.devices
    await fleet.run(Acting.APPLY, Run((one,)))
    secrets = await fleet.secrets()
    await fleet.space.rows("UPDATE static_token SET unit = NULL, unit_state = NULL")
    fleet.cloud.data(one)["blynk_token"] = secrets[4]
    fleet.cloud.instances[LEDGER][two] = type(fleet.cloud.instances[LEDGER][one])({"blynk_token": "foreign"})
    report = await fleet.run()
    assert report["counts"] == {"adopt": 1, "foreign": 1, "write": 1}
    assert not report["settled"]
    assert "foreign" not in {entry["before"] for entry in report["entries"]}
    assert fleet.cloud.tokens_given() == {one: secrets[4], two: "foreign", three: secrets[0]}
    assert (await fleet.run(Acting.APPLY, Run(force=True)))["counts"] == {"keep": 2, "write": 1}


async def test_revoking_gives_a_token_up(fleet: Fleet) -> None:
    one, two, _ = fleet.cloud.devices
    await fleet.run()
    assert (await fleet.run(Acting.REVOKE, Run((one,))))["counts"] == {"revoke": 1}
    assert (await fleet.units())[0] == (one, "failed")
    assert one not in fleet.cloud.tokens_given()
    assert (await fleet.run())["counts"] == {"keep": 2, "revoked": 1}
    assert (await fleet.run(Acting.APPLY, Run((one,))))["counts"] == {"write": 1}
    assert (await fleet.units())[3] == (one, "written")
    await fleet.space.rows("UPDATE static_token SET status = $2 WHERE unit = $1", two, TokenStatus.CLAIMED)
    assert (await fleet.run(Acting.REVOKE, Run((two,))))["counts"] == {"claimed": 1}
    assert two in fleet.cloud.tokens_given()


async def test_a_token_that_was_deleted_is_foreign(fleet: Fleet) -> None:
    one, *_ = fleet.cloud.devices
    await fleet.run()
    await fleet.space.rows("DELETE FROM static_token WHERE unit = $1", one)
    assert (await fleet.run())["counts"] == {"foreign": 1, "keep": 2}
    assert (await fleet.run(Acting.APPLY, Run((one,), force=True)))["counts"] == {"write": 1}


@pytest.mark.parametrize("how", [How.SERVER_ERROR_AFTER, How.RESET])
async def test_what_particle_does_not_take_is_tried_again_by_the_job(fleet: Fleet, how: How) -> None:
    fleet.cloud.fail(Call.WRITE, 14, how)  # more than one try of the job comes to
    await fleet.start()
    job = await fleet.yard.ended((await fleet.yard.jobs.list_(fleet.operator, limit=1))[0].id)
    assert (job.state, job.error) == ("done", None)
    assert job.tries > 1
    assert list(fleet.cloud.tokens_given().values()) == (await fleet.secrets())[:3]


async def test_a_job_whose_process_is_killed_goes_on_elsewhere(fleet: Fleet, database_url: str) -> None:
    held = fleet.cloud.hold(Call.WRITE, after=True)
    job = await fleet.start()
    await held.reached.wait()
    for runner in fleet.yard.runners:  # as by kill -9: nothing is said to anybody
        for each in runner._running.values():
            each.task.cancel()
        runner._stopping = True
        await runner.stop(0)
    fleet.yard.runners.clear()
    held.free.set()
    bound = [unit for unit, _ in await fleet.units()]
    assert set(fleet.cloud.devices) <= set(bound), "they were recorded before the first was written"
    fleet.cloud.reorder()
    other = Database(database_url, size=4)
    await other.open()
    try:
        await fleet.space.rows("UPDATE job SET lease_until = now() - interval '1 second' WHERE state = 'running'")
        await fleet.yard.runner(particle.kinds(other, fleet.space.keys, client, QUICK), other)
        assert (await fleet.yard.ended(job.id)).state == "done"
        expected = zip(sorted(fleet.cloud.devices), await fleet.secrets(), strict=False)
        assert fleet.cloud.tokens_given() == dict(expected)
        assert bound == [unit for unit, _ in await fleet.units()]
        for runner in fleet.yard.runners:
            await runner.stop(1)
        fleet.yard.runners.clear()
    finally:
        await other.close()


async def test_one_run_at_a_time_is_at_a_product(fleet: Fleet) -> None:
    held = fleet.cloud.hold(Call.WRITE)
    job = await fleet.start()
    await held.reached.wait()
    with pytest.raises(Conflict, match="already"):
        await fleet.start()
    revoking = await fleet.start(Acting.REVOKE, Run(tuple(fleet.cloud.devices)))
    waiting = await fleet.yard.until(revoking.id, lambda job: job.error is not None)
    assert "Another run" in (waiting.error or "")
    held.free.set()
    assert (await fleet.yard.ended(job.id)).state == "done"
    await fleet.yard.jobs.cancel(fleet.operator, revoking.id)


async def test_what_cannot_be_done_has_a_remedy(fleet: Fleet) -> None:
    fleet.cloud.tokens.clear()
    job = await fleet.yard.ended((await fleet.start()).id)
    assert job.state == "failed"
    assert "401" in (job.error or "")
    assert "particle token create" in (job.remedy or "")
    held = await fleet.products.update(
        fleet.operator, PRODUCT, ProductChange(access_token="another0123456789", ledger="other")
    )
    assert (held.ledger, held.expires_at, held.revision) == ("other", None, 2)
    assert TOKEN.encode() not in str(await _rows(fleet.space, "particle_product")).encode()


def _states(check: Check) -> list[str]:
    return [each.state.value for each in check.findings]


async def test_a_test_says_what_the_access_token_may_do_and_changes_nothing(fleet: Fleet) -> None:
    cloud = fleet.cloud
    found = await fleet.products.test(fleet.operator, PRODUCT)
    ends = cloud.tokens[TOKEN]
    assert ends is not None
    assert (found.ready, found.expires_at) == (True, ends.replace(microsecond=ends.microsecond // 1000 * 1000))
    assert _states(found) == ["yes", "yes", "unknown", "unknown"]
    assert "There is no ledger" in str(found.findings[2].reason)
    await fleet.run()
    before = dict(cloud.tokens_given())
    cloud.calls.clear()
    found = await fleet.products.test(fleet.operator, PRODUCT)
    assert (found.ready, _states(found)) == (True, ["yes", "yes", "yes", "unknown"])
    assert "role" in str(found.findings[3].reason)
    assert {call for call, _ in cloud.calls} == {Call.CURRENT, Call.DEVICES, Call.DEFINITION, Call.INSTANCES}
    assert cloud.tokens_given() == before


@pytest.mark.parametrize(
    ("call", "states"),
    [
        (Call.CURRENT, ["no", "unknown", "unknown", "unknown"]),
        (Call.DEVICES, ["yes", "no", "yes", "unknown"]),
        (Call.DEFINITION, ["yes", "yes", "no", "unknown"]),
        (Call.INSTANCES, ["yes", "yes", "no", "unknown"]),
    ],
)
async def test_what_a_test_finds_missing_has_a_remedy(fleet: Fleet, call: Call, states: list[str]) -> None:
    await fleet.run()
    fleet.cloud.fail(call, 1, How.FORBIDDEN)
    found = await fleet.products.test(fleet.operator, PRODUCT)
    assert (found.ready, _states(found)) == (False, states)
    (missing,) = [each for each in found.findings if each.state is Can.NO]
    assert "403" in str(missing.reason)
    assert "member of its team" in str(missing.remedy)


async def test_a_test_knows_tokens_and_ledgers_that_are_not_for_it(fleet: Fleet) -> None:
    cloud = fleet.cloud
    cloud.tokens[TOKEN] = soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    cloud.ledgers[LEDGER] = {"name": LEDGER, "scope": "Owner", "direction": "Downstream", "archived_at": None}
    found = await fleet.products.test(fleet.operator, PRODUCT)
    assert (found.expires_at, _states(found)) == (soon, ["yes", "yes", "no", "unknown"])
    assert found.findings[0].remedy == "Make another (particle token create), and set it."
    assert "another ledger" in str(found.findings[2].remedy)
    cloud.tokens.clear()
    found = await fleet.products.test(fleet.operator, PRODUCT)
    assert (found.expires_at, _states(found)) == (None, ["no", "unknown", "unknown", "unknown"])
    assert "particle token create" in str(found.findings[0].remedy)
    assert TOKEN not in str(found)


async def test_a_test_is_for_who_manages_tokens_and_says_that_particle_is_away(fleet: Fleet) -> None:
    fleet.cloud.fail(Call.DEVICES, 1)
    with pytest.raises(Unavailable, match="HTTP 500"):
        await fleet.products.test(fleet.operator, PRODUCT)
    with pytest.raises(Forbidden):
        await fleet.products.test(Principal("x", fleet.space.organization_id, frozenset()), PRODUCT)


async def test_products_are_checked_changed_and_forgotten(fleet: Fleet) -> None:
    products, operator = fleet.products, fleet.operator
    assert await products.list_(operator) == [fleet.product]
    assert (await products.show(operator, "meters")).id == fleet.product.id
    with pytest.raises(Conflict, match="already"):
        await products.create(operator, "meters", "other", TOKEN)
    await fleet.space.profiles.create(ProfileChange(name="others"))
    with pytest.raises(Conflict, match="already"):
        await products.create(operator, "others", PRODUCT, TOKEN, url=fleet.cloud.url)
    for wrong in ({"product": "a/b"}, {"ledger": "No Ledger"}, {"access_token": "short"}, {"url": "ftp://x"}):
        with pytest.raises(Invalid):
            await products.update(operator, PRODUCT, ProductChange(**wrong))
    with pytest.raises(Invalid, match="24 hexadecimal"):
        await fleet.start(Acting.PLAN, Run(("x",)))
    with pytest.raises(Invalid, match="whose"):
        await fleet.start(Acting.REVOKE)
    with pytest.raises(NotFound):
        await products.create(operator, "nobody-s", PRODUCT, TOKEN)
    with pytest.raises(Stale):
        await products.delete(operator, PRODUCT, revision=7)
    await products.delete(operator, PRODUCT)
    with pytest.raises(NotFound):
        await fleet.start()
    assert not any("access" in repr(change).lower() for change in (ProductChange(access_token=TOKEN),))


async def test_a_forgotten_product_s_job_fails(fleet: Fleet) -> None:
    held = fleet.cloud.hold(Call.CURRENT)
    fleet.cloud.fail(Call.CURRENT, QUICK.tries)
    job = await fleet.start(Acting.PLAN)
    await held.reached.wait()
    await fleet.products.delete(fleet.operator, PRODUCT)
    held.free.set()
    ended = await fleet.yard.ended(job.id)
    assert (ended.state, "Connect it again" in (ended.remedy or "")) == ("failed", True)


async def test_nobody_reaches_another_s(space: Space, fleet: Fleet, tmp_path: Path) -> None:
    tree = await Tree.grow(Accounts(space, tmp_path))
    stranger = only(tree.left.id, Permission.TOKENS_MANAGE)
    assert await fleet.products.list_(stranger) == []
    for refused in (
        fleet.products.show(stranger, PRODUCT),
        fleet.products.delete(stranger, str(fleet.product.id)),
        fleet.products.start(stranger, PRODUCT, Acting.PLAN, Run()),
        fleet.products.create(stranger, "meters", PRODUCT, TOKEN),
    ):
        with pytest.raises(NotFound):
            await refused
    with pytest.raises(Forbidden):
        await fleet.products.list_(Principal("user:x", space.organization_id, frozenset({Permission.DEVICES_VIEW})))


def test_its_access_token_is_among_the_sealed_columns() -> None:
    assert any(column.where.table == "particle_product" for column in COLUMNS)


async def test_two_who_take_the_same_tokens_get_different_ones(fleet: Fleet) -> None:
    """A station of the line reserves while a run plans."""
    reads = fleet.cloud.hold(Call.DEVICES)
    job = await fleet.start()
    await reads.reached.wait()
    reads.free.set()
    reserved = await asyncio.gather(*(fleet.eol.reserve(fleet.operator, "meters", f"SN-{n}") for n in range(2)))
    assert (await fleet.yard.ended(job.id)).state == "done"
    given = list(fleet.cloud.tokens_given().values())
    assert len({*given, *(each.auth for each in reserved)}) == 5
    assert await fleet.tokens.count(fleet.operator, Selection(profile="meters")) == 5


async def test_an_access_token_goes_to_no_other_address_by_itself(fleet: Fleet) -> None:
    elsewhere = fleet.cloud.url.replace("127.0.0.1", "localhost")
    for url in ("https://elsewhere.example", elsewhere):
        with pytest.raises(Invalid, match="give it again"):
            await fleet.products.update(fleet.operator, PRODUCT, ProductChange(url=url))
    for clear in ("http://1.1.1.1", "http://10.1.2.3"):
        with pytest.raises(Invalid, match=r"https://|outgoing_private"):
            await fleet.products.update(fleet.operator, PRODUCT, ProductChange(url=clear, access_token=TOKEN))
        with pytest.raises(Invalid, match=r"https://|outgoing_private"):
            await fleet.products.create(fleet.operator, "meters", "p", TOKEN, url=clear)
    same = await fleet.products.update(fleet.operator, PRODUCT, ProductChange(url=fleet.cloud.url + "/"))
    assert same.url == fleet.cloud.url
    await fleet.products.update(
        fleet.operator, PRODUCT, ProductChange(url="https://elsewhere.example", access_token=TOKEN)
    )
    rows = await fleet.space.rows("SELECT detail FROM audit WHERE action = 'particle.updated' ORDER BY at, id")
    assert [row["detail"]["changed"] for row in rows] == [[], ["url", "access_token"]]
    assert rows[-1]["detail"]["url"] == "https://elsewhere.example"
    assert TOKEN not in str([dict(row) for row in rows])


async def test_tokens_that_were_only_exported_are_taken_when_that_is_asked_for(fleet: Fleet) -> None:
    await fleet.space.rows("UPDATE static_token SET used_at = now()")  # as an export does
    await fleet.eol.status(fleet.operator, "meters")
    ids = [row["id"] for row in await fleet.space.rows("SELECT id FROM static_token ORDER BY id")]
    await fleet.space.rows("UPDATE static_token SET status = 'CLAIMED', revision = revision + 1 WHERE id = $1", ids[0])
    await fleet.space.rows("UPDATE static_token SET revision = revision + 1 WHERE id = $1", ids[1])
    plan = await fleet.run(Acting.PLAN)
    assert plan["counts"] == {"no_token": 3}
    assert "3 tokens were exported" in plan["entries"][0]["reason"]
    assert "--exported" in plan["entries"][0]["reason"]
    report = await fleet.run(Acting.APPLY, Run(exported=True))
    assert report["counts"] == {"write": 3}
    assert list(fleet.cloud.tokens_given().values()) == (await fleet.secrets())[2:]
    fleet.cloud.add(4)
    more = await fleet.run(Acting.PLAN, Run(exported=True))
    assert "--exported" not in str(more["entries"])


async def test_a_device_that_is_never_taken_ends_in_the_report(fleet: Fleet) -> None:
    one, two, three = fleet.cloud.devices
    fleet.cloud.fail(Call.WRITE, 100, device=two)
    job = await fleet.yard.ended((await fleet.start(Acting.APPLY)).id)
    assert (job.state, job.tries) == ("done", particle.TRIES_OF_DEVICES)
    assert isinstance(job.result, dict)
    assert (job.result["settled"], job.result["counts"]["failed"]) == (False, 1)
    assert set(fleet.cloud.tokens_given()) == {one, three}


async def test_a_particle_that_is_away_is_given_up_soon(fleet: Fleet) -> None:
    fleet.cloud.fail(Call.CURRENT, 1000)
    job = await fleet.yard.ended((await fleet.start(Acting.PLAN)).id)
    assert (job.state, job.remedy) == ("failed", UNANSWERED)
    assert fleet.cloud.count(Call.CURRENT) == particle.ParticleJob.tries * QUICK.tries


async def test_force_gives_up_a_token_that_is_recorded_nowhere(fleet: Fleet) -> None:
    one, two, _ = fleet.cloud.devices
    await fleet.run()
    first, second, *_ = await fleet.secrets()
    await fleet.space.rows("UPDATE static_token SET unit = NULL, unit_state = NULL WHERE unit = ANY($1)", [one, two])
    await fleet.space.rows(
        "UPDATE static_token SET status = 'CLAIMED'"
        " WHERE id = (SELECT id FROM static_token ORDER BY id OFFSET 1 LIMIT 1)"
    )
    report = await fleet.run(Acting.REVOKE, Run((one, two), force=True))
    assert report["counts"] == {"claimed": 1, "revoke": 1}
    assert (await fleet.units())[:2] == [(one, "failed"), (None, None)]
    given = fleet.cloud.tokens_given()
    assert first not in given.values()
    assert given[two] == second
    assert (await fleet.run(Acting.APPLY, Run((one,))))["counts"] == {"write": 1}
    assert fleet.cloud.tokens_given()[one] != first


@pytest.mark.parametrize("named", [(), (0,)])
async def test_what_names_two_devices_is_for_people_to_mend(fleet: Fleet, named: tuple[int, ...]) -> None:
    one, two, three = fleet.cloud.devices
    fleet.cloud.devices[two]["serial_number"] = fleet.cloud.devices[one]["serial_number"]
    await fleet.tokens.import_(fleet.operator, "meters", io.StringIO("Serial Number\nP000001\n"))
    run = Run(tuple([one, two, three][number] for number in named))
    found = {each["device"]: each["action"] for each in (await fleet.run(Acting.APPLY, run))["entries"]}
    assert found[one] == "ambiguous"
    assert one not in fleet.cloud.tokens_given()
    assert two not in fleet.cloud.tokens_given()


async def test_a_run_that_is_cancelled_leaves_what_it_did_in_its_steps(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(particle_delivery, "BATCH", 1)
    held = fleet.cloud.hold(Call.WRITE, after=True)
    job = await fleet.start()
    await held.reached.wait()
    await fleet.yard.jobs.cancel(fleet.operator, job.id)
    held.free.set()
    assert (await fleet.yard.ended(job.id)).state == "cancelled"
    _, steps = await fleet.yard.jobs.details(fleet.operator, job.id)
    one, *_ = sorted(fleet.cloud.devices)
    told = [entry["device"] for step in steps if step.name.startswith("write") and step.result for entry in step.result]  # type: ignore[attr-defined]
    assert told == [one]
