from dataclasses import replace

import pytest

from provserver.core.clones import Sign, Suspicion, suspicion
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
