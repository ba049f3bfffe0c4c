"""Commands against the strict stand-in, which is in the test's loop: so they are run in threads of their own."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provserver.admin import client
from provserver.admin.client import Answer, Client
from provserver.cli import particle
from provserver.core.particle import UNANSWERED, Acting, Run
from provserver.errors import Refused, Unavailable
from tests.cli.conftest import Cli, Done
from tests.support.particle import PRODUCT, TOKEN, Call, How, Particle

SECRETS = [f"{'t' * 30}{number:02}" for number in range(4)]


@pytest.fixture
async def cloud() -> AsyncIterator[Particle]:
    async with Particle() as made:
        made.add(1, 2, 3)
        yield made


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an export, in which commands run that may ask this machine."""
    (tmp_path / "tokens.csv").write_text("Device Token\n" + "\n".join(SECRETS) + "\n")
    (tmp_path / "access.txt").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("PROVSERVER_OUTGOING_PRIVATE", "127.0.0.1")
    monkeypatch.delenv("PARTICLE_ACCESS_TOKEN", raising=False)
    return tmp_path


async def csv(cloud: Particle, files: Path, acting: str, *more: str, token: tuple[str, ...] | None = None) -> Done:
    access = ("--token-file", str(files / "access.txt")) if token is None else token
    where = ("--product", PRODUCT, "--url", cloud.url, "--bindings", str(files / "bindings.jsonl"))
    words = ("particle", "csv", acting, "--csv", str(files / "tokens.csv"), *where, *access, *more)
    return await asyncio.to_thread(Cli().run, *words)


async def test_from_an_export_without_a_server(cloud: Particle, files: Path) -> None:
    planned = await csv(cloud, files, "plan")
    assert planned.code == 5
    assert planned.out.splitlines()[0] == "+ e00fce680000000000000001 (sensor-1): tokens.csv:2  write"
    assert "apply makes it" in planned.err
    applied = await csv(cloud, files, "apply", "--json")
    assert (applied.code, json.loads(applied.out)["counts"]) == (0, {"write": 3})
    given = cloud.tokens_given()
    assert list(given.values()) == SECRETS[:3]
    cloud.reorder()
    again = await csv(cloud, files, "apply")
    assert (again.code, again.out, cloud.tokens_given()) == (0, "", given)
    assert f"3 devices of {PRODUCT}: 3 keep." in again.err
    assert (await csv(cloud, files, "plan")).code == 0
    assert (await csv(cloud, files, "verify")).code == 0
    assert stat.S_IMODE((files / "bindings.jsonl").stat().st_mode) == 0o600
    (one, *_) = cloud.devices
    revoked = await csv(cloud, files, "revoke", "--device", one)
    assert (revoked.code, one in cloud.tokens_given()) == (0, False)
    printed = "".join(each.out + each.err for each in (planned, applied, again, revoked))
    assert not any(secret in printed for secret in (*SECRETS, TOKEN))


async def test_what_is_foreign_is_shown_masked_and_ends_in_1(cloud: Particle, files: Path) -> None:
    await csv(cloud, files, "apply")
    (one, *_) = cloud.devices
    cloud.data(one)["blynk_token"] = "somebody-else-s"
    for acting in ("plan", "verify"):
        done = await csv(cloud, files, acting)
        assert done.code == 1
        assert done.out.startswith(f"! {one} (sensor-1): sha256:")
        assert "--force" in done.out
        assert "somebody" not in done.out + done.err
    forced = await csv(cloud, files, "apply", "--force")
    assert (forced.code, forced.out[:1]) == (0, "~")


