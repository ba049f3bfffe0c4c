"""Runs against the strict stand-in, with the record in a file: what a run does does not depend on where that is."""

import asyncio
import stat
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.particle import Denied, Later, ParticleCloud
from provserver.core.particle import LEDGER, Acting, Device, Pace, Place, Run
from provserver.errors import Conflict, Invalid, Misconfigured
from provserver.services import particle_delivery
from provserver.services.particle_delivery import Delivery, Report
from provserver.services.particle_file import FileTokens
from tests.support.particle import PRODUCT, TOKEN, Call, How, Particle

QUICK = Pace(rate=1e9, parallel=4, tries=3, first=0, last=0)
ALL = Run()


def secret(number: int) -> str:
    return f"{'t' * 24}{number:08}"


def export(file: Path, tokens: Sequence[int], **columns: Sequence[str]) -> Path:
    """A CSV as of an export. columns: by header."""
    rows = [["Device Token", *columns]]
    rows += [[secret(number), *(values[n] for values in columns.values())] for n, number in enumerate(tokens)]
    file.write_text("".join(",".join(row) + "\r\n" for row in rows))
    return file


class Desk:
    """Who runs it."""

    def __init__(self, cloud: Particle, directory: Path) -> None:
        self.cloud = cloud
        self.bindings = directory / "bindings.jsonl"
        self.files = [export(directory / "tokens.csv", range(1, 6))]
        self.reports: list[tuple[int, int | None]] = []

    @property
    def place(self) -> Place:
        return Place(self.cloud.url, self.cloud.product, LEDGER, self.cloud.org)

    async def __call__(
        self, acting: Acting = Acting.APPLY, run: Run = ALL, *, access_token: str = TOKEN, pace: Pace = QUICK
    ) -> Report:
        async with Outgoing(networks("127.0.0.1")) as outgoing:
            cloud = ParticleCloud(outgoing, self.place, access_token)
            keep = acting in (Acting.APPLY, Acting.REVOKE)
            with FileTokens(self.files, self.bindings, self.place, keep=keep) as tokens:
                return await Delivery(cloud, self.place, tokens, pace).run(acting, run, self._told)

    def _told(self, done: int, total: int | None) -> None:
        self.reports.append((done, total))


@pytest.fixture
async def cloud() -> AsyncIterator[Particle]:
    async with Particle() as made:
        made.add(1, 2, 3)
        yield made


@pytest.fixture
def desk(cloud: Particle, tmp_path: Path) -> Desk:
    return Desk(cloud, tmp_path)


def actions(report: Report) -> list[str]:
    return [entry.action.value for entry in report.entries]


async def test_the_ledger_is_made_and_each_device_has_a_token(cloud: Particle, desk: Desk) -> None:
    report = await desk()
    assert cloud.ledgers[LEDGER] | {"description": ""} == {
        "name": LEDGER,
        "scope": "Device",
        "direction": "Downstream",
        "description": "",
        "archived_at": None,
    }
    assert list(cloud.tokens_given().values()) == [secret(1), secret(2), secret(3)]
    assert (actions(report), report.settled, report.ledger_missing) == (["write"] * 3, True, True)
    assert stat.S_IMODE(desk.bindings.stat().st_mode) == 0o600
    assert "tttt" not in desk.bindings.read_text() + str(report.to_json())
    assert desk.reports[-1] == (6, 6)
    assert any("event stream" in warning for warning in report.warnings)


async def test_again_or_reordered_nothing_changes(cloud: Particle, desk: Desk) -> None:
    await desk()
    given, writes = cloud.tokens_given(), cloud.count(Call.WRITE)
    cloud.reorder()
    for _ in range(2):
        assert actions(await desk()) == ["keep"] * 3
    assert (cloud.tokens_given(), cloud.count(Call.WRITE)) == (given, writes)
    assert actions(await desk(Acting.VERIFY)) == ["keep"] * 3


