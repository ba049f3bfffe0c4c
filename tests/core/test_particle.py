import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import particle
from provserver.core.particle import Action, Content, Device, Entry, InvalidName, Run, Token, plan, revocation

A, B, C = (Device(f"{number:024x}") for number in (0xA, 0xB, 0xC))
ALL = Run()


def token(number: int, holder: Device | None = None, **more: bool) -> Token:
    return Token(f"t{number}", f"No. {number}", holder.id if holder else None, **more)


def has(given: Token) -> Content:
    return Content(given.label, given)


FOREIGN = Content("sha256:00000000")


def one(
    device: Device = A,
    content: Content = particle.NOTHING,
    *,
    held: Token | None = None,
    matched: tuple[Token, ...] = (),
    free: tuple[Token, ...] = (),
    run: Run = ALL,
    revoked: bool = False,
) -> Entry:
    (entry,) = plan(
        [device],
        {device.id: content},
        {device.id: held} if held else {},
        {device.id: matched} if matched else {},
        free,
        run=run,
        revoked={device.id} if revoked else (),
    )
    return entry


def chosen(entry: Entry) -> tuple[Action, str | None]:
    return entry.action, entry.token.label if entry.token else None


FORCED = Run(force=True)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (one(held=token(1, A), content=has(token(1, A))), (Action.KEEP, "No. 1")),
        (one(held=token(1, A)), (Action.WRITE, "No. 1")),
        (one(held=token(1, A), content=FOREIGN), (Action.FOREIGN, "No. 1")),
        (one(held=token(1, A), content=FOREIGN, run=FORCED), (Action.WRITE, "No. 1")),
        (one(held=token(1, A), content=has(token(2))), (Action.OTHER, "No. 1")),
        (one(held=token(1, A), content=has(token(2)), run=FORCED), (Action.WRITE, "No. 1")),
        (one(held=token(1, A), content=has(token(2, A, given_up=True))), (Action.WRITE, "No. 1")),
        (one(free=(token(1), token(2))), (Action.WRITE, "No. 1")),
        (one(), (Action.NO_TOKEN, None)),
        (one(matched=(token(7),), free=(token(1),)), (Action.WRITE, "No. 7")),
        (one(matched=(token(7), token(8)), free=(token(1),)), (Action.AMBIGUOUS, None)),
        (one(matched=(token(7, B),), free=(token(1),)), (Action.AMBIGUOUS, "No. 7")),
        (one(matched=(token(7, A, given_up=True),), free=(token(1),)), (Action.WRITE, "No. 1")),
        (one(content=FOREIGN, free=(token(1),)), (Action.FOREIGN, None)),
        (one(content=FOREIGN, free=(token(1),), run=FORCED), (Action.WRITE, "No. 1")),
        (one(content=has(token(3)), free=(token(1),)), (Action.ADOPT, "No. 3")),
        (one(content=has(token(3)), matched=(token(3),)), (Action.ADOPT, "No. 3")),
        (one(content=has(token(3)), matched=(token(4),)), (Action.OTHER, "No. 4")),
        (one(content=has(token(3)), matched=(token(4),), run=FORCED), (Action.WRITE, "No. 4")),
        (one(content=has(token(3, B)), free=(token(1),)), (Action.SHARED, None)),
        (one(content=has(token(3, B)), free=(token(1),), run=FORCED), (Action.WRITE, "No. 1")),
        (one(content=has(token(3, B, given_up=True))), (Action.SHARED, None)),
        (one(content=has(token(3, A, given_up=True)), free=(token(1),)), (Action.WRITE, "No. 1")),
        (one(revoked=True, free=(token(1),)), (Action.REVOKED, None)),
        (one(revoked=True, free=(token(1),), run=Run((A.id,))), (Action.WRITE, "No. 1")),
    ],
)
def test_each_case_has_its_answer(entry: Entry, expected: tuple[Action, str | None]) -> None:
    assert chosen(entry) == expected
    assert bool(entry.reason) == (entry.action in particle.REASONS)


def test_what_two_ledgers_have_is_neither_s() -> None:
    contents = {A.id: has(token(1)), B.id: has(token(1))}
    entries = plan([A, B], contents, {}, {}, [token(1), token(2)], run=ALL)
    assert [chosen(entry) for entry in entries] == [(Action.SHARED, None), (Action.SHARED, None)]
    forced = plan([A, B], contents, {}, {}, [token(1), token(2), token(3)], run=FORCED)
    assert [chosen(entry) for entry in forced] == [(Action.WRITE, "No. 2"), (Action.WRITE, "No. 3")]


def test_a_token_that_is_in_a_ledger_or_names_somebody_is_not_given_to_others() -> None:
    entries = plan([A, B], {B.id: has(token(1))}, {}, {C.id: [token(2)]}, [token(1), token(2), token(3)], run=ALL)
    assert [chosen(entry) for entry in entries] == [(Action.WRITE, "No. 3"), (Action.ADOPT, "No. 1")]


def test_what_is_meant_for_one_is_not_adopted_by_another() -> None:
    entries = plan([A, B], {A.id: has(token(1))}, {}, {B.id: [token(1)]}, (), run=ALL)
    assert [chosen(entry) for entry in entries] == [(Action.SHARED, None), (Action.WRITE, "No. 1")]


def test_a_run_is_about_what_it_selects() -> None:
    grouped = A._replace(groups=("pilot",), serial="P1")
    assert Run((A.id,)).selects(grouped)
    assert Run(group="pilot", serial="P1").selects(grouped)
    assert not Run(group="pilot").selects(B)
    assert not Run(serial="P2").selects(grouped)
    assert not ALL.narrow


