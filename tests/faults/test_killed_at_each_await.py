"""The process is killed at each await of provisioning; its devices ask another one again, with their nonces.

So do those that come by a certificate chain, a static token or a WiFi session's token, and are provisioned by that.
"""

import asyncio
import base64
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firmware_sim.sealed import Envelope
from provserver.core import sealed
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.model import KeyBudget, Peer, ProvisionStrategy, ReprovisionPolicy, Transport
from provserver.core.wifisession import WifiState
from provserver.errors import Outcome
from provserver.services.approvals import Approvals
from provserver.services.issuing import IssuingAuthorities
from provserver.services.organizations import Organizations
from provserver.services.profiles import ProfileChange
from provserver.services.request_keys import RequestKeys
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.services.wifi_sessions import Wanted, WifiSessions, settle
from tests.conftest import Space
from tests.faults import oracle
from tests.faults.killed import NEVER_PASSED, NOT_ON_THE_WAY, ROOTS, Desk
from tests.faults.points import AFTER, BEFORE, points, reached
from tests.pki import Authority, Issued
from tests.requests import csr, text
from tests.services.conftest import Fleet

PEER = Peer(Transport.COAP, "192.0.2.8")

_TRIGGER = """
CREATE SEQUENCE cuts;
CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'credentials' THEN
        IF OLD.pending AND EXISTS (SELECT FROM device WHERE id = OLD.device_id AND name LIKE 'overtaken-%')
            AND nextval('cuts') = 1 THEN
            RETURN NULL;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.name LIKE 'unusable-%' THEN
            RAISE division_by_zero;
        END IF;
    ELSIF NEW.name LIKE 'cut-%' AND nextval('cuts') = 1 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    ELSIF NEW.name LIKE 'failing-%' THEN
        RAISE division_by_zero;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER obstacle BEFORE INSERT OR UPDATE ON device FOR EACH ROW EXECUTE FUNCTION obstacle();
CREATE TRIGGER obstacle BEFORE UPDATE ON credentials FOR EACH ROW EXECUTE FUNCTION obstacle();
"""
"""A statement that breaks its connection, and one that finds its row as if another process had been faster, each the
first time; and those that fail for a row, whenever they come.
"""


_MISCOUNTED = """
SELECT FROM provision_key k
WHERE max_uses IS NOT NULL AND uses <> (SELECT count(*) FROM device d WHERE d.profile_id = k.profile_id)
"""
_UNUSED = "SELECT FROM provision_approval a JOIN device d ON d.profile_id = a.profile_id AND d.name = a.device_name"

_UNFINISHED = """
SELECT w.id, w.state, c.*, t.* FROM wifi_session w, LATERAL (
    SELECT count(*) AS credentials, count(*) FILTER (WHERE first_used_at IS NOT NULL AND NOT pending
        AND (id_digest = w.id_digest OR created_at = w.issued_at)) AS own FROM credentials WHERE device_id = w.device_id
) AS c, LATERAL (
    SELECT array_agg(type ORDER BY type) AS told FROM outbox
    WHERE payload->>'wifiSessionId' = w.id::text OR device_id = w.device_id AND type = 'device.first_connected'
) AS t
WHERE CASE w.state
    WHEN 'SUCCESS' THEN (credentials, own, told, made <> again, sealed IS NULL, error IS NULL, ended_at IS NULL)
        IS DISTINCT FROM (1, 1, '{device.first_connected,wifi.provisioned}', true, true, true, false)
    WHEN 'FAILED' THEN (credentials, told, made, sealed IS NULL, ended_at IS NULL)
        IS DISTINCT FROM (0, '{wifi.failed}', false, true, false)
    ELSE (credentials, told, made, sealed IS NULL, ended_at IS NULL) IS DISTINCT FROM (0, NULL, false, false, true)
END
"""
"""WiFi sessions that are half done; devices that came back by one had never been connected before."""


@dataclass(frozen=True)
class Ask:
    """What a device does (see `Desk.answer`), the same every time. expected: what becomes of it in the end.

    envelope: what opens its answers.
    """

    what: dict[str, Any]
    expected: Outcome = Outcome.SUCCESS
    envelope: Envelope | None = None

    def read(self, body: str) -> Any:
        """What stands in an answer."""
        if "request" not in self.what:
            return body
        return json.loads(self.envelope.answer(body.encode()) if self.envelope else body)


