"""What a device holds in the metadata fields of its profile, as people write it."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from provserver.core import ids, metadata
from provserver.core.attributes import METADATA, Scope
from provserver.core.datastreams import text
from provserver.core.definitions import SECRET_TYPES
from provserver.core.lorawan import APPLICATION_KEY, NETWORK_KEY
from provserver.core.model import DeviceProfile
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Invalid
from provserver.services import onboarding
from provserver.store import devices, profiles
from provserver.store import onboarding as store
from provserver.store.database import Connection
from provserver.store.devices import DeviceSummary

Place = tuple[Scope, str]
"""An attribute: its scope and key."""

NETWORK_KEYS = frozenset(METADATA + name for name in onboarding.FIELDS)
"""Keys of attributes that say what a device is to its network."""

_SECRETS = frozenset((Scope.SERVER, METADATA + name) for name in (APPLICATION_KEY, NETWORK_KEY))


async def checked(connection: Connection, profile_id: UUID, values: Mapping[Place, Value]) -> dict[Place, Value]:
    """Those of attributes that hold metadata fields, in the normal forms of their types. Raises Invalid."""
    given = {
        key.removeprefix(METADATA): value
        for (scope, key), value in values.items()
        if scope is Scope.SERVER and key.startswith(METADATA)
    }
    if not given:
        return {}
    profile = await profiles.get(connection, profile_id)
    fields = {each.name: each for each in profile.metadata_fields} if profile is not None else {}
    found: dict[Place, Value] = {}
    for name, value in given.items():
        if name in fields and value != "":
            try:
                found[Scope.SERVER, METADATA + name] = metadata.check(fields[name], text(value))
            except metadata.InvalidValue as fault:
                raise Invalid(f"The metadata field {name!r}: {fault}.") from None
    return found


async def filled(
    connection: Connection, profile: DeviceProfile, given: Mapping[str, object], device_id: UUID
) -> tuple[dict[Place, Value], list[Place]]:
    """What to write and what to remove as people fill in the fields of a profile; null or nothing removes.

    Raises Invalid, with all that is wrong, and Conflict where a value must be unique and a static token has it; of
    devices that were made without one nobody keeps account.
    """
    fields = {field.name: field for field in profile.metadata_fields}
    written: dict[Place, Value] = {}
    removed: list[Place] = []
    errors: list[dict[str, object]] = []
    unique: dict[str, str] = {}
    for name, value in given.items():
        place = (Scope.SERVER, METADATA + name)
        if name not in fields:
            known = ", ".join(fields) or "none"
            errors.append(_error(name, f"the profile has no such field; it has: {known}"))
        elif value is None or value == "":
            removed.append(place)
        else:
            try:
                written[place] = normal = metadata.check(fields[name], text(value))
            except metadata.InvalidValue as fault:
                errors.append(_error(name, str(fault)))
                continue
            if fields[name].unique:
                unique[name] = normal
    if errors:
        first = errors[0]
        raise Invalid(f"The metadata field {first['name']!r}: {first['reason']}.", [_told(each) for each in errors])
    for name, normal in unique.items():
        if await store.is_of_token(connection, profile.id, device_id, {name: normal}):
            shown = "this value" if fields[name].type in SECRET_TYPES else repr(normal)
            raise Conflict(f"Another device or static token of the profile has {shown} as its {name}.")
    return written, removed


async def write(
    connection: Connection,
    device: DeviceSummary,
    values: Mapping[Place, Value],
    deleted: Sequence[Place],
    actor: str,
    random: ids.Randomness,
) -> None:
    """Write and remove attributes of a device that the transaction holds, and have its network know. Raises Refused."""
    await devices.change_attributes(connection, device.id, values, deleted)
    told = {key: value for (scope, key), value in values.items() if scope is Scope.SERVER and key in NETWORK_KEYS}
    if not told:
        return
    given = {key.removeprefix(METADATA): str(value) for key, value in told.items() if value != ""}
    await onboarding.check_typed(connection, device.id, given)
    await onboarding.keep_token_metadata(connection, device.profile_id, device.id, given)
    anew = not _SECRETS.isdisjoint(values)
    await onboarding.wanted(connection, device.id, actor, anew=anew, random=random)


def _error(name: str, reason: str) -> dict[str, object]:
    return {"name": name, "reason": reason}


def _told(error: Mapping[str, object]) -> dict[str, object]:
    return {"in": "body", "field": f"metadata.{error['name']}", "reason": error["reason"]}