async def test_a_plan_changes_nothing(cloud: Particle, desk: Desk) -> None:
    report = await desk(Acting.PLAN)
    assert (actions(report), report.changes, report.ledger_missing) == (["write"] * 3, 3, True)
    assert not cloud.ledgers
    assert not desk.bindings.exists()
    assert [entry["token"] for entry in report.to_json()["entries"]] == [f"tokens.csv:{line}" for line in (2, 3, 4)]


async def test_all_pages_are_read(cloud: Particle, desk: Desk, tmp_path: Path) -> None:
    cloud.add(*range(4, 231))
    desk.files = [export(tmp_path / "more.csv", range(1, 240))]
    await desk()
    assert len(set(cloud.tokens_given().values())) == 230
    assert actions(await desk()) == ["keep"] * 230
    assert cloud.busiest <= QUICK.parallel


async def test_what_else_an_instance_has_stays(cloud: Particle, desk: Desk) -> None:
    (device, *_) = cloud.devices
    await desk(Acting.APPLY, Run((device,)))
    cloud.data(device)["interval"] = 60
    cloud.data(device)["blynk_token"] = ""
    await desk()
    assert cloud.data(device) == {"blynk_token": secret(1), "interval": 60}


async def test_metadata_goes_before_the_order(cloud: Particle, desk: Desk, tmp_path: Path) -> None:
    one, two, three = cloud.devices
    cloud.devices[three]["iccid"] = "8934076500002589174F"
    names: dict[str, Any] = {
        "Particle Device ID": [two.upper(), "", "", ""],
        "Serial Number": ["", "P000001", "", ""],
        "ICCID": ["", "", "8934076500002589174f", ""],
    }
    desk.files = [export(tmp_path / "named.csv", [1, 2, 3, 4], **names)]
    await desk()
    assert cloud.tokens_given() == {one: secret(2), two: secret(1), three: secret(3)}


async def test_a_foreign_token_stays_unless_it_is_forced(cloud: Particle, desk: Desk) -> None:
    one, *_ = cloud.devices
    await desk(Acting.APPLY, Run((one,)))
    cloud.data(one)["blynk_token"] = "somebody-else-s-secret"
    report = await desk()
    assert actions(report) == ["foreign", "write", "write"]
    assert not report.settled
    assert "somebody" not in str(report.to_json())
    assert cloud.data(one)["blynk_token"] == "somebody-else-s-secret"
    assert actions(await desk(Acting.APPLY, Run(force=True))) == ["write", "keep", "keep"]
    assert cloud.tokens_given()[one] == secret(1)


async def test_what_a_script_gave_before_is_adopted(cloud: Particle, desk: Desk) -> None:
    one, two, three = cloud.devices
    await desk(Acting.APPLY, Run((one,)))
    desk.bindings.unlink()
    cloud.data(one)["blynk_token"] = secret(2)
    report = await desk(Acting.APPLY, Run((two,)))
    assert cloud.tokens_given() == {one: secret(2), two: secret(1)}, "one's was not given to two"
    report = await desk()
    assert actions(report) == ["adopt", "keep", "write"]
    assert cloud.tokens_given() == {one: secret(2), two: secret(1), three: secret(3)}


async def test_there_are_too_few_tokens(desk: Desk, tmp_path: Path) -> None:
    desk.files = [export(tmp_path / "few.csv", [1])]
    report = await desk()
    assert (actions(report), report.settled) == (["write", "no_token", "no_token"], False)
    desk.files.append(export(tmp_path / "more.csv", [2, 3]))
    assert actions(await desk()) == ["keep", "write", "write"]