Rounds = list[list[Ask]]
"""What devices ask: those of a round at once, when the round before has its answers."""


@dataclass
class Life:
    """What was seen of a process. answers: by round and place. passed: points and moments. status: the exit code."""

    answers: dict[tuple[int, int], tuple[Outcome, str]] = field(default_factory=dict)
    passed: list[tuple[str, str]] = field(default_factory=list)
    status: int | None = None


class World:
    """A database, a process on it that dies, and those that come after it."""

    def __init__(self, space: Space, dsn: str, process: asyncio.subprocess.Process) -> None:
        self.space = space
        self.told: dict[str, str] = {}
        self.tokens: list[str] = []
        self.sessions: dict[UUID, WifiState] = {}
        self._dsn = dsn
        self._process = process
        self._numbers = itertools.count(1)

    async def prepare(self) -> None:
        async with self.space.database.connection() as connection:
            await connection.execute(_TRIGGER)
        self.open = await Fleet.make(self.space, name="open")
        check, rotate = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES, ReprovisionPolicy.ROTATE
        self.checked = await Fleet.make(self.space, check, name="checked")
        self.rotating = await Fleet.make(self.space, policy=rotate, name="rotating")
        self.certified = await Fleet.make(self.space, name="certified")
        database, keys, organization_id = self.space.database, self.space.keys, self.space.organization_id
        await IssuingAuthorities(database, keys, organization_id).create("certified")
        create = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
        changes = [ProfileChange(name=name, strategy=create, approval=True) for name in ("approving", "both")]
        self.approving, self.both = [Fleet(self.space, *await self.space.profiles.create(each)) for each in changes]
        await self.space.profiles.set_budget("both", self.both.pair.key, KeyBudget(max_uses=1_000_000))
        self.operator = Principal(OPERATOR, organization_id)
        self.key = await RequestKeys(database, keys).create(self.operator)
        self.factory, self.listed = [await self._trust(name) for name in ("chained", "listed")]
        await self._make_tokens()
        self.template = await self.space.value("SELECT template_id FROM device_profile WHERE name = 'open'")
        organizations = Organizations(database)
        await organizations.create(self.operator, "customer", device_quota=100_000)
        await organizations.create(self.operator, "full", device_quota=0)

    async def _trust(self, name: str) -> Authority:
        """What issues devices' certificates, below a CA that a profile trusts: `listed` with a revocation list."""
        root = Authority.root(f"{name} root")
        change = ProfileChange(
            name=name,
            strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN,
            authorities=[root.der],
            crls=[root.crl()] if name == "listed" else None,
        )
        await self.space.profiles.create_keyless(change)
        return root.intermediate(name)

    async def _make_tokens(self) -> None:
        """Static tokens; that of `failing` cannot become a device."""
        tokens = StaticTokens(self.space.database, self.space.keys)
        await tokens.make(self.operator, "open", 1_000)
        await self.space.rows("UPDATE static_token SET name = 'failing-token' WHERE number = 1")
        stored = [token async for token in tokens.stream(self.operator, Selection())]
        self.failing, *self.tokens = [token.auth_token for token in stored]

    def name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def ask(self, fleet: Fleet, name: str | None, expected: Outcome = Outcome.SUCCESS, **members: object) -> Ask:
        """A device's request, with a nonce of its own."""
        request = {
            "provisionDeviceKey": fleet.pair.key,
            "provisionDeviceSecret": fleet.pair.secret,
            "deviceName": name,
            "requestNonce": f"{next(self._numbers):032x}",
        }
        return Ask({"request": json.dumps(request | members)}, expected)

    def seal(self, ask: Ask) -> Ask:
        """The same request, sealed."""
        envelope = Envelope(sealed.encode(self.key.public_key), b"d" * 32)
        request = envelope.request(json.loads(ask.what["request"])).decode()
        return Ask({"request": request}, ask.expected, envelope)

    async def token(self, end: WifiState = WifiState.SUCCESS, **wanted: str) -> str:
        """That of a WiFi session. end: what is to become of it."""
        made = await WifiSessions(self.space.database, self.space.keys).request(self.operator, Wanted(**wanted))
        self.sessions[made.session.id] = end
        return made.token

    async def live(self, rounds: Rounds, point: str = "", moment: str = "") -> Life:
        """A process that is asked, and dies there."""
        async with self.space.database.connection() as connection:
            await connection.execute("ALTER SEQUENCE cuts RESTART")
        command: dict[str, object] = {"rounds": [[ask.what for ask in round_] for round_ in rounds]}
        if point:
            command |= {"point": point, "moment": moment}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        life = Life()
        while life.status is None:
            kind, *what = json.loads(await self._process.stdout.readline())
            match kind:
                case "answer":
                    (number, place), outcome, body = what
                    life.answers[number, place] = Outcome(outcome), body
                case "passed":
                    life.passed.append((what[0], what[1]))
                case "over":
                    life.status = what[0]
        return life

    async def repeat(self, rounds: Rounds, life: Life) -> None:
        """Devices ask again, those too that have their answer: each gets what it had, or has it now."""
        desk = Desk(self.space.database, self.space.keys, Transport.COAP, "192.0.2.8")
        for number, round_ in enumerate(rounds):
            answers = await asyncio.gather(*(desk.answer(ask.what) for ask in round_))
            for place, (ask, (said, body)) in enumerate(zip(round_, answers, strict=True)):
                reply = ask.read(body)
                assert Outcome(said) is ask.expected, reply
                outcome, heard = life.answers.get((number, place), (ask.expected, body))
                assert outcome is ask.expected
                if outcome is Outcome.SUCCESS:
                    assert ask.read(heard) == reply, "another answer than before"
                    if "request" in ask.what and reply["credentialsType"] == "ACCESS_TOKEN":
                        self.told[reply["deviceName"]] = reply["credentialsValue"]
        await desk.drain()

    async def check(self) -> None:
        await oracle.check(self._dsn, self.space.keys, self.told, once=False)
        assert not await self.space.rows(_MISCOUNTED), "a key's uses are not those of its devices"
        assert not await self.space.rows(_UNUSED), "an approval outlived the device that it was for"
        async with self.space.database.transaction() as connection:
            await settle(connection)
        rows = await self.space.rows("SELECT id, state FROM wifi_session")
        wrong = [row for row in rows if self.sessions[row["id"]] != row["state"]]
        assert not wrong, "a WiFi session has ended otherwise than it should"
        assert not await self.space.rows(_UNFINISHED), "a WiFi session is half done"


