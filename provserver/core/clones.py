"""What speaks for a device being there twice: signs, each with what it rests on (docs/clones.md).

A sign is a suspicion. That two hold *valid* credentials is shown by sessions alone that take each other's place in
turns.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from provserver.core.decision import Create, Decision, Intent
from provserver.core.model import PROVISIONED, ClonePolicy, ProvisionStrategy, Situation

WINDOW = 300.0
"""Seconds for which take-overs of a device's sessions are counted together."""

TURNS = 3
"""Times that the place goes back, in a window, to a network that had it before: who had it twice were two."""

TAKE_OVERS = 10
"""Take-overs in a window that are a sign though all come from one address: two behind one, or one that starts anew."""

MAX_PLACES = 64
"""Places that are remembered of a device; of more, the latest."""

_IGNORE = ClonePolicy.IGNORE
_CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN


class Sign(StrEnum):
    """What was seen."""

    NAME = "name"  # two asked for one name with the right key and secret
    NONCE = "nonce"  # two asked with one nonce
    SESSIONS = "sessions"  # sessions of one device took over from each other


class Place(NamedTuple):
    """Where a session of a device was, at a time in seconds. gave_way: it ended by a newer one; else it began so."""

    at: float
    network: str
    gave_way: bool


def remembered(places: Iterable[Place]) -> list[Place]:
    """Those of the window that ends with the latest, in order, however they were heard of."""
    ordered = sorted(set(places))[-MAX_PLACES:]
    return [place for place in ordered if place.at > ordered[-1].at - WINDOW]


def turns(places: Sequence[Place]) -> int:
    """How often the place went back to a network that had it before. Who goes on to new ones all the time is one."""
    had = {place.network for place in places[:1]}
    count = 0
    for before, after in pairwise(places):
        count += after.network != before.network and after.network in had
        had.add(after.network)
    return count


def take_overs(places: Iterable[Place]) -> int:
    """How many sessions gave way."""
    return sum(place.gave_way for place in places)


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
