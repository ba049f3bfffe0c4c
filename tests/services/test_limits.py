import asyncio
import base64
import itertools
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from provserver.core import credentials as building
from provserver.core.authentication import Denial
from provserver.core.limits import Buckets
from provserver.core.model import (
    Authenticated,
    KeyBudget,
    Peer,
    PreSharedKey,
    ProvisionStrategy,
    ReprovisionPolicy,
    Transport,
)
from provserver.errors import RETRY_AFTER_SECONDS, Outcome
from provserver.services import limits as module
from provserver.services.access import Access
from provserver.services.limits import UNLIMITED, Limits, Rates, Strangers, retry_after
from provserver.services.provisioning import Answer, Provisioning
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet

CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
HERE, THERE = Peer(Transport.HTTP, "192.0.2.7"), Peer(Transport.HTTP, "192.0.2.8")
RATES = Rates(guess_limit=5, guess_interval=3.0, locked_interval=0.2, repeat_limit=3)


GUESSES = itertools.count()


class Clock:
    """A moment that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """Devices ask a process that counts."""

    def __init__(self, fleet: Fleet, rates: Rates = RATES) -> None:
        self.fleet = fleet
        self.clock = Clock()
        self.limits = Limits(rates, self.clock)
        space = fleet.space
        self.provisioning = Provisioning(space.database, space.keys, limits=self.limits)
        self.access = Access(space.database, space.keys, limits=self.limits)

    async def ask(self, name: str | None = None, peer: Peer = HERE, **members: object) -> Answer:
        request = {
            "provisionDeviceKey": self.fleet.pair.key,
            "provisionDeviceSecret": self.fleet.pair.secret,
            "deviceName": name,
        } | members
        body = json.dumps({key: value for key, value in request.items() if value is not None}).encode()
        return await self.provisioning.answer(body, peer, accept_protobuf=False)

    async def guess(self, number: int, peer: Peer = HERE) -> list[Outcome]:
        """What so many wrong secrets at once are told."""
        asked = [self.ask("sensor", peer, provisionDeviceSecret=f"guess {next(GUESSES)}") for _ in range(number)]
        return [answer.outcome for answer in await asyncio.gather(*asked)]

    async def reasons(self) -> "Counter[str]":
        """Of the attempts that were refused."""
        await self.provisioning.drain()
        await self.access.drain()
        rows = await self.fleet.space.rows("SELECT reason FROM attempt WHERE outcome <> 'success'")
        return Counter(row["reason"] for row in rows)


@pytest.fixture
async def site(fleet: Fleet) -> AsyncIterator[Site]:
    made = Site(fleet)
    yield made
    await made.reasons()


# --- guessing


async def test_an_address_may_guess_so_often_and_is_then_heard_at_a_low_rate(site: Site) -> None:
    outcomes = Counter(await site.guess(1_000))

    heard = RATES.guess_limit + 2  # the reserve of a locked address: half of five a second
    assert outcomes == {Outcome.NOT_FOUND: heard, Outcome.LIMITED: 1_000 - heard}
    for _ in range(10):
        site.clock.now += 1
        outcomes += Counter(await site.guess(100))
    assert outcomes[Outcome.NOT_FOUND] <= heard + 10 * (1 / RATES.guess_interval + 1 / RATES.locked_interval)


async def test_so_it_is_when_the_key_is_known_already(site: Site) -> None:
    assert (await site.ask("first")).outcome is Outcome.SUCCESS

    assert Counter(await site.guess(100))[Outcome.NOT_FOUND] == RATES.guess_limit + 2


async def test_the_order_of_answers_does_not_tell_whether_a_key_exists(site: Site) -> None:
    assert (await site.ask("first", THERE)).outcome is Outcome.SUCCESS
    orders = []
    for peer, key in ((HERE, site.fleet.pair.key), (Peer(Transport.HTTP, "192.0.2.9"), "no such key")):
        told: list[tuple[int, Outcome]] = []

        async def guess(number: int, peer: Peer = peer, key: str = key, told: list[Any] = told) -> None:
            secret = f"guess {number}"
            answer = await site.ask("x", peer, provisionDeviceKey=key, provisionDeviceSecret=secret)
            told.append((number, answer.outcome))

        await asyncio.gather(*map(guess, range(60)))
        orders.append(told)
    assert orders[0] == orders[1]


async def test_a_right_secret_among_too_many_guesses_of_one_moment_is_not_told(site: Site) -> None:
    assert (await site.ask("first", THERE)).outcome is Outcome.SUCCESS
    guesses = [site.ask("x", provisionDeviceSecret=f"guess {n}") for n in range(20)]
    *_, last = await asyncio.gather(*guesses, site.ask("second"))

    assert last.outcome is Outcome.LIMITED


async def test_who_waits_may_guess_again(site: Site) -> None:
    await site.guess(100)
    site.clock.now += RATES.guess_interval * RATES.guess_limit

    assert Counter(await site.guess(RATES.guess_limit)) == {Outcome.NOT_FOUND: RATES.guess_limit}


async def test_others_are_not_held_up(site: Site) -> None:
    await site.guess(100)

    assert [(await site.ask(f"sensor-{n}", THERE)).outcome for n in range(20)] == [Outcome.SUCCESS] * 20


async def test_who_is_right_gets_through_behind_a_guessers_address(site: Site) -> None:
    await site.guess(100)
    assert (await site.ask("sensor-1")).outcome is Outcome.LIMITED
    site.clock.now += 1.0
    await site.guess(1_000)  # whatever there is to be had
    site.clock.now += RETRY_AFTER_SECONDS
    await site.guess(1_000)

    assert (await site.ask("sensor-1")).outcome is Outcome.SUCCESS  # it comes back as it was told


async def test_who_comes_back_too_early_has_no_advantage(site: Site) -> None:
    await site.guess(100)
    assert [(await site.ask("sensor-1")).outcome for _ in range(5)] == [Outcome.LIMITED] * 5
    site.clock.now += RETRY_AFTER_SECONDS - 1
    await site.guess(1_000)

    assert (await site.ask("sensor-1")).outcome is Outcome.LIMITED


async def test_who_comes_back_with_what_was_wrong_takes_nobodys_place(site: Site) -> None:
    wrong = [f"wrong {n}" for n in range(RATES.guess_limit + 2)]
    for secret in wrong:
        assert (await site.ask("x", provisionDeviceSecret=secret)).outcome is Outcome.NOT_FOUND
    assert (await site.ask("sensor-1")).outcome is Outcome.LIMITED
    for secret in wrong:
        assert (await site.ask("x", provisionDeviceSecret=secret)).outcome is Outcome.LIMITED
    site.clock.now += RETRY_AFTER_SECONDS
    await site.guess(100)
    for secret in wrong:
        assert (await site.ask("x", provisionDeviceSecret=secret)).outcome is Outcome.LIMITED

    assert (await site.ask("sensor-1")).outcome is Outcome.SUCCESS


async def test_no_key_and_no_device_is_ever_locked_by_guesses(site: Site) -> None:
    for n in range(50):
        await site.guess(20, Peer(Transport.HTTP, f"198.51.100.{n}"))

    assert (await site.ask("sensor")).outcome is Outcome.SUCCESS


async def test_unknown_keys_are_guesses_and_those_that_are_new_to_a_process_are_not(site: Site) -> None:
    asked = [site.ask(f"sensor-{n}") for n in range(100)]  # none of which the process has seen before
    assert {answer.outcome for answer in await asyncio.gather(*asked)} == {Outcome.SUCCESS}

    unknown = [site.ask("x", THERE, provisionDeviceKey=f"key {n}") for n in range(100)]
    outcomes = Counter(answer.outcome for answer in await asyncio.gather(*unknown))
    assert outcomes[Outcome.NOT_FOUND] == RATES.guess_limit + 2


async def test_a_right_key_among_too_many_guesses_of_one_moment_is_not_told(site: Site) -> None:
    guesses = [site.ask("x", provisionDeviceKey=f"key {n}") for n in range(20)]
    *_, last = await asyncio.gather(*guesses, site.ask("x"))

    assert last.outcome is Outcome.LIMITED


async def test_names_that_nobody_pre_provisioned_are_guesses(space: Space) -> None:
    site = Site(await Fleet.make(space, CHECK))
    outcomes = [(await site.ask(f"name {n}")).outcome for n in range(20)]

    assert Counter(outcomes) == {Outcome.FAILURE: RATES.guess_limit + 2, Outcome.LIMITED: 20 - RATES.guess_limit - 2}
    await site.reasons()


async def test_so_are_names_that_are_asked_for_all_at_once(space: Space) -> None:
    site = Site(await Fleet.make(space, CHECK))
    await site.fleet.import_("right")
    names = [*(f"name {n}" for n in range(499)), "right"]
    outcomes = Counter(answer.outcome for answer in await asyncio.gather(*map(site.ask, names)))

    assert outcomes == {Outcome.FAILURE: RATES.guess_limit + 2, Outcome.LIMITED: 498 - RATES.guess_limit}
    assert (await site.ask("right", THERE)).outcome is Outcome.SUCCESS  # nobody has provisioned it
    await site.reasons()


async def test_many_that_are_pre_provisioned_may_come_at_once(space: Space) -> None:
    site = Site(await Fleet.make(space, CHECK))
    for n in range(60):
        await site.fleet.import_(f"sensor-{n}")
    answers = await asyncio.gather(*(site.ask(f"sensor-{n}") for n in range(60)))

    assert [answer.outcome for answer in answers] == [Outcome.SUCCESS] * 60
    await site.reasons()


async def test_a_secret_that_was_changed_meanwhile_is_no_guess(site: Site) -> None:
    assert (await site.ask("first")).outcome is Outcome.SUCCESS
    profiles, pair = site.fleet.space.profiles, site.fleet.pair
    await profiles.remove_key("sensors", pair.key)
    await profiles.add_key("sensors", pair.key, "another secret")
    old = site.provisioning._recognised[pair.key]
    for n in range(RATES.guess_limit * 2):
        site.provisioning._recognised[pair.key] = old  # as a process has it that has not asked since
        assert (await site.ask(f"s-{n}", provisionDeviceSecret="another secret")).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("address", ["2001:db8:1:2::7", "2001:db8:1:2:ffff::1"])
async def test_a_network_of_ipv6_is_one_guesser(site: Site, address: str) -> None:
    await site.guess(100, Peer(Transport.HTTP, "2001:db8:1:2::1"))

    assert (await site.ask("a", Peer(Transport.HTTP, address))).outcome is Outcome.LIMITED
    assert (await site.ask("b", Peer(Transport.HTTP, "2001:db8:1:3::1"))).outcome is Outcome.SUCCESS


async def test_who_forges_the_source_of_datagrams_holds_up_nothing_but_datagrams(site: Site) -> None:
    await site.guess(100, Peer(Transport.COAP, "192.0.2.7"))

    assert (await site.ask("a", Peer(Transport.COAP, "192.0.2.7"))).outcome is Outcome.LIMITED
    assert (await site.ask("a", Peer(Transport.MQTT, "192.0.2.7"))).outcome is Outcome.SUCCESS
    proved = Peer(Transport.COAP, "192.0.2.7", proved=True)  # by the cookie of DTLS
    assert (await site.ask("c", proved)).outcome is Outcome.SUCCESS
    key = PreSharedKey("a device", b"its key", b"digest")
    assert (await site.ask("b", Peer(Transport.COAP, "192.0.2.7", psk=key))).outcome is Outcome.SUCCESS


def test_who_comes_back_with_an_identity_that_was_wrong_takes_nobodys_place() -> None:
    clock = Clock()
    strangers = Strangers(Limits(RATES, clock), Transport.MQTT)
    for _ in range(RATES.guess_limit + 2):
        trial = strangers.trial(HERE.address, "wrong")
        assert trial.heard()
        trial.lost()
    assert not strangers.trial(HERE.address, "right").heard()
    assert not strangers.trial(HERE.address, "wrong").heard()
    clock.now += RETRY_AFTER_SECONDS
    for identity in [*(f"another {n}" for n in range(10)), *["wrong"] * 10]:
        strangers.trial(HERE.address, identity).heard()

    assert strangers.trial(HERE.address, "right").heard()


async def test_processes_hold_the_limit_together(site: Site) -> None:
    space = site.fleet.space
    others = [Provisioning(space.database, space.keys, limits=site.limits) for _ in range(3)]
    told: Counter[Outcome] = Counter()
    for n in range(40):
        site.provisioning, kept = others[n % 3], site.provisioning
        told += Counter(await site.guess(5))
        site.provisioning = kept
    for each in others:
        await each.drain()

    assert told[Outcome.NOT_FOUND] == RATES.guess_limit + 2


async def test_a_flood_makes_few_attempts_and_one_line_of_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "provserver.limits"):
        await site.guess(1_000)

    assert await site.reasons() == {"SECRET_WRONG": RATES.guess_limit + 2, "ADDRESS_LOCKED": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "192.0.2.7 is locked for guessing: it is heard at a low rate until it stops"
    ]


@pytest.mark.parametrize(("body", "reason"), [(b"\xff garbage", "UNDECODABLE"), (b'{"deviceName":"x"}', "INVALID")])
async def test_what_cannot_be_read_makes_few_attempts(site: Site, body: bytes, reason: str) -> None:
    for _ in range(100):
        assert (await site.provisioning.answer(body, HERE)).outcome.name == reason
    assert await site.reasons() == {reason: module.RECORDED}
    await site.guess(100)
    told = [(await site.provisioning.answer(body, HERE)).outcome for _ in range(100)]

    assert told == [Outcome.LIMITED] * 100
    assert (await site.reasons())["ADDRESS_LOCKED"] == 1


async def test_what_was_sealed_and_cannot_be_opened_is_a_guess(site: Site) -> None:
    def sealed(number: int) -> bytes:
        return json.dumps({"keyId": "unknown", "sealed": base64.b64encode(b"%064d" % number).decode()}).encode()

    told = Counter(
        answer.outcome
        for answer in await asyncio.gather(*(site.provisioning.answer(sealed(n), HERE) for n in range(500)))
    )

    assert told == {Outcome.INVALID: RATES.guess_limit + 2, Outcome.LIMITED: 498 - RATES.guess_limit}
    assert (await site.ask("sensor")).outcome is Outcome.LIMITED
    assert (await site.provisioning.answer(sealed(1), THERE)).outcome is Outcome.INVALID


async def test_who_is_told_to_come_back_is_told_when(site: Site) -> None:
    await site.guess(100)
    answers = [await site.ask("sensor") for _ in range(30)]

    waits = {answer.retry_after for answer in answers}
    assert waits <= set(range(RETRY_AFTER_SECONDS, 2 * RETRY_AFTER_SECONDS + 1))
    assert len(waits) > 1
    assert {json.loads(answer.body)["retryAfter"] for answer in answers} == waits
    assert json.loads(answers[0].body)["errorMsg"] == "Too many requests, try again later!"


def test_they_do_not_all_come_back_at_once() -> None:
    told = {retry_after() for _ in range(200)}

    assert len(told) > 1
    assert RETRY_AFTER_SECONDS <= min(told) <= max(told) <= 2 * RETRY_AFTER_SECONDS


# --- devices that come back


async def token(site: Site, name: str) -> str:
    found: str = json.loads((await site.ask(name, THERE)).body)["credentialsValue"]
    return found


async def test_unknown_tokens_are_guesses(site: Site) -> None:
    right = await token(site, "sensor")
    told = [await site.access.with_token(f"guess {n}", HERE) for n in range(20)]

    assert told == [Denial.CREDENTIALS] * (RATES.guess_limit + 2) + [Denial.LIMITED] * (18 - RATES.guess_limit)
    assert await site.access.with_token(right, HERE) is Denial.LIMITED
    assert isinstance(await site.access.with_token(right, THERE), Authenticated)
    site.clock.now += RETRY_AFTER_SECONDS
    assert isinstance(await site.access.with_token(right, HERE), Authenticated)


async def test_tokens_that_are_tried_all_at_once_are_no_more(site: Site) -> None:
    right = await token(site, "sensor")
    tokens = [*(f"guess {n}" for n in range(499)), right]
    told = Counter(await asyncio.gather(*(site.access.with_token(each, HERE) for each in tokens)))

    assert told == {Denial.CREDENTIALS: RATES.guess_limit + 2, Denial.LIMITED: 498 - RATES.guess_limit}
    for _ in range(3):
        site.clock.now += 3
        tried = (site.access.with_mqtt("c", f"guess {next(GUESSES)}", None, HERE) for _ in range(500))
        told += Counter(await asyncio.gather(*tried))
    more = 9 * (1 / RATES.guess_interval + 1 / RATES.locked_interval)
    assert told[Denial.CREDENTIALS] <= RATES.guess_limit + 2 + more


async def test_many_that_are_right_may_come_at_once(site: Site) -> None:
    tokens = [await token(site, f"sensor-{n}") for n in range(30)]
    found = await asyncio.gather(*(site.access.with_token(each, HERE) for each in tokens))

    assert all(isinstance(each, Authenticated) for each in found)


async def test_who_is_right_among_many_unknown_ones_is_judged_after_them(site: Site) -> None:
    right = await token(site, "sensor")
    assert not site.access.doubtful(HERE)
    tried = [asyncio.create_task(site.access.with_mqtt("c", f"guess {n}", None, HERE)) for n in range(100)]
    await asyncio.sleep(0)

    assert (site.access.doubtful(HERE), site.access.doubtful(THERE)) == (True, False)
    assert await site.access.with_mqtt("c", right, None, HERE) is Denial.LIMITED
    await asyncio.gather(*tried)
    assert site.access.doubtful(HERE)  # as it is locked
    site.clock.now += RATES.guess_interval
    assert not site.access.doubtful(HERE)


async def test_wrong_passwords_are_guesses(site: Site) -> None:
    await site.ask("sensor", THERE, credentialsType="MQTT_BASIC", username="user", password="right")
    told = [await site.access.with_mqtt("c", "user", b"guess %d" % n, HERE) for n in range(20)]

    assert told == [Denial.CREDENTIALS] * (RATES.guess_limit + 2) + [Denial.LIMITED] * (18 - RATES.guess_limit)


async def test_who_connects_from_a_locked_address_is_judged_with_care(site: Site) -> None:
    right = await token(site, "sensor")
    assert site.access.token_in("c", right, None, HERE) is not None
    await site.guess(100)

    assert site.access.token_in("c", right, None, HERE) is None
    assert site.access.token_in("c", right, None, THERE) is not None


async def test_nothing_at_all_is_no_guess(site: Site) -> None:
    for _ in range(20):
        assert await site.access.with_token("", HERE) is Denial.CREDENTIALS
        assert await site.access.with_mqtt("", None, None, HERE) is Denial.NOTHING
        assert await site.access.with_channel(HERE) is Denial.NOTHING


# --- devices that are right, and ask again and again


async def test_a_device_that_asks_again_and_again_is_told_to_wait(site: Site) -> None:
    outcomes = [(await site.ask("sensor")).outcome for _ in range(6)]

    assert outcomes == [Outcome.SUCCESS] + [Outcome.FAILURE] * 3 + [Outcome.LIMITED] * 2
    assert await site.reasons() == {"ALREADY_PROVISIONED": 3, "NAME_REPEATED": 1}
    assert (await site.ask("another")).outcome is Outcome.SUCCESS
    assert (await site.ask("sensor", THERE)).outcome is Outcome.FAILURE  # whoever knows its name holds it up nowhere
    site.clock.now += RATES.repeat_interval
    assert (await site.ask("sensor")).outcome is Outcome.FAILURE


async def test_so_is_one_that_proves_itself(site: Site) -> None:
    outcomes = [(await site.ask("sensor", requestNonce=NONCE)).outcome for _ in range(6)]

    assert outcomes == [Outcome.SUCCESS] * 4 + [Outcome.LIMITED] * 2


async def test_so_is_one_without_a_name(site: Site) -> None:
    outcomes = [(await site.ask(requestNonce=NONCE)).outcome for _ in range(6)]

    assert outcomes == [Outcome.SUCCESS] * 4 + [Outcome.LIMITED] * 2
    assert [(await site.ask()).outcome for _ in range(10)] == [Outcome.SUCCESS] * 10


async def test_names_can_be_tried_out_at_a_low_rate_only(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSALS_AT_ONCE", 10)
    site = Site(fleet)
    for n in range(12):
        await site.ask(f"sensor-{n}", THERE)
    outcomes = [(await site.ask(f"sensor-{n}")).outcome for n in range(12)]

    assert outcomes == [Outcome.FAILURE] * 10 + [Outcome.LIMITED] * 2
    assert (await site.reasons())["REFUSED_OFTEN"] == 1
    site.clock.now += RATES.refusal_interval
    assert (await site.ask("sensor-11")).outcome is Outcome.FAILURE


# --- rates that are configured


async def test_an_address_has_a_rate(fleet: Fleet) -> None:
    site = Site(fleet, Rates(guess_interval=0, address_interval=2.0))
    asked = await asyncio.gather(*(site.ask(f"sensor-{n}") for n in range(8)))

    assert [answer.outcome for answer in asked] == [Outcome.SUCCESS] * 5 + [Outcome.LIMITED] * 3
    assert (await site.ask("else", THERE)).outcome is Outcome.SUCCESS
    assert await site.reasons() == {"ADDRESS_BUSY": 1}
    site.clock.now += 2.0
    assert (await site.ask("later")).outcome is Outcome.SUCCESS


async def test_an_organization_has_a_rate_that_only_those_use_up_who_have_a_key(fleet: Fleet) -> None:
    site = Site(fleet, Rates(guess_interval=0, organization_interval=2.0))
    assert Counter(await site.guess(20)) == {Outcome.NOT_FOUND: 20}
    asked = await asyncio.gather(*(site.ask(f"sensor-{n}") for n in range(8)))

    assert [answer.outcome for answer in asked] == [Outcome.SUCCESS] * 5 + [Outcome.LIMITED] * 3
    assert (await site.reasons())["ORGANIZATION_BUSY"] == 1


@pytest.fixture
async def bounded(fleet: Fleet) -> AsyncIterator[Site]:
    """A key that is good for ten uses, three a minute."""
    await fleet.space.profiles.set_budget("sensors", fleet.pair.key, KeyBudget(max_uses=10, per_minute=3))
    made = Site(fleet, UNLIMITED)
    yield made
    await made.reasons()


async def test_a_key_has_a_rate_that_only_those_use_up_who_have_its_secret(bounded: Site) -> None:
    assert Counter(await bounded.guess(20)) == {Outcome.NOT_FOUND: 20}
    asked = await asyncio.gather(*(bounded.ask(f"sensor-{n}") for n in range(5)))

    assert [answer.outcome for answer in asked] == [Outcome.SUCCESS] * 3 + [Outcome.LIMITED] * 2
    assert (await bounded.reasons())["KEY_BUSY"] == 1
    bounded.clock.now += 20
    assert (await bounded.ask("later")).outcome is Outcome.SUCCESS
    event = {
        "profileId": str(bounded.fleet.profile.id),
        "hint": bounded.fleet.pair.key[:4],
        "cause": "rate",
        "perMinute": 3,
        "count": 1,
    }
    assert await burning(bounded.fleet.space) == [event, event]  # the first at once, the others together


async def test_a_key_without_a_rate_that_makes_more_than_is_usual_is_told_of(fleet: Fleet) -> None:
    site = Site(fleet, Rates(guess_interval=0, burning_interval=6.0))  # ten a minute
    other = Provisioning(fleet.space.database, fleet.space.keys, limits=site.limits)
    for n in range(8):
        assert (await site.ask(f"sensor-{n}")).outcome is Outcome.SUCCESS
    site.provisioning._look_at_keys()
    await site.provisioning.drain()
    assert await burning(fleet.space) == []

    site.provisioning, before = other, site.provisioning  # the processes count together
    for n in range(8, 11):
        assert (await site.ask(f"sensor-{n}")).outcome is Outcome.SUCCESS
    site.provisioning = before
    await other.drain()
    event = {
        "profileId": str(fleet.profile.id),
        "hint": fleet.pair.key[:4],
        "cause": "rate",
        "perMinute": 10,
        "count": 1,
    }
    assert await burning(fleet.space) == [event]
    assert site.provisioning._next_look is None


@pytest.mark.parametrize("budget", [KeyBudget(per_minute=1_000), None])
async def test_a_rate_of_its_own_and_none_at_all_tell_of_no_other(fleet: Fleet, budget: KeyBudget | None) -> None:
    if budget is not None:
        await fleet.space.profiles.set_budget("sensors", fleet.pair.key, budget)
    site = Site(fleet, Rates(guess_interval=0, burning_interval=60.0 if budget else 0.0))
    await asyncio.gather(*(site.ask(f"sensor-{n}") for n in range(10)))
    await site.provisioning.drain()
    assert await burning(fleet.space) == []


async def test_who_is_given_again_what_it_has_burns_no_key(space: Space) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    site = Site(fleet, Rates(guess_interval=0, repeat_interval=0, burning_interval=60.0))
    for _ in range(3):
        assert (await site.ask("sensor-1", requestNonce=NONCE)).outcome is Outcome.SUCCESS
    await site.provisioning.drain()
    assert await burning(fleet.space) == []


async def test_a_rate_that_is_raised_holds_from_then_on(bounded: Site) -> None:
    await asyncio.gather(*(bounded.ask(f"sensor-{n}") for n in range(5)))
    await bounded.fleet.space.profiles.set_budget("sensors", bounded.fleet.pair.key, KeyBudget(per_minute=600))
    bounded.clock.now += 0.2  # of the three that were allowed, all are used

    assert (await bounded.ask("later")).outcome is Outcome.SUCCESS


# --- uses


async def burning(space: Space) -> list[dict[str, Any]]:
    rows = await space.rows("SELECT payload FROM outbox WHERE type = 'provision.key.burning' ORDER BY created_at")
    return [dict(row["payload"]) for row in rows]


async def uses(site: Site) -> int:
    found: int = await site.fleet.space.value("SELECT uses FROM provision_key WHERE key = $1", site.fleet.pair.key)
    return found


@pytest.fixture
async def metered(fleet: Fleet) -> AsyncIterator[Site]:
    """A key that is good for ten uses."""
    await fleet.space.profiles.set_budget("sensors", fleet.pair.key, KeyBudget(max_uses=10))
    made = Site(fleet, UNLIMITED)
    yield made
    await made.reasons()


async def test_a_key_can_be_used_up(metered: Site) -> None:
    asked = await asyncio.gather(*(metered.ask(f"sensor-{n}") for n in range(30)))

    assert Counter(answer.outcome for answer in asked) == {Outcome.SUCCESS: 10, Outcome.NOT_FOUND: 20}
    assert await uses(metered) == await metered.fleet.space.value("SELECT count(*) FROM device") == 10
    assert await metered.reasons() == {"KEY_USED_UP": 20}
    assert (await metered.fleet.space.profiles.show("sensors")).warnings == [
        f"The provision key {metered.fleet.pair.key} is used up: remove it, or allow it more uses."
    ]


async def test_what_is_refused_or_given_again_is_no_use(metered: Site) -> None:
    for _ in range(3):
        assert (await metered.ask("sensor", requestNonce=NONCE)).outcome is Outcome.SUCCESS
        assert (await metered.ask("sensor")).outcome is Outcome.FAILURE
        assert (await metered.ask("x", provisionDeviceSecret="wrong")).outcome is Outcome.NOT_FOUND

    assert await uses(metered) == 1


async def test_who_has_its_answer_lost_gets_it_although_the_key_is_used_up(metered: Site) -> None:
    first = await metered.ask("sensor", requestNonce=NONCE)
    for n in range(10):
        last = await metered.ask(f"sensor-{n}")
    assert last.outcome is Outcome.NOT_FOUND

    assert (await metered.ask("sensor", requestNonce=NONCE)).body == first.body


async def test_twins_in_one_group_are_one_use(metered: Site) -> None:
    asked = await asyncio.gather(*(metered.ask("sensor", requestNonce=NONCE) for _ in range(5)))

    assert {answer.outcome for answer in asked} == {Outcome.SUCCESS}
    assert len({answer.body for answer in asked}) == 1
    assert await uses(metered) == 1


async def test_a_known_device_takes_a_use_too(space: Space) -> None:
    fleet = await Fleet.make(space, CHECK)
    await space.profiles.set_budget("sensors", fleet.pair.key, KeyBudget(max_uses=1))
    site = Site(fleet, UNLIMITED)
    await fleet.import_("one", building.access_token("a-token-of-its-own"))
    await fleet.import_("two")

    assert [(await site.ask(name)).outcome for name in ("one", "two")] == [Outcome.SUCCESS, Outcome.NOT_FOUND]
    assert await uses(site) == 1
    await site.reasons()


async def test_processes_that_race_never_exceed_it(metered: Site, database_url: str) -> None:
    space = metered.fleet.space
    databases = [Database(database_url, size=4) for _ in range(3)]
    processes = []
    for each in databases:
        await each.open()
        processes.append(Provisioning(each, space.keys))
    bodies = [
        json.dumps(
            {
                "provisionDeviceKey": metered.fleet.pair.key,
                "provisionDeviceSecret": metered.fleet.pair.secret,
                "deviceName": f"sensor-{n % 25}",  # some are asked for twice
            }
        ).encode()
        for n in range(60)
    ]
    answers = await asyncio.gather(*(processes[n % 3].answer(body, HERE) for n, body in enumerate(bodies)))
    for process, each in zip(processes, databases, strict=True):
        await process.drain()
        await each.close()

    assert sum(answer.outcome is Outcome.SUCCESS for answer in answers) == 10
    assert await uses(metered) == await space.value("SELECT count(*) FROM device") == 10


async def test_others_of_a_group_do_not_pay_for_a_key_that_is_metered(metered: Site) -> None:
    free = await metered.fleet.space.profiles.add_key("sensors", "free")
    mixed = [
        metered.ask(f"sensor-{n}", provisionDeviceKey=free.key, provisionDeviceSecret=free.secret)
        if n % 2
        else metered.ask(f"sensor-{n}")
        for n in range(40)
    ]
    outcomes = [answer.outcome for answer in await asyncio.gather(*mixed)]

    assert outcomes[1::2] == [Outcome.SUCCESS] * 20
    assert Counter(outcomes[::2]) == {Outcome.SUCCESS: 10, Outcome.NOT_FOUND: 10}


async def test_a_key_that_has_few_uses_left_is_told_of_once(metered: Site) -> None:
    for n in range(12):
        await metered.ask(f"sensor-{n}")

    assert await burning(metered.fleet.space) == [
        {
            "profileId": str(metered.fleet.profile.id),
            "hint": metered.fleet.pair.key[:4],
            "cause": "uses",
            "uses": 8,
            "maxUses": 10,
        }
    ]


async def test_more_uses_can_be_allowed(metered: Site) -> None:
    for n in range(11):
        answer = await metered.ask(f"sensor-{n}")
    assert answer.outcome is Outcome.NOT_FOUND
    await metered.fleet.space.profiles.set_budget("sensors", metered.fleet.pair.key, KeyBudget(max_uses=11))

    assert (await metered.ask("sensor-11")).outcome is Outcome.SUCCESS
    assert (await metered.ask("sensor-12")).outcome is Outcome.NOT_FOUND
    await metered.fleet.space.profiles.set_budget("sensors", metered.fleet.pair.key, KeyBudget())
    assert (await metered.ask("sensor-12")).outcome is Outcome.SUCCESS


async def test_a_key_that_is_removed_meanwhile_is_unknown(metered: Site) -> None:
    assert (await metered.ask("sensor-0")).outcome is Outcome.SUCCESS
    await metered.fleet.space.profiles.remove_key("sensors", metered.fleet.pair.key)

    assert (await metered.ask("sensor-1")).outcome is Outcome.NOT_FOUND
    assert await metered.reasons() == {"KEY_UNKNOWN": 1}


# --- what it costs


async def test_who_is_right_costs_nothing_but_a_look_while_nobody_is_held_up(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(fleet, Rates())

    def never(*_: object) -> None:
        raise AssertionError("a bucket was looked at")

    for name in ("take", "wait", "give_back"):
        monkeypatch.setattr(Buckets, name, never)
    outcomes = [(await site.ask(f"sensor-{n}")).outcome for n in range(20)]
    assert outcomes == [Outcome.SUCCESS] * 20