async def test_revoked_is_revoked(cloud: Particle, desk: Desk) -> None:
    one, *_ = cloud.devices
    await desk()
    cloud.data(one)["interval"] = 60
    assert actions(await desk(Acting.REVOKE, Run((one,)))) == ["revoke"]
    assert cloud.data(one) == {"blynk_token": "", "interval": 60}
    assert actions(await desk()) == ["revoked", "keep", "keep"]
    assert actions(await desk(Acting.REVOKE, Run((one,)))) == ["revoked"]
    assert actions(await desk(Acting.APPLY, Run((one,)))) == ["write"]
    assert cloud.tokens_given()[one] == secret(4), "nobody gets the first one again"
    with pytest.raises(Invalid, match="whose"):
        await desk(Acting.REVOKE)


@pytest.mark.parametrize("how", [How.SERVER_ERROR, How.SERVER_ERROR_AFTER, How.LIMITED, How.RESET, How.RESET_AFTER])
@pytest.mark.parametrize("call", [Call.CURRENT, Call.DEFINITION, Call.CREATE, Call.DEVICES, Call.READ, Call.WRITE])
async def test_each_request_may_fail(cloud: Particle, desk: Desk, call: Call, how: How) -> None:
    if call is Call.READ:
        await desk(Acting.APPLY, Run(tuple(cloud.devices)[:1]))
    cloud.fail(call, 2, how)
    report = await desk()
    assert report.settled
    assert list(cloud.tokens_given().values()) == [secret(1), secret(2), secret(3)]
    assert actions(await desk()) == ["keep"] * 3


async def test_a_device_that_fails_leaves_the_others_alone(cloud: Particle, desk: Desk) -> None:
    _, two, _ = cloud.devices
    cloud.fail(Call.WRITE, QUICK.tries, device=two)
    report = await desk(pace=QUICK._replace(parallel=1))
    assert (actions(report), report.settled) == (["write", "failed", "write"], False)
    assert list(cloud.tokens_given().values()) == [secret(1), secret(3)]
    report = await desk()
    assert report.settled
    assert list(cloud.tokens_given().values()) == [secret(1), secret(2), secret(3)]


async def test_when_none_is_taken_all_wait(cloud: Particle, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particle_delivery, "IN_A_ROW", 2)
    cloud.fail(Call.WRITE, 1000)
    with pytest.raises(Later, match="500"):
        await desk()


async def test_who_is_denied_is_told_what_to_do(cloud: Particle, desk: Desk) -> None:
    with pytest.raises(Denied, match="particle token create"):
        await desk(access_token="0123456789")
    cloud.fail(Call.DEVICES, 1, How.FORBIDDEN)
    with pytest.raises(Denied, match="member of its team"):
        await desk()
    cloud.ledgers[LEDGER] = {"name": LEDGER, "scope": "Device", "direction": "Upstream", "archived_at": None}
    with pytest.raises(Denied, match="another ledger"):
        await desk()


async def test_an_access_token_that_ends_soon_is_warned_of(tmp_path: Path) -> None:
    async with Particle(org="acme", expires=timedelta(days=3)) as cloud:
        cloud.add(1)
        report = await Desk(cloud, tmp_path)()
        assert cloud.tokens_given()
    assert any("ends at" in warning for warning in report.warnings)


async def test_a_run_that_is_killed_goes_on_with_the_same_tokens(cloud: Particle, desk: Desk) -> None:
    for after in (False, True):
        held = cloud.hold(Call.WRITE, after=after)
        running = asyncio.create_task(desk(pace=QUICK._replace(parallel=1)))
        await held.reached.wait()
        running.cancel()
        await asyncio.wait({running})
        held.free.set()
        with desk.bindings.open("ab") as torn:
            torn.write(b'{"device":"e00f')
    cloud.reorder()
    await desk()
    assert sorted(cloud.tokens_given().items()) == [
        (device, secret(number)) for number, device in enumerate(sorted(cloud.devices), 1)
    ]


