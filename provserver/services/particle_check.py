"""What a product's access token may do at Particle, found out without changing anything there."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from provserver.adapters.particle import Denied, ParticleCloud
from provserver.core.particle import Can, Check, Finding, Place, Right
from provserver.services.particle_delivery import ANOTHER_TOKEN, SOON, check_ledger, ends_at

TRY_ONE = "Try one device: `provserver particle apply … --device ID`."
NOT_LOOKED = "It was not looked at, as the access token cannot be used."


async def check(cloud: ParticleCloud, place: Place) -> Check:
    """Try what runs need, as far as it is reading. Raises Later when Particle does not answer."""
    try:
        await cloud.check_address()
        access = await cloud.access()
    except Denied as fault:
        unknown = [Finding(right, Can.UNKNOWN, NOT_LOOKED) for right in list(Right)[1:]]
        return Check(None, [_missing(Right.ACCESS_TOKEN, fault), *unknown])
    ends = access.expires_at
    usable = Finding(Right.ACCESS_TOKEN, Can.YES)
    if ends is not None and ends < datetime.now(UTC) + SOON:
        usable = usable._replace(reason=f"{ends_at(ends)}.", remedy=ANOTHER_TOKEN.capitalize())
    devices = await _tried(Right.DEVICES, lambda: cloud.devices(1))
    reading = await _reading(cloud, place)
    return Check(ends, [usable, devices, reading, _writing(reading, unlimited=access.unlimited)])


async def _tried(right: Right, ask: Callable[[], Awaitable[object]]) -> Finding:
    try:
        await ask()
    except Denied as fault:
        return _missing(right, fault)
    return Finding(right, Can.YES)


async def _reading(cloud: ParticleCloud, place: Place) -> Finding:
    try:
        found = await cloud.ledger()
        if found is None:
            reason = f"There is no ledger {place.ledger!r}."
            return Finding(Right.READ_LEDGER, Can.UNKNOWN, reason, "`provserver particle apply` makes it.")
        check_ledger(found, place)
        await cloud.instances(1)
    except Denied as fault:
        return _missing(Right.READ_LEDGER, fault)
    return Finding(Right.READ_LEDGER, Can.YES)


def _writing(reading: Finding, *, unlimited: bool) -> Finding:
    """Nothing but a write shows it: who may read all may have a role that does not write."""
    if reading.state is Can.NO:
        return Finding(Right.WRITE_LEDGER, Can.UNKNOWN, "It was not looked at, as the ledger cannot be read.")
    whose = "The access token has all scopes, but its user's role" if unlimited else "The access token's scopes"
    reason = f"{whose} may exclude it; only writing shows that."
    return Finding(Right.WRITE_LEDGER, Can.UNKNOWN, reason, TRY_ONE)


def _missing(right: Right, fault: Denied) -> Finding:
    return Finding(right, Can.NO, fault.reason, fault.remedy)
