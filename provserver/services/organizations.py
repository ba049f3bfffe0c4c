"""The tree of organizations: who reaches which, what they may have, and how they come and go."""

import os
import time
import unicodedata
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from asyncpg import ForeignKeyViolationError, LockNotAvailableError, UniqueViolationError
from msgspec import UNSET, Struct, UnsetType, structs

from provserver.core import ids
from provserver.core.accounts import MAX_DEPTH, Organization, checked_name
from provserver.core.authorization import Permission, Principal
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from provserver.store import audit
from provserver.store import organizations as store
from provserver.store.database import Connection, Database

MAX_QUOTA = 2**31 - 1


class Contended(Conflict):
    """Another transaction has what is needed: it may be done soon."""


class OrganizationChange(Struct, frozen=True):
    """What to change; what is unset stays. A quota of None: none."""

    name: str | UnsetType = UNSET
    device_quota: int | UnsetType | None = UNSET
    token_quota: int | UnsetType | None = UNSET
    sign_up: bool | UnsetType = UNSET


class Contents(Struct, frozen=True):
    """How much an organization has itself, each counted up to `store.COUNTED`; what counts against its quotas.

    held_devices: that others have made. devices_used, tokens_used: its own and of all below; None without a quota.
    """

    organizations: int
    users: int
    profiles: int
    static_tokens: int
    devices: int
    held_devices: int
    api_keys: int
    webhooks: int
    request_keys: int
    devices_used: int | None = None
    tokens_used: int | None = None