@pytest.mark.parametrize(
    ("content", "kept", "force", "expected"),
    [
        (particle.NOTHING, None, False, Action.REVOKED),
        (has(token(1, A)), token(1, A), False, Action.REVOKE),
        (particle.NOTHING, token(1, A), False, Action.REVOKE),
        (has(token(1, A)), token(1, A, claimed=True), True, Action.CLAIMED),
        (FOREIGN, token(1, A), False, Action.FOREIGN),
        (FOREIGN, token(1, A), True, Action.REVOKE),
        (has(token(2)), None, True, Action.REVOKE),
        (has(token(2, claimed=True)), None, True, Action.CLAIMED),
        (has(token(2, claimed=True)), token(1, A), True, Action.CLAIMED),
        (FOREIGN, None, False, Action.FOREIGN),
        (has(token(2)), token(1, A), False, Action.OTHER),
        (has(token(2, A, given_up=True)), None, False, Action.REVOKE),
    ],
)
def test_revoking(content: Content, kept: Token | None, force: bool, expected: Action) -> None:
    assert revocation(A, content, kept, force=force).action is expected


def test_revoking_by_force_gives_up_what_is_recorded_nowhere_and_leaves_another_s() -> None:
    assert revocation(A, has(token(2)), None, force=True).loose == token(2)
    both = revocation(A, has(token(2)), token(1, A), force=True)
    assert (both.token, both.loose) == (token(1, A), token(2))
    another_s = revocation(A, has(token(2, B)), None, force=True)
    assert (another_s.action, another_s.token, another_s.loose) == (Action.REVOKE, None, None)


def test_why_no_token_is_free_names_what_can_be_done() -> None:
    assert "--exported" not in particle.lacking(0)
    assert "1 token was" in particle.lacking(1)
    assert "1,200 tokens were" in particle.lacking(1_200)


class World:
    """A ledger and a record, as plans change them."""

    def __init__(self, contents: Mapping[str, Content], tokens: int) -> None:
        self.contents = dict(contents)
        self.tokens = [token(number) for number in range(tokens)]
        self.held: dict[str, Token] = {}

    def apply(self, devices: list[Device], *, force: bool = False) -> list[Entry]:
        taken = {each.id for each in self.held.values()}
        free = [each for each in self.tokens if each.id not in taken]
        contents = {
            device: Content(content.shown, self._now(content.token)) for device, content in self.contents.items()
        }
        entries = plan(devices, contents, self.held, {}, free, run=Run(force=force))
        for entry in entries:
            if entry.action in particle.CHANGES:
                assert entry.token is not None
                self.held[entry.device.id] = entry.token._replace(holder=entry.device.id, written=True)
                self.contents[entry.device.id] = has(self.held[entry.device.id])
        return entries

    def _now(self, given: Token | None) -> Token | None:
        return next((each for each in self.held.values() if given and each.id == given.id), given)


contents_ = st.dictionaries(
    st.integers(0, 9).map(lambda number: f"{number:024x}"),
    st.one_of(st.just(FOREIGN), st.integers(0, 5).map(lambda number: has(token(number)))),
)


@given(contents_, st.integers(0, 10), st.integers(0, 12), st.randoms(use_true_random=False), st.booleans())
def test_applying_again_changes_nothing_and_no_two_have_one_token(
    contents: dict[str, Content], count: int, tokens: int, shuffler: random.Random, force: bool
) -> None:
    devices = [Device(f"{number:024x}") for number in range(count)]
    world, other = World(contents, tokens), World(contents, tokens)
    first = world.apply(devices, force=force)
    shuffled = shuffler.sample(devices, len(devices))
    assert other.apply(shuffled, force=force) == first
    assert world.held == other.held
    assert len({each.id for each in world.held.values()}) == len(world.held)
    if not force:
        assert all(world.contents[device] == FOREIGN for device, content in contents.items() if content is FOREIGN)
    if any(entry.action is Action.NO_TOKEN for entry in first):
        return  # who shared a token with one that has got another may keep it now
    again = world.apply(shuffled, force=force)
    assert not [entry for entry in again if entry.action in particle.CHANGES]
    assert world.held == other.held


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("Particle Device ID", particle.Field.DEVICE_ID),
        ("particle_device_id", particle.Field.DEVICE_ID),
        ("Serial Number", particle.Field.SERIAL),
        ("serial", particle.Field.SERIAL),
        ("ICCID", particle.Field.ICCID),
        ("MAC address", None),
    ],
)
def test_what_names_a_device(header: str, field: particle.Field | None) -> None:
    assert particle.field_of(header) is field


def test_names_have_one_form() -> None:
    assert particle.device_id(" E00FCE681234567890ABCDEF ") == "e00fce681234567890abcdef"
    assert particle.access_token(" 0123456789abcdef\n") == "0123456789abcdef"
    assert particle.api_url("https://API.particle.io/") == "https://api.particle.io"
    for check, wrong in (
        (particle.device_id, "e00fce68"),
        (particle.ledger_name, "Blynk"),
        (particle.ledger_name, "a" * 33),
        (particle.slug, "a/b"),
        (particle.slug, ".."),
        (particle.access_token, "short"),
        (particle.access_token, "two words here"),
        (particle.api_url, "https://user@api.particle.io"),
        (particle.api_url, "https://api.particle.io/v1"),
        (particle.api_url, "ftp://api.particle.io"),
        (particle.api_url, "https://[::1"),
    ):
        with pytest.raises(InvalidName):
            check(wrong)


@given(st.text())
def test_a_fingerprint_says_little(text: str) -> None:
    shown = particle.fingerprint(text)
    assert len(shown) == len("sha256:") + 8
    assert shown == particle.fingerprint(text)