async def test_names_of_devices_and_files_are_checked(desk: Desk, tmp_path: Path) -> None:
    for wrong in ("e00f", f"{99:024x}"):
        with pytest.raises(Invalid):
            await desk(Acting.PLAN, Run((wrong,)))
    desk.files.append(export(tmp_path / "again.csv", [3]))
    with pytest.raises(Invalid, match="too"):
        await desk(Acting.PLAN)
    desk.files = [tmp_path / "none.csv"]
    with pytest.raises(Misconfigured, match="cannot be read"):
        await desk(Acting.PLAN)


async def test_the_record_is_one_product_s_and_one_run_s(desk: Desk) -> None:
    await desk()
    with FileTokens(desk.files, desk.bindings, desk.place), pytest.raises(Conflict, match="Another run"):
        await desk()
    with pytest.raises(Misconfigured, match=PRODUCT), FileTokens(desk.files, desk.bindings, Place("x", "y", "z")):
        pass
    desk.bindings.write_text("something else\n")
    with pytest.raises(Misconfigured, match="no record"):
        await desk()


async def test_a_token_whose_file_is_gone_is_asked_for(cloud: Particle, desk: Desk, tmp_path: Path) -> None:
    await desk()
    one, *_ = cloud.devices
    cloud.data(one)["blynk_token"] = ""
    desk.files = [export(tmp_path / "other.csv", [9])]
    report = await desk()
    assert actions(report) == ["failed", "keep", "keep"]
    assert "Name all files" in report.entries[0].reason


async def test_a_product_that_is_not_there_binds_no_record_and_makes_no_ledger(cloud: Particle, desk: Desk) -> None:
    cloud.product = "mistyped"
    with pytest.raises(Denied):
        await desk()
    assert not cloud.ledgers
    assert desk.bindings.read_bytes() == b""
    cloud.product = PRODUCT
    assert actions(await desk()) == ["write"] * 3


async def test_a_group_or_serial_number_of_nobody_is_refused(cloud: Particle, desk: Desk) -> None:
    for run in (Run(group="pilot"), Run(serial="P999999")):
        with pytest.raises(Invalid, match="No device"):
            await desk(Acting.APPLY, run)
    assert not cloud.ledgers


async def test_a_folder_of_files_is_as_all_in_it(desk: Desk, tmp_path: Path) -> None:
    export(tmp_path / "a.csv", [7])
    desk.files = [tmp_path]
    report = await desk(Acting.PLAN)
    assert [entry.token.label for entry in report.entries if entry.token] == ["a.csv:2", "tokens.csv:2", "tokens.csv:3"]
    desk.files = [tmp_path / "empty"]
    desk.files[0].mkdir()
    with pytest.raises(Invalid, match=r"no \.csv"):
        await desk(Acting.PLAN)


async def test_a_file_without_a_token_is_refused_and_too_few_are_told_of(desk: Desk, tmp_path: Path) -> None:
    desk.files = [export(tmp_path / "none.csv", [])]
    with pytest.raises(Invalid, match="no token"):
        await desk()
    desk.files = [export(tmp_path / "few.csv", [1])]
    assert "--csv" in (await desk(Acting.PLAN)).entries[1].reason


async def test_force_revokes_what_a_script_wrote(cloud: Particle, desk: Desk) -> None:
    one, *_ = cloud.devices
    await desk(Acting.APPLY, Run((one,)))
    desk.bindings.unlink()
    assert actions(await desk(Acting.REVOKE, Run((one,)))) == ["other"]
    assert actions(await desk(Acting.REVOKE, Run((one,), force=True))) == ["revoke"]
    assert actions(await desk()) == ["revoked", "write", "write"]
    assert secret(1) not in cloud.tokens_given().values()


async def test_pages_that_repeat_end(cloud: Particle, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    once = ParticleCloud.devices

    async def always_the_first(self: ParticleCloud, _page: int) -> tuple[list[Device], bool]:
        return (await once(self, 1))[0], True

    monkeypatch.setattr(ParticleCloud, "devices", always_the_first)
    assert actions(await desk()) == ["write"] * 3
    assert cloud.count(Call.DEVICES) == 2
