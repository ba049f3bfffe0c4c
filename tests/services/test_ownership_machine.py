"""Walks through everything that may happen to static tokens, against Postgres, beside a model in plain Python."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from provserver.core.authentication import Denial
from provserver.core.authorization import Principal, Role
from provserver.core.limits import Buckets
from provserver.core.model import Authenticated
from provserver.errors import Conflict, Forbidden, NotFound, Refused
from provserver.services.access import Access
from provserver.services.claiming import Claimed, Claiming, ClaimLimits
from provserver.services.data import Data
from provserver.services.devices import Devices
from provserver.services.handover import Handover
from provserver.store import keyfile
from provserver.store.database import Database
from tests.services.conftest import PEER
from tests.services.ownership import Estate, Token

Result = TypeVar("Result")

MAKER = "brand"
PATHS = {
    "root": ("root",),
    "brand": ("root", "brand"),
    "anna": ("root", "brand", "anna"),
    "ben": ("root", "brand", "ben"),
    "cleo": ("root", "cleo"),
    "foreign": ("foreign",),
    "dora": ("foreign", "dora"),
}
TABLES = (
    "static_token",
    "device",
    "credentials",
    "attribute",
    "telemetry",
    "claim",
    "pending_claim",
    "audit",
    "outbox",
)

organizations = st.sampled_from(sorted(PATHS))
roles = st.sampled_from([Role.STAFF, Role.USER, None])  # None: an API key with all permissions
people = st.tuples(organizations, roles)
tokens = Bundle[Token]("tokens")


@dataclass
class Expected:
    """What a static token should be like. holder: the organization that has its device, or would."""

    token: Token
    deleted: bool = False
    claimed: bool = False
    device: bool = False
    data: bool = False
    holder: str = MAKER
    owner: tuple[str, Role] | None = None
    history: list[tuple[str, str, str]] = field(default_factory=list)

    def give(self, holder: str, owner: tuple[str, Role] | None) -> None:
        self.claimed = self.device = True
        self.holder, self.owner = holder, owner

    def back(self) -> None:
        self.claimed = self.data = False
        self.holder, self.owner = MAKER, None


class World:
    """The services on a database and a loop of their own."""

    def __init__(self, url: str, keys: Path) -> None:
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.run(self._open(url, keys))

    async def _open(self, url: str, keys: Path) -> None:
        self.database = Database(url, size=2, serving=True)
        await self.database.open()
        self.keys = keyfile.load_or_create(keys)
        self.estate = await Estate.make(self.database, self.keys)
        no_limit = ClaimLimits(Buckets(10**9, 10**9), Buckets(10**9, 10**9))
        self.claiming = Claiming(self.database, self.keys, no_limit)
        self.handover = Handover(self.database)
        self.access = Access(self.database, self.keys)
        self.data = Data(self.database, self.keys)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def close(self) -> None:
        self.run(self.data.drain())
        self.run(self.database.close())
        self.runner.close()

    async def rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with self.database.connection() as connection:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]

    async def contents(self) -> list[list[tuple[Any, ...]]]:
        return [sorted(await self.rows(f"SELECT * FROM {table}"), key=repr) for table in TABLES]

    async def outcome(self, work: Awaitable[object]) -> type[Refused] | None:
        """How a move ended. One that was refused has changed nothing."""
        before = await self.contents()
        try:
            await work
        except Refused as refused:
            assert await self.contents() == before
            return type(refused)
        return None


class Ownership(RuleBasedStateMachine):
    """A manufacturer, two customers, and others who should get nothing."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[UUID, Expected] = {}

    @property
    def estate(self) -> Estate:
        return self.world.estate

    def principal(self, who: tuple[str, Role | None]) -> Principal:
        name, role = who
        return self.estate.key(name) if role is None else self.estate.who(name, role)

    def moved(self, expected: Expected, action: str, who: tuple[str, Role | None], where: str) -> None:
        expected.history.append((action, self.principal(who).actor, where))

    def check(self, work: Coroutine[Any, Any, object], refusal: type[Refused] | None) -> bool:
        """Have a move made; it must end as expected. Whether it was done."""
        outcome = self.world.run(self.world.outcome(work))
        assert outcome is refusal
        return outcome is None

    @initialize(target=tokens)
    def begin(self) -> Any:
        fresh, used = self._make(), self._make()
        self.send(used)
        self.claim(used, ("anna", Role.USER), with_number=True)
        return multiple(fresh, used)

    @precondition(lambda self: len(self.expected) < 4)
    @rule(target=tokens)
    def make(self) -> Token:
        return self._make()

    def _make(self) -> Token:
        token = self.world.run(self.estate.token(MAKER, metadata={"Serial": "1"}))
        self.expected[token.id] = Expected(token)
        return token

    @rule(token=tokens)
    def connect(self, token: Token) -> None:
        expected = self.expected[token.id]
        found = self.world.run(self.world.access.with_token(token.auth, PEER))
        if expected.deleted:
            assert found is Denial.CREDENTIALS
            return
        assert isinstance(found, Authenticated)
        assert (found.device_id, found.organization_id) == (token.id, self.estate[MAKER])
        expected.device = True

    @rule(token=tokens)
    def send(self, token: Token) -> None:
        expected = self.expected[token.id]
        found = self.world.run(self.world.access.with_token(token.auth, PEER))
        if isinstance(found, Authenticated):
            self.world.run(self.world.data.telemetry(found, b'{"t":1}'))
            expected.device = expected.data = True
        assert isinstance(found, Authenticated) is not expected.deleted

    @rule(token=tokens, who=people, with_number=st.booleans())
    def claim(self, token: Token, who: tuple[str, Role | None], with_number: bool) -> None:
        expected, (name, role) = self.expected[token.id], who
        allowed = MAKER in PATHS[name] and not expected.deleted and not expected.claimed
        code = token.payload if with_number else token.qr
        if self.check(self.world.claiming.claim(self.principal(who), code), None if allowed else NotFound):
            expected.give(name, (name, role) if role else None)
            self.moved(expected, "static_token.claimed", who, name)

    @rule(
        token=tokens,
        names=st.lists(st.sampled_from(["brand", "anna", "ben", "cleo"]), min_size=2, max_size=4, unique=True),
    )
    def claim_at_once(self, token: Token, names: list[str]) -> None:
        expected = self.expected[token.id]
        people = [(name, Role.USER) for name in names]

        async def race() -> list[Any]:
            calls = [self.world.claiming.claim(self.principal(who), token.qr) for who in people]
            return await asyncio.gather(*calls, self.world.access.with_token(token.auth, PEER), return_exceptions=True)

        *results, _ = self.world.run(race())
        winners = [who for who, result in zip(people, results, strict=True) if isinstance(result, Claimed)]
        assert all(isinstance(result, Claimed | NotFound) for result in results)
        may = not expected.deleted and not expected.claimed and bool({"brand", "anna", "ben"}.intersection(names))
        assert len(winners) == may
        expected.device = not expected.deleted
        for name, role in winners:
            expected.give(name, (name, role))
            self.moved(expected, "static_token.claimed", (name, role), name)

    def _back(self, expected: Expected, who: tuple[str, Role | None]) -> type[Refused] | None:
        """What an unclaim should end in."""
        name, role = who
        if expected.deleted or name not in PATHS[expected.holder]:
            return NotFound
        if role is None or expected.owner != who:
            manages = role is not Role.USER
            if name not in PATHS[MAKER] and expected.owner is not None:
                return Forbidden
            if not manages:
                return Forbidden
        return None if expected.claimed else Conflict

    @rule(token=tokens, who=people)
    def unclaim(self, token: Token, who: tuple[str, Role | None]) -> None:
        expected = self.expected[token.id]
        if self.check(self.world.handover.unclaim(self.principal(who), token.id), self._back(expected, who)):
            self.moved(expected, "static_token.unclaimed", who, expected.holder)
            expected.back()

    @rule(token=tokens, who=people)
    def release(self, token: Token, who: tuple[str, Role | None]) -> None:
        expected = self.expected[token.id]
        refusal = self._back(expected, who) if expected.device else NotFound
        if self.check(self.world.handover.release_device(self.principal(who), token.id), refusal):
            self.moved(expected, "static_token.unclaimed", who, expected.holder)
            expected.back()

    def _of_maker(self, expected: Expected, who: tuple[str, Role | None]) -> type[Refused] | None:
        name, role = who
        if role is Role.USER:
            return Forbidden
        return NotFound if expected.deleted or name not in PATHS[MAKER] else None

    @rule(token=tokens, move=st.sampled_from([Handover.unclaim, Handover.release_device]))
    def hand_back(self, token: Token, move: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """As its owner does it."""
        expected = self.expected[token.id]
        if (owner := expected.owner) is not None:
            assert self.check(move(self.world.handover, self.principal(owner), token.id), None)
            self.moved(expected, "static_token.unclaimed", owner, expected.holder)
            expected.back()

    @rule(token=tokens, who=people)
    def disclaim(self, token: Token, who: tuple[str, Role | None]) -> None:
        expected = self.expected[token.id]
        refusal = self._of_maker(expected, who) or (None if expected.claimed else Conflict)
        if self.check(self.world.handover.disclaim(self.principal(who), token.id), refusal):
            self.moved(expected, "static_token.disclaimed", who, expected.holder)
            expected.back()

    @rule(token=tokens, who=people, confirm=st.booleans())
    def delete(self, token: Token, who: tuple[str, Role | None], confirm: bool) -> None:
        expected = self.expected[token.id]
        refusal = self._of_maker(expected, who) or (Conflict if expected.claimed and not confirm else None)
        work = self.world.handover.delete_token(self.principal(who), token.id, confirm=confirm)
        if self.check(work, refusal):
            self.moved(expected, "static_token.deleted", who, expected.holder)
            expected.back()
            expected.device, expected.deleted = False, True

    @rule(token=tokens, who=people, to=people, kept=st.booleans())
    def transfer(self, token: Token, who: tuple[str, Role | None], to: tuple[str, Role | None], kept: bool) -> None:
        expected, (name, role), (to_name, to_role) = self.expected[token.id], who, to
        owner = (to_name, to_role) if to_role else None
        refusal: type[Refused] | None = None
        if role is Role.USER:
            refusal = Forbidden
        elif name not in PATHS[to_name] or name not in PATHS[expected.holder] or not expected.device:
            refusal = NotFound
        elif (expected.holder, expected.owner) == (to_name, owner) or MAKER not in PATHS[to_name]:
            refusal = Conflict
        target: Any = (
            {"to_organization": self.estate[to_name]} if owner is None else {"to_user": self.estate.users[owner]}
        )
        work = self.world.handover.transfer(self.principal(who), token.id, **target, keep_data=kept)
        if self.check(work, refusal):
            expected.data = expected.data and (kept or to_name == expected.holder)
            self.moved(expected, "device.transferred", who, expected.holder)
            if to_name != expected.holder:
                self.moved(expected, "device.received", who, to_name)
            expected.give(to_name, owner)

    @rule(token=tokens, name=organizations)
    def delete_device(self, token: Token, name: str) -> None:
        expected = self.expected[token.id]
        refusal: type[Refused] | None = None
        if not expected.device or name not in PATHS[expected.holder]:
            refusal = NotFound
        elif name not in PATHS[MAKER]:
            refusal = Forbidden
        elif expected.claimed:
            refusal = Conflict
        who = (name, None)
        devices = Devices(self.world.database, self.world.keys, self.estate[name], actor=self.principal(who).actor)
        if self.check(devices.delete(token.id), refusal):
            self.moved(expected, "device.deleted", who, expected.holder)
            expected.back()
            expected.device = False

    @invariant()
    def everything_is_as_expected(self) -> None:
        self.world.run(self._compare())

    async def _compare(self) -> None:
        rows = await self.world.rows(
            "SELECT t.id, t.status, d.id IS NOT NULL, d.holder_id, d.owner_id FROM static_token t"
            " LEFT JOIN device d ON d.id = t.id WHERE t.id = ANY($1::uuid[])",
            list(self.expected),
        )
        assert {row[0]: row[1:] for row in rows} == {
            id_: (
                "CLAIMED" if each.claimed else "UNCLAIMED",
                each.device,
                None if each.holder == MAKER else self.estate[each.holder],
                self.estate.users[each.owner] if each.owner else None,
            )
            for id_, each in self.expected.items()
            if not each.deleted
        }
        await self._compare_rests()
        await self._compare_sight()
        await self._compare_histories()

    async def _compare_rests(self) -> None:
        """One credentials row of each device; data and attributes of those who have it, and of nobody else."""
        for table, there in (("credentials", "device"), ("telemetry", "data"), ("device", "device")):
            column = "id" if table == "device" else "device_id"
            rows = await self.world.rows(
                f"SELECT {column} FROM {table} WHERE {column} = ANY($1::uuid[])", list(self.expected)
            )
            assert sorted(rows) == sorted((id_,) for id_, each in self.expected.items() if getattr(each, there))
        attributes = await self.world.rows(
            "SELECT device_id, count(*) FROM attribute WHERE device_id = ANY($1::uuid[]) GROUP BY 1",
            list(self.expected),
        )
        assert sorted(attributes) == sorted((id_, 2) for id_, each in self.expected.items() if each.device)

    async def _compare_sight(self) -> None:
        for name in PATHS:
            seen = {
                device.id: device
                async for device in Devices(self.world.database, self.world.keys, self.estate[name]).stream()
            }
            assert seen.keys() & self.expected.keys() == {
                id_ for id_, each in self.expected.items() if each.device and name in PATHS[each.holder]
            }
            for id_ in seen.keys() & self.expected.keys():
                device, each = seen[id_], self.expected[id_]
                assert device.static_token == ("CLAIMED" if each.claimed else "UNCLAIMED")
                assert device.holder == each.holder
                assert (device.maker is None) == (name not in PATHS[MAKER])

    async def _compare_histories(self) -> None:
        rows = await self.world.rows(
            "SELECT subject_id, action, actor, organization_id FROM audit WHERE subject_id = ANY($1::text[])"
            " ORDER BY at, id",
            [str(id_) for id_ in self.expected],
        )
        found: dict[str, list[tuple[str, str, UUID]]] = {str(id_): [] for id_ in self.expected}
        for subject, *entry in rows:
            found[subject].append((entry[0], entry[1], entry[2]))
        assert {key: sorted(entries) for key, entries in found.items()} == {  # of one millisecond, any may be first
            str(id_): sorted((action, actor, self.estate[where]) for action, actor, where in each.history)
            for id_, each in self.expected.items()
        }

    def teardown(self) -> None:
        self.world.run(self._clear())

    async def _clear(self) -> None:
        async with self.world.database.transaction() as connection:
            await connection.execute("SET LOCAL lock_timeout = 0")  # an autovacuum may be at one of them
            await connection.execute("ALTER TABLE audit DISABLE TRIGGER USER")  # it refuses to be emptied
            await connection.execute(f"TRUNCATE {', '.join(TABLES)}, static_token_value")
            await connection.execute("ALTER TABLE audit ENABLE TRIGGER USER")


def test_ownership(database_url: str, tmp_path: Path) -> None:
    world = World(database_url, tmp_path / "keys.json")
    machine = type("Machine", (Ownership,), {"world": world})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=12,  # each walks through most of what there is
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
    finally:
        world.close()