async def test_exit_codes_say_what_is_wrong(cloud: Particle, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "particle token create" in await _refused(cloud, files, 3, token=())
    (files / "access.txt").write_text("wrong-0123456789")
    assert "401" in await _refused(cloud, files, 3)
    monkeypatch.setenv("PARTICLE_ACCESS_TOKEN", TOKEN)
    cloud.fail(Call.DEVICES, 1, How.FORBIDDEN)
    assert "403" in await _refused(cloud, files, 1, token=())
    monkeypatch.delenv("PARTICLE_ACCESS_TOKEN")
    (files / "access.txt").write_text(TOKEN)
    (files / "tokens.csv").write_text(f"Device Token\n{SECRETS[0]}\n{SECRETS[0]}\n")
    said = await _refused(cloud, files, 1)
    assert "two devices" in said
    assert SECRETS[0] not in said
    assert (await csv(cloud, files, "revoke")).code == 1
    monkeypatch.delenv("PROVSERVER_OUTGOING_PRIVATE")
    (files / "tokens.csv").write_text(f"Device Token\n{SECRETS[0]}\n")
    assert "outgoing_private" in await _refused(cloud, files, 1)


async def _refused(cloud: Particle, files: Path, code: int, **more: Any) -> str:
    done = await csv(cloud, files, "apply", **more)
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    return done.err


async def test_on_a_database_that_no_server_serves(own_database_url: str, cloud: Particle, files: Path) -> None:
    cli = Cli("--data-dir", str(files / "data"), "--database-url", own_database_url)

    async def run(*words: str) -> Any:
        return await asyncio.to_thread(cli.json, *words)

    profile = f"particle-{os.urandom(4).hex()}"
    await run("profile", "create", profile)
    await run("token", "create", "--profile", profile, "--count", "3")
    token = ("--token-file", str(files / "access.txt"))
    made = await run("particle", "connect", "--profile", profile, "--product", PRODUCT, "--url", cloud.url, *token)
    assert TOKEN not in str(made)
    assert made["id"] in [each["id"] for each in await run("particle", "list")]
    tested = await asyncio.to_thread(cli.run, "particle", "test", profile)
    assert (tested.code, tested.out.count("yes")) == (0, 2)
    assert "There is no ledger" in tested.err
    assert "The access token ends: 20" in tested.err
    cloud.fail(Call.DEVICES, 1, How.FORBIDDEN)
    tested = await asyncio.to_thread(cli.run, "particle", "test", profile, "--json")
    assert (tested.code, json.loads(tested.out)["ready"], TOKEN in tested.out) == (1, False, False)
    cloud.fail(Call.DEVICES, 1)
    assert "HTTP 500" in await asyncio.to_thread(partial(cli.refused, "particle", "test", profile, code=4))
    planned = await asyncio.to_thread(cli.run, "particle", "plan", profile, "--exported")
    assert (planned.code, planned.out.count("+ ")) == (5, 3), planned
    report = await run("particle", "apply", profile)
    assert report["counts"] == {"write": 3}
    assert len(set(cloud.tokens_given().values())) == 3
    assert (await run("particle", "verify", profile))["counts"] == {"keep": 3}
    (one, *_) = cloud.devices
    revoked = await run("particle", "revoke", profile, "--device", one)
    assert revoked["counts"] == {"revoke": 1}
    updated = await run("particle", "update", profile, "--ledger", "other", *token)
    assert (updated["ledger"], (await run("particle", "show", profile))["revision"]) == ("other", 2)
    refused = await asyncio.to_thread(cli.refused, "particle", "update", profile, "--url", "https://elsewhere.example")
    assert "give it again" in refused
    await run("particle", "disconnect", profile)
    assert "no Particle product" in await asyncio.to_thread(cli.refused, "particle", "show", profile)


def _job(**members: Any) -> dict[str, Any]:
    named = ("error", "dueAt", "result", "remedy", "total")
    return {"id": "018f0000-0000-7000-8000-000000000000", "done": 0, "tries": 1} | dict.fromkeys(named) | members


def _client(*answers: dict[str, Any] | int) -> Client:
    """Of a server that answers with these, one after the other: jobs, or the status of a fault."""
    left = list(answers)

    @asynccontextmanager
    async def exchange(method: str, target: str, headers: Any, body: Any) -> AsyncIterator[Answer]:  # noqa: ARG001
        answer = left.pop(0)
        content = {"status": answer, "code": "unavailable", "detail": "Away."} if isinstance(answer, int) else answer
        kind = "application/problem+json" if isinstance(answer, int) else "application/json"

        async def content_() -> AsyncIterator[bytes]:
            yield json.dumps({"job": content} if method == "POST" else content).encode()

        yield Answer(answer if isinstance(answer, int) else 200, {"content-type": kind}, content_())

    return Client(exchange)


async def test_who_waits_is_told_why_and_how_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "POLL_INTERVAL", 0)
    waiting = _job(state="waiting", error="Particle answers HTTP 500", dueAt="2030-01-01T00:00:00Z")

    async def ends(*answers: dict[str, Any] | int) -> Any:
        return await particle._job(_client(*answers), "p", Acting.PLAN, Run(), quiet=True)

    report: dict[str, Any] = {"counts": {}}
    assert await ends(_job(state="waiting"), waiting, waiting, _job(state="done", result=report)) == report
    told = capsys.readouterr().err
    assert told.count("HTTP 500") == 1
    assert "2030-01-01" in told
    with pytest.raises(Unavailable, match="HTTP 500"):
        await ends(_job(state="failed", error="Particle answers HTTP 500.", remedy=UNANSWERED))
    with pytest.raises(Refused, match="401"):
        await ends(_job(state="failed", error="Particle answers HTTP 401.", remedy="Another."))
    with pytest.raises(Refused, match="job show"):
        await ends(_job(state="cancelled"))
    with pytest.raises(Unavailable, match="job watch"):
        await ends(_job(state="running"), 503)
