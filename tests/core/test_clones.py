from dataclasses import replace

import pytest

from provserver.core.clones import (
    MAX_PLACES,
    TURNS,
    WINDOW,
    Place,
    Sign,
    Suspicion,
    remembered,
    suspicion,
    take_overs,
    turns,
)
from provserver.core.decision import Decision, Intent, Refusal, decide
from provserver.core.model import VACANT, ClonePolicy, ProvisionStrategy, ReprovisionPolicy, Situation
from tests.core.test_decision import (
    CHAIN,
    DIGEST,
    FRESH,
    NONCE,
    OTHER_DIGEST,
    OTHER_PROFILE_ID,
    OWN,
    device,
    held,
    profile,
)

MADE = device(held(), digest=DIGEST)
OTHER = device(held(), digest=OTHER_DIGEST)
SPENT = device(held())


def seen(
    found: Situation,
    *,
    nonce: bool = True,
    strategy: ProvisionStrategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    policy: ReprovisionPolicy = ReprovisionPolicy.DENY,
    clones: ClonePolicy = ClonePolicy.REPORT,
) -> Suspicion | None:
    intent = Intent(replace(profile(strategy, policy), clone_policy=clones), "d", OWN, False, NONCE if nonce else None)
    digest = DIGEST if nonce else None
    decision: Decision = decide(intent, found, digest, FRESH)
    return suspicion(intent, found, digest, decision)


@pytest.mark.parametrize("policy", ReprovisionPolicy)
@pytest.mark.parametrize(
    ("found", "nonce", "sign"),
    [
        (Situation(MADE, MADE), True, Suspicion(Sign.NONCE, certain=False)),  # a lost answer, unless from elsewhere
        (Situation(MADE, OTHER), True, Suspicion(Sign.NONCE, certain=True)),
        (Situation(None, OTHER), True, Suspicion(Sign.NONCE, certain=True)),
        (Situation(MADE, None), True, Suspicion(Sign.NAME, certain=True)),
        (Situation(MADE, None), False, Suspicion(Sign.NAME, certain=False)),
        (Situation(SPENT, SPENT), True, None),  # it was revoked, say, and is who it was
        (VACANT, True, None),
        (Situation(device(held(), state=None)), True, None),
        (Situation(device(held(), rearmed=True)), True, None),
        (Situation(device(held(), profile_id=OTHER_PROFILE_ID)), True, None),
    ],
)
def test_signs_of_requests(found: Situation, nonce: bool, sign: Suspicion | None, policy: ReprovisionPolicy) -> None:
    assert seen(found, nonce=nonce, policy=policy) == sign
    assert seen(found, nonce=nonce, policy=policy, clones=ClonePolicy.QUARANTINE) == sign
    assert seen(found, nonce=nonce, policy=policy, clones=ClonePolicy.IGNORE) is None


def test_a_chain_is_its_own_proof() -> None:
    assert seen(Situation(MADE, None), strategy=CHAIN) is None


def test_a_refusal_is_a_sign_as_well() -> None:
    intent = Intent(profile(), "d", None, False, NONCE)
    found = Situation(MADE, None)

    assert isinstance(decide(intent, found, OTHER_DIGEST, FRESH), Refusal)
    assert suspicion(intent, found, OTHER_DIGEST, decide(intent, found, OTHER_DIGEST, FRESH)) is not None


def places(networks: str) -> list[Place]:
    return [Place(float(n), each, gave_way=True) for n, each in enumerate(networks)]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ("", 0),
        ("A", 0),
        ("AAAAAA", 0),
        ("AB", 0),
        ("ABCDEFGH", 0),  # one that roams
        ("AABBCCDD", 0),
        ("ABA", 1),
        ("AABBAA", 1),
        ("ABABA", 3),
        ("ABABAB", 4),
        ("ABCABC", 3),
    ],
)
def test_a_turn_is_a_return(networks: str, expected: int) -> None:
    assert turns(places(networks)) == expected


def test_two_are_told_after_two_rounds() -> None:
    assert turns(places("ABABA")) >= TURNS > turns(places("ABAB"))


def test_places_are_remembered_in_order_and_for_a_while() -> None:
    """Processes tell of them late, out of order, and twice."""
    known = places("ABABA")
    assert remembered([*known[::2], *known[::-1]]) == known
    last = Place(WINDOW + 1.5, "A", gave_way=False)
    assert remembered([*known, last]) == [*known[2:], last]
    assert len(remembered(places("A" * 1000))) == MAX_PLACES
    assert take_overs([*known, last]) == 5