@pytest.fixture
async def world(space: Space, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    command = [sys.executable, "-m", "tests.faults.killed", database_url, str(tmp_path / "keys.json")]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        world = World(space, database_url, process)
        await world.prepare()
        yield world
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        async with space.database.connection() as connection:
            await connection.execute("DROP SEQUENCE IF EXISTS cuts")
    assert b"Traceback" not in errors, errors.decode()


async def made(world: World) -> Rounds:
    """Devices that are made: one, then a group, of it one without a name, and one that brings its token."""
    brought = world.ask(world.open, world.name("bringing"), credentialsType="ACCESS_TOKEN", token=world.name("token"))
    return [[world.ask(world.open, world.name("new")), world.ask(world.open, None), brought]]


async def known(world: World) -> Rounds:
    """Devices that are there: imported, rearmed, and replacing their credentials."""
    imported, rearmed, rotating = (world.name(kind) for kind in ("imported", "rearmed", "rotating"))
    await world.checked.import_(imported)
    await world.open.ask(rearmed)
    await world.space.devices.rearm(rearmed)
    await world.rotating.ask(rotating)
    asks = [(world.checked, imported), (world.open, rearmed), (world.rotating, rotating)]
    return [[world.ask(fleet, name) for fleet, name in asks]]


async def repeated(world: World) -> Rounds:
    """Devices that had their answer from another process."""
    asks = [world.ask(world.open, world.name("repeating")), world.ask(world.open, None)]
    await world.repeat([asks], Life())
    return [asks]


async def refused(world: World) -> Rounds:
    """Devices that get nothing: secret and key are wrong, a name is taken, one is not known."""
    taken = world.name("taken")
    await world.open.ask(taken)
    return [
        [
            world.ask(world.open, world.name("wrong"), Outcome.NOT_FOUND, provisionDeviceSecret="wrong"),
            world.ask(world.open, world.name("wrong"), Outcome.NOT_FOUND, provisionDeviceKey="unknown"),
            world.ask(world.open, taken, Outcome.FAILURE),
            world.ask(world.checked, world.name("stranger"), Outcome.FAILURE),
        ]
    ]


async def cut(world: World) -> Rounds:
    """A device during whose statement the connection breaks."""
    return [[world.ask(world.open, world.name("cut"))]]


async def failing(world: World) -> Rounds:
    """A group that fails as a whole, for one of it."""
    asks = [(kind, Outcome.UNAVAILABLE if kind == "failing" else Outcome.SUCCESS) for kind in ("a", "failing", "b")]
    return [[world.ask(world.open, world.name("first")), *(world.ask(world.open, world.name(k), o) for k, o in asks)]]


async def sealed_up(world: World) -> Rounds:
    """A device whose request is sealed."""
    return [[world.seal(world.ask(world.open, world.name("sealed")))]]


async def certified(world: World) -> Rounds:
    """A device that has a certificate issued."""
    ask = world.ask(world.certified, world.name("certified"), credentialsType="X509_CERTIFICATE", csr=text(csr()))
    return [[ask]]


async def metered(world: World) -> Rounds:
    """Three devices with a key that is good for two, and another beside them."""
    name = world.name("metered")
    fleet = await Fleet.make(world.space, name=name)
    await world.space.profiles.set_budget(name, fleet.pair.key, KeyBudget(max_uses=2))
    within = [world.ask(fleet, world.name("within")) for _ in range(2)]
    return [[*within, world.ask(fleet, world.name("over"), Outcome.NOT_FOUND), world.ask(world.open, None)]]


async def approving(world: World) -> Rounds:
    """Devices that an operator must accept: two are accepted, one waits."""
    asks = []
    for fleet in (world.approving, world.both):
        name = world.name("accepted")
        asks.append(world.ask(fleet, name))
        answer = await world.space.provisioning.answer(asks[-1].what["request"].encode(), PEER)
        assert answer.outcome is Outcome.PENDING
        await Approvals(world.space.database).decide(world.operator, name, accept=True)
    return [[*asks, world.ask(world.approving, world.name("waiting"), Outcome.PENDING)]]


def _chain(device: Issued, expected: Outcome = Outcome.SUCCESS, **how: object) -> Ask:
    """A device presents its certificate and its issuer's."""
    return Ask({"chain": [base64.b64encode(der).decode() for der in device.chain]} | how, expected)


async def enrolling(world: World) -> Rounds:
    """Devices that are made by their chains, and come back: each by a connection, and as CONNECT has it."""
    await world.space.rows("DELETE FROM chain_issuer")
    asks = [_chain(world.factory.leaf(world.name("chained"))), _chain(world.factory.leaf(world.name("chained")))]
    stranger = Authority.root().leaf("stranger")
    return [[*asks, _chain(stranger, Outcome.FAILURE)], [asks[0], Ask(asks[1].what | {"connect": True})]]


async def vouched_for(world: World) -> Rounds:
    """A device that is there and comes back where its CA says who is revoked, and where nobody looks."""
    known = world.listed.leaf(world.name("listed"))
    await world.repeat([[_chain(known)]], Life())
    return [[_chain(known)], [Ask({"certificate": base64.b64encode(known.der).decode()})]]


async def alone(world: World) -> Rounds:
    """The same of one that shows its own certificate alone, and nobody knows any more who issued it."""
    known = world.listed.leaf(world.name("alone"))
    await world.repeat([[_chain(known)]], Life())
    await world.space.rows("DELETE FROM chain_issuer")
    return [[Ask({"chain": [base64.b64encode(known.der).decode()]}, Outcome.FAILURE)]]


async def static(world: World) -> Rounds:
    """Static tokens that are used for the first time: one, then a group of which one fails; and no token at all."""
    first, second, third = (Ask({"token": world.tokens.pop()}) for _ in range(3))
    failing = Ask({"token": world.failing}, Outcome.UNAVAILABLE)
    strangers = [Ask({"token": world.name("no token")} | how, Outcome.FAILURE) for how in ({}, {"rotating": True})]
    return [[first, failing, second, Ask(third.what | {"connect": True}), *strangers], [first, second]]


async def returning(world: World) -> Rounds:
    """Provisioned devices that use their tokens for the first time: one, then a group of which one fails; and keys."""
    names = [world.name(kind) for kind in ("coming", "coming", "unusable", "keyed")]
    tokens = [(await world.open.ask(name))["credentialsValue"] for name in names]
    asks = [Ask({"token": token}) for token in tokens[:2]]
    unusable = Ask({"token": tokens[2]}, Outcome.UNAVAILABLE)
    identity = str((await world.space.devices.show(names[3])).device.id)
    keys = [Ask({"identity": identity}), Ask({"identity": "nobody"}, Outcome.FAILURE)]
    return [[asks[0], unusable, asks[1]], keys]


async def bound(world: World) -> Rounds:
    """Devices of WiFi sessions that know the template, for an organization with a quota: two at once."""
    tokens = [await world.token(organization="customer", template=world.template) for _ in range(2)]
    return [[Ask({"token": tokens[0]}), Ask({"token": tokens[1], "connect": True})]]


async def unbound(world: World) -> Rounds:
    """Devices that have to say their template: one of which there is none, and one that is made of it."""
    good, bad = [await world.token(end, organization="customer") for end in (WifiState.SUCCESS, WifiState.FAILED)]
    known = Ask({"token": good, "template": world.template})
    return [[known, Ask({"token": bad, "template": "TMPLnowhere00"}, Outcome.FAILURE)]]


async def full(world: World) -> Rounds:
    """A device whose organization has no room for it, and another that it holds up in nothing."""
    quota = "UPDATE organization SET device_quota = $1 WHERE name = 'full'"
    await world.space.rows(quota, 1)
    token = await world.token(WifiState.WAITING, organization="full", template=world.template)
    await world.space.rows(quota, 0)
    other = await world.token(template=world.template)
    return [[Ask({"token": token}, Outcome.UNAVAILABLE), Ask({"token": other})]]


async def again(world: World) -> Rounds:
    """Devices that come back with their next tokens: of one, another process has just seen that."""
    asks = []
    for name in (world.name("again"), world.name("overtaken")):
        await world.open.ask(name)
        asks.append([Ask({"token": await world.token(device=name)})])
    return [*asks, asks[1]]


Scene = Callable[[World], Awaitable[Rounds]]

SCENES: Sequence[Scene] = (
    *(made, known, repeated, refused, cut, failing),
    *(sealed_up, certified, metered, approving),
    *(enrolling, vouched_for, alone, static, returning),
    *(bound, unbound, full, again),
)

ONCE_MORE: Mapping[Scene, Sequence[str]] = {again: ("services.access:Access._use#", "store.access:use#")}
"""Awaits that a scene dies at although another has: what is taken over there is not the same."""

TRIES = 5
"""Whether something has to be waited for, nobody can tell beforehand: so some moments do not come each time."""


async def test_a_process_killed_at_any_await_of_provisioning_leaves_nothing_half_done(world: World) -> None:
    passed: set[tuple[str, str]] = set()
    for scene in SCENES:
        rounds = await scene(world)
        life = await world.live(rounds)
        assert life.status == 0
        await world.repeat(rounds, life)
        await world.check()
        for point, moment in life.passed:
            if (point, moment) in passed and not point.startswith(tuple(ONCE_MORE.get(scene, ()))):
                continue
            for _ in range(TRIES):
                rounds = await scene(world)
                life = await world.live(rounds, point, moment)
                await world.repeat(rounds, life)
                if life.status == -signal.SIGKILL:
                    passed.add((point, moment))
                    break
                assert life.status == 0
        await world.check()
    wrong = {point for point, _ in passed}.intersection(NEVER_PASSED)
    assert not wrong, f"scenes come to these awaits: {wrong}. Have NEVER_PASSED say so."
    found = points(reached(*ROOTS, without=NOT_ON_THE_WAY))
    ways = [(point, moment) for point in found if point not in NEVER_PASSED for moment in (BEFORE, AFTER)]
    missing = [f"{moment} {point}" for point, moment in ways if (point, moment) not in passed]
    assert not missing, f"no scene comes to these awaits of provisioning: {missing}. Add one that does."
