"""What speaks for a device being there twice: signs, each with what it rests on (docs/clones.md).

A sign is a suspicion. That two hold *valid* credentials is shown by sessions alone that take each other's place in
turns.
"""

from enum import StrEnum
from typing import NamedTuple

from provserver.core.decision import Create, Decision, Intent
from provserver.core.model import PROVISIONED, ClonePolicy, ProvisionStrategy, Situation

WINDOW = 300.0
"""Seconds for which take-overs of a device's sessions are counted together."""

TURNS = 3
"""Times that the place goes back and forth between two addresses in a window: who had it twice were two."""

TAKE_OVERS = 10
"""Take-overs in a window that are a sign though all come from one address: two behind one, or one that starts anew."""

_IGNORE = ClonePolicy.IGNORE
_CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN


class Sign(StrEnum):
    """What was seen."""

    NAME = "name"  # two asked for one name with the right key and secret
    NONCE = "nonce"  # two asked with one nonce
    SESSIONS = "sessions"  # sessions of one device took over from each other


class Suspicion(NamedTuple):
    """A sign of a request. certain: else it is one only if the request came from another address than the first."""

    sign: Sign
    certain: bool


def suspicion(
    intent: Intent, situation: Situation, request_digest: bytes | None, decision: Decision
) -> Suspicion | None:
    """What a request of a right key and secret says of the device that it is about.

    A certificate is its own proof, so chains give no sign.
    """
    profile = intent.profile
    if profile.clone_policy is _IGNORE or profile.strategy is _CHAIN or isinstance(decision, Create):
        return None
    named, holder = situation.named, situation.nonce_holder
    if holder is not None and holder.request_digest is not None and not holder.rearmed:
        return Suspicion(Sign.NONCE, certain=holder.request_digest != request_digest)
    if named is None or named.profile_id != profile.id or named.rearmed or named.provision_state != PROVISIONED:
        return None
    if holder is not None and holder.id == named.id:  # its nonce is spent: it is who it was
        return None
    return Suspicion(Sign.NAME, certain=intent.nonce is not None)