class Organizations:
    """The tree, as far down as a principal reaches: to him it begins with his own."""

    def __init__(
        self, database: Database, random: ids.Randomness = os.urandom, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        name: str,
        parent: UUID | str | None = None,
        *,
        device_quota: int | None = None,
        token_quota: int | None = None,
        sign_up: bool = False,
    ) -> Organization:
        """Make one below another, or below the principal's own. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        name = _named(name)
        _check_quotas(device_quota, token_quota)
        async with self._database.transaction() as connection:
            above = await reach(connection, principal, parent, lock="KEY SHARE")
            check_depth(len(above.path) + 1, sign_up=sign_up)
            made = ids.uuid7(self._clock(), self._random)
            try:
                organization = await store.insert(
                    connection,
                    made,
                    above,
                    name,
                    device_quota=device_quota,
                    token_quota=token_quota,
                    sign_up=sign_up,
                )
            except UniqueViolationError:
                raise _taken(name) from None
            await self._record(connection, principal, organization.id, "organization.created", made, name=name)
        return _seen(principal, organization)

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        parent: UUID | str | None = None,
        search: str | None = None,
        ids: Sequence[UUID] | None = None,
    ) -> list[Organization]:
        """The principal's own and those below, in the order they were made, after the cursor's. Raises Refused.

        parent: only those right below this one. search: with this in the name, or of this number. ids: only these.
        """
        principal.require(Permission.ORGANIZATIONS_VIEW)
        async with self._database.connection() as connection:
            parent_id = None if parent is None else (await reach(connection, principal, parent)).id
            found = await store.list_(
                connection,
                principal.organization_id,
                after=cursor,
                limit=limit,
                parent_id=parent_id,
                search=None if search is None else unicodedata.normalize("NFC", search).strip(),
                ids=ids,
            )
        return [_seen(principal, organization) for organization in found]

    async def parents(self, principal: Principal, organizations: Collection[Organization]) -> set[UUID]:
        """Those of the organizations, as they were listed, that have any below them. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_VIEW)
        async with self._database.connection() as connection:
            return await store.parents(connection, [each.id for each in organizations])

    async def contents(self, principal: Principal, reference: UUID | str) -> Contents:
        """How much there is in one. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_VIEW)
        async with self._database.connection() as connection:
            found = await reach(connection, principal, reference)
            counted = await store.contents(connection, found.id)
            devices = None if found.device_quota is None else await store.count_devices(connection, found.id)
            tokens = None if found.token_quota is None else await store.count_tokens(connection, found.id)
        return Contents(**counted._asdict(), devices_used=devices, tokens_used=tokens)

    async def show(self, principal: Principal, reference: UUID | str) -> Organization:
        """One by id, number or name. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_VIEW)
        async with self._database.connection() as connection:
            return _seen(principal, await reach(connection, principal, reference))

    async def choose(self, principal: Principal, reference: UUID | int) -> Principal:
        """A principal who reaches only this organization, by id or number, and those below it. Raises NotFound.

        It takes no permission: nobody comes to reach more, or to may more.
        """
        id_, number = (reference, None) if isinstance(reference, UUID) else (None, reference)
        async with self._database.connection() as connection:
            found = await store.find(connection, principal.organization_id, id_=id_, number=number, name=None)
        if not found:
            raise NotFound(f"There is no organization {str(reference)!r} that you can see. Look it up in the list.")
        return principal.within(found[0].id)

    async def update(
        self,
        principal: Principal,
        reference: UUID | str,
        change: OrganizationChange,
        revision: int | None = None,
    ) -> Organization:
        """Change one; revision: which the change was meant for. Raises Refused.

        Quotas are set from above: nobody allows himself more, but for the root's, which has nobody above.
        """
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.transaction() as connection:
            found = await reach(connection, principal, reference, lock="NO KEY UPDATE")
            check_revision(found.revision, revision)
            changes = {
                field: value for field in change.__struct_fields__ if (value := getattr(change, field)) is not UNSET
            }
            if "name" in changes:
                changes["name"] = _named(changes["name"])
            changed: Organization = structs.replace(found, **changes)
            _check_quotas(changed.device_quota, changed.token_quota)
            quotas_differ = (changed.device_quota, changed.token_quota) != (found.device_quota, found.token_quota)
            if quotas_differ and found.id == principal.organization_id and found.parent_id is not None:
                raise Forbidden("The quotas of your own organization are set by the one above it. Ask there.")
            if changed.sign_up and not found.sign_up:
                check_depth(len(found.path), sign_up=True)
            try:
                written = await store.update(connection, changed)
            except UniqueViolationError:
                raise _taken(changed.name) from None
            detail = {field: "none" if value is None else value for field, value in changes.items()}
            await self._record(connection, principal, found.id, "organization.updated", found.id, **detail)
        return _seen(principal, written)

    async def delete(self, principal: Principal, reference: UUID | str, revision: int | None = None) -> Organization:
        """Remove one below the principal's own that has nothing left but API keys. Raises Refused."""
        principal.require(Permission.ORGANIZATIONS_MANAGE)
        async with self._database.transaction() as connection:
            found = await reach(connection, principal, reference, lock="UPDATE")
            check_revision(found.revision, revision)
            if found.id == principal.organization_id or found.parent_id is None:
                raise Conflict("Nobody can delete the organization that he belongs to.")
            if held := await store.held(connection, found.id):
                raise Conflict(f"The organization {found.name!r} still has {_listed(held)}. Delete them first.")
            try:
                await store.delete(connection, found.id)
            except ForeignKeyViolationError:
                raise Conflict(f"The organization {found.name!r} is in use. Look again at what it has.") from None
            await self._record(
                connection, principal, found.parent_id, "organization.deleted", found.id, name=found.name
            )
        return _seen(principal, found)

    async def _record(
        self,
        connection: Connection,
        principal: Principal,
        organization_id: UUID,
        action: str,
        subject: UUID,
        **detail: str | int | bool,
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, organization_id, principal.actor, action, subject, **detail)


async def reach(
    connection: Connection,
    principal: Principal,
    reference: UUID | str | None,
    *,
    lock: store.RowLock | None = None,
) -> Organization:
    """An organization within the principal's tree, by id, number or name; None: its own.

    lock: taken on its row until the transaction ends. Raises NotFound; Conflict for a name that several have.
    """
    if reference is None:
        reference = principal.organization_id
    found = await _find(connection, principal.organization_id, reference)
    if found is not None and lock is not None:
        found = await store.get(connection, found.id, lock=lock)
    if found is None:
        raise NotFound(f"There is no organization {str(reference)!r} that you can see. Look it up in the list.")
    return found


async def check_quota(
    connection: Connection,
    organization_id: UUID,
    devices: int = 0,
    tokens: int = 0,
    *,
    coming_from: UUID | None = None,
) -> None:
    """Whether an organization may have so many more; for the transaction that gives them. Raises Conflict, NotFound.

    Every quota from the root down to it must allow them. Whoever else would count the same waits for the transaction
    to end (Contended when that takes long), and the organization cannot be deleted before. coming_from: the
    organization that has the devices now: whoever is above both has them either way.
    """
    try:
        organization = await store.get(connection, organization_id, lock="KEY SHARE")
        if organization is None:
            raise NotFound("The organization is not there any more. Look it up in the list.")
        if not devices and not tokens:
            return
        path = organization.path
        if coming_from is not None and (source := await store.get(connection, coming_from)) is not None:
            path = tuple(id_ for id_ in path if id_ not in source.path)
        quotas = await store.lock_quotas(connection, path, devices=devices > 0, tokens=tokens > 0)
    except LockNotAvailableError:
        raise Contended("Others make or claim just now. Try again when that is done.") from None
    for quota in quotas:
        own = quota.organization_id == organization_id
        if devices and quota.devices is not None:
            there = await store.count_devices(connection, quota.organization_id)
            _check_room("devices", quota.devices, there, devices, own=own)
        if tokens and quota.tokens is not None:
            there = await store.count_tokens(connection, quota.organization_id)
            _check_room("static tokens", quota.tokens, there, tokens, own=own)


def check_depth(depth: int, *, sign_up: bool) -> None:
    """Whether there may be an organization so deep, with more below it. Raises Conflict."""
    if depth > MAX_DEPTH:
        raise Conflict(f"The tree of organizations has {MAX_DEPTH} levels. Make it below a higher one.")
    if sign_up and depth == MAX_DEPTH:
        raise Conflict(f"Nobody can sign up below it: the tree of organizations has {MAX_DEPTH} levels.")


def check_revision(found: int | None, wanted: int | None) -> None:
    """Whether what was found is what a change was meant for. Raises Stale."""
    if wanted is not None and found != wanted:
        raise Stale("It was changed meanwhile. Look at it again, then change it.")


def _seen(principal: Principal, organization: Organization) -> Organization:
    """An organization without those above the principal's, which are not for him to see."""
    if principal.organization_id not in organization.path:
        return organization
    path = organization.path[organization.path.index(principal.organization_id) :]
    return structs.replace(organization, path=path, parent_id=path[-2] if len(path) > 1 else None)


async def _find(connection: Connection, above: UUID, reference: UUID | str) -> Organization | None:
    """Names are never digits nor ids (`_named`), so a reference is one thing only."""
    id_, number, name = _meant(reference)
    found = await store.find(connection, above, id_=id_, number=number, name=name)
    if len(found) > 1:
        raise Conflict(f"Several organizations are called {reference!r}. Name it by its number.")
    return found[0] if found else None


def _meant(reference: UUID | str) -> tuple[UUID | None, int | None, str | None]:
    if isinstance(reference, UUID):
        return reference, None, None
    if reference.isascii() and reference.isdigit():
        return None, int(reference) if len(reference) < 10 else 0, None
    try:
        return UUID(reference), None, None
    except ValueError:
        name = unicodedata.normalize("NFC", reference).strip()
        return None, None, name if name.isprintable() else ""


def _named(text: str) -> str:
    name = checked_name(text, "An organization")
    if _meant(name)[2] is None:
        raise Invalid("This name would be taken for a number or an id. Choose another.")
    return name


def _check_quotas(*quotas: int | None) -> None:
    if any(quota is not None and not 0 <= quota <= MAX_QUOTA for quota in quotas):
        raise Invalid(f"A quota is a number from 0 to {MAX_QUOTA}, or none.")


def _check_room(what: str, allowed: int, there: int, more: int, *, own: bool) -> None:
    if there + more <= allowed:
        return
    if own:
        raise Conflict(
            f"The organization may have {allowed} {what}, with all below it, and has {there}: "
            f"{more} more are too many. Have its quota raised, or delete some."
        )
    # How much room those above have is not for those below to see.
    raise Conflict(f"The organizations above have no room for {more} more {what}. Have their quota raised.")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is an organization {name!r} there already. Choose another name.")


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
