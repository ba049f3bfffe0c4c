"""The people who operate: invited or signed up, changed and removed, each within reach of who does it.

Nobody gives a role, or touches a user who has one, that may do more than he himself: else whoever may manage users
could make or take over an admin. Links are good once, and shown once: only their digests are kept.
"""

import os
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from asyncpg import UniqueViolationError
from msgspec import UNSET, Struct, UnsetType, structs

from provserver.core import ids, passwords
from provserver.core.accounts import Organization, User, checked_email, checked_name
from provserver.core.authorization import PERMISSIONS, Permission, Principal, Role
from provserver.core.limits import Buckets, network
from provserver.core.secrets import ServerKeys
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, TooManyRequests
from provserver.services.organizations import check_depth, check_revision, reach
from provserver.services.passwords import Passwords
from provserver.store import audit, organizations, server_keys, sign_in
from provserver.store import users as store
from provserver.store.database import Connection, Database
from provserver.store.sign_in import Purpose

INVITATION_PERIOD = timedelta(days=7)
RESET_PERIOD = timedelta(days=1)

LINK_GONE = "This link is not good: it was used, or has expired. Ask for a new one."
"""What is said of every link that is not good, whatever became of it."""

EMAIL_TAKEN = "There is a user with this e-mail address already. Choose another."

_SIGN_UPS = 5
_SIGN_UPS_PER_SECOND = 1 / 600


class UserChange(Struct, frozen=True):
    """What to change; what is unset stays."""

    name: str | UnsetType = UNSET
    email: str | UnsetType = UNSET
    role: Role | UnsetType = UNSET


class Users:
    """The users, as far down the tree as a principal reaches."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        passwords: Passwords,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sign_ups: Buckets | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._passwords = passwords
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._sign_ups = sign_ups or sign_up_limit()

    async def invite(
        self,
        principal: Principal,
        email: str,
        role: Role,
        organization: UUID | str | None = None,
        name: str = "",
    ) -> tuple[User, str]:
        """Add a user, who chooses a password by a link of INVITATION_PERIOD: the user, and the link's token.

        organization: the principal's own unless it is given. Raises Refused.
        """
        principal.require(Permission.USERS_MANAGE)
        _check_gift(principal, role)
        email, name = checked_email(email), _named(name)
        async with self._database.transaction() as connection:
            where = await reach(connection, principal, organization, lock="KEY SHARE")
            user = await self._insert(connection, where.id, email, name, role)
            link = await self._link(connection, Purpose.INVITATION, user.id, INVITATION_PERIOD)
            await self._record(connection, principal.actor, user, "user.invited", email=email, role=role.value)
        return user, link

    async def invite_again(self, principal: Principal, reference: UUID | str) -> str:
        """The token of a new link for a user who has not accepted yet; the one before is dead. Raises Refused."""
        async with self._database.transaction() as connection:
            user = await self._managed(connection, principal, reference)
            if user.accepted:
                raise Conflict("This user has accepted already. A new password is chosen by a reset link.")
            link = await self._link(connection, Purpose.INVITATION, user.id, INVITATION_PERIOD)
            await self._record(
                connection, principal.actor, user, "user.invited", email=user.email, role=user.role.value
            )
        return link

    async def accept_invitation(self, link: str, password: str, name: str = "") -> User:
        """Choose the first password by a link's token, and a name. Raises Refused; NotFound for a link that is gone."""
        name = _named(name)
        async with self._database.connection() as connection:
            digest = await known_link(connection, self._keys, link)
            found = await sign_in.link(connection, digest, Purpose.INVITATION, self._now())
            if found is None or found.user_id is None:
                raise NotFound(LINK_GONE)
            invited = await store.get(connection, found.user_id)
        if invited is None:
            raise NotFound(LINK_GONE)
        passwords.check(password, invited.email)
        hash_ = await self._passwords.hash(password)
        async with self._database.transaction() as connection:
            used = await sign_in.use_link(connection, digest, Purpose.INVITATION, self._now())
            user = None
            if used is not None and used.user_id is not None:
                user = await store.set_password(connection, used.user_id, hash_, name or None)
            if user is None:
                raise NotFound(LINK_GONE)
            await sign_in.delete_links(connection, user.id)
            await self._record(connection, f"user:{user.id}", user, "user.accepted")
        return user

    async def sign_up(
        self, organization_number: int, email: str, password: str, name: str = "", *, address: str = ""
    ) -> User:
        """Make a client organization below one that lets whoever likes, and its first user. Raises Refused.

        The user has the role `user`: sees and claims devices. What else there is to be had is the manufacturer's to
        give, as his quotas count it. address: whence, to limit how often.
        """
        email, name = checked_email(email), _named(name)
        passwords.check(password, email)
        async with self._database.connection() as connection:
            await _open_to_sign_up(connection, organization_number)
        if wait := self._sign_ups.take(network(address), self._monotonic()):
            raise TooManyRequests("Too many sign up from your address. Try again later.", wait)
        hash_ = await self._passwords.hash(password)
        async with self._database.transaction() as connection:
            above = await _open_to_sign_up(connection, organization_number)
            check_depth(len(above.path) + 1, sign_up=False)
            organization = await self._client(connection, above, email)
            user = await self._insert(connection, organization.id, email, name, Role.USER, hash_)
            await self._record(connection, f"user:{user.id}", user, "user.signed_up", email=email)
        return user

    async def open_to_sign_up(self, organization_number: int) -> Organization:
        """The organization of this number, when whoever likes may sign up below it. Raises NotFound."""
        async with self._database.connection() as connection:
            return await _open_to_sign_up(connection, organization_number)

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
        search: str | None = None,
    ) -> list[User]:
        """The users in reach, in the order they were made, after the cursor's. Raises Refused.

        organization: only those of this one. search: with this in the e-mail address or the name.
        """
        principal.require(Permission.USERS_VIEW)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection,
                principal.organization_id,
                after=cursor,
                limit=limit,
                organization_id=only,
                search=None if search is None else unicodedata.normalize("NFC", search).strip(),
            )

    async def show(self, principal: Principal, reference: UUID | str) -> User:
        """One by id or e-mail; oneself without any permission. Raises Refused."""
        async with self._database.connection() as connection:
            return await self._reached(connection, principal, reference, Permission.USERS_VIEW)

    async def update(
        self, principal: Principal, reference: UUID | str, change: UserChange, revision: int | None = None
    ) -> User:
        """Change one, and one's own name without any permission; revision: which the change was meant for.

        A new role holds from the next call on. Raises Refused.
        """
        changes: dict[str, str] = {
            field: value for field in change.__struct_fields__ if (value := getattr(change, field)) is not UNSET
        }
        if change.name is not UNSET:
            changes["name"] = _named(change.name)
        if change.email is not UNSET:
            changes["email"] = checked_email(change.email)
        async with self._database.transaction() as connection:
            if principal.user_id is not None and changes.keys() <= {"name"}:
                found = await self._reached(connection, principal, reference, Permission.USERS_MANAGE)
                if found.id != principal.user_id:
                    _check_above(principal, found)
                found = _still(await store.lock(connection, found.id), reference)
            else:
                found = await self._managed(connection, principal, reference)
            check_revision(found.revision, revision)
            if change.role is not UNSET and change.role is not found.role:
                _check_gift(principal, change.role)
                await self._check_admins(connection, found)
            changed: User = structs.replace(found, **changes)
            try:
                written = await store.update(connection, changed)
            except UniqueViolationError:
                raise _taken() from None
            if written.email != found.email:
                await sign_in.delete_links(connection, found.id)  # they were sent to somebody else
            await self._record(connection, principal.actor, written, "user.updated", **changes)
        return written

    async def delete(self, principal: Principal, reference: UUID | str, revision: int | None = None) -> User:
        """Remove one: sessions end, devices stay where they are, without an owner. Raises Refused."""
        async with self._database.transaction() as connection:
            found = await self._managed(connection, principal, reference)
            check_revision(found.revision, revision)
            await self._check_admins(connection, found)
            await store.delete(connection, found.id)
            await self._record(connection, principal.actor, found, "user.deleted", email=found.email)
        return found

    async def reset_password(self, principal: Principal, reference: UUID | str) -> str:
        """The token of a link of RESET_PERIOD by which a user chooses a new password. Raises Refused.

        Until then the password he has is good. `SignIn.choose_password` takes the link.
        """
        async with self._database.transaction() as connection:
            user = await self._managed(connection, principal, reference)
            if not user.accepted:
                raise Conflict("This user has not accepted the invitation yet. Invite again instead.")
            link = await self._link(connection, Purpose.PASSWORD, user.id, RESET_PERIOD)
            await self._record(connection, principal.actor, user, "user.reset")
        return link

    async def _managed(self, connection: Connection, principal: Principal, reference: UUID | str) -> User:
        """A user whom the principal may manage, locked; of the root, with the root: so that its admins are counted."""
        principal.require(Permission.USERS_MANAGE)
        found = await self._reached(connection, principal, reference, Permission.USERS_MANAGE)
        organization = await organizations.get(connection, found.organization_id)
        if organization is not None and organization.parent_id is None:
            await organizations.get(connection, organization.id, lock="NO KEY UPDATE")
        locked = _still(await store.lock(connection, found.id), reference)
        _check_above(principal, locked)
        return locked

    async def _reached(
        self, connection: Connection, principal: Principal, reference: UUID | str, permission: Permission
    ) -> User:
        """A user within the principal's tree; for all but oneself with a permission."""
        id_, email = _meant(reference)
        found = await store.find(connection, principal.organization_id, id_=id_, email=email)
        if found is None and principal.home_id is not None:  # oneself is there, wherever one looks
            found = await store.find(connection, principal.home_id, id_=id_, email=email)
            found = found if found is not None and found.id == principal.user_id else None
        if found is None or found.id != principal.user_id:
            principal.require(permission)
        return _still(found, reference)

    async def _check_admins(self, connection: Connection, user: User) -> None:
        """Whether the root has an admin left who can sign in, when this one is none any more. Raises Conflict."""
        if user.role is not Role.ADMIN or not user.accepted:
            return
        organization = await organizations.get(connection, user.organization_id)
        if organization is None or organization.parent_id is not None:
            return
        if not await store.has_other_admin(connection, organization.id, user.id):
            raise Conflict("This is the last admin who can sign in. Make another one first.")

    async def _client(self, connection: Connection, above: Organization, email: str) -> Organization:
        made = ids.uuid7(self._clock(), self._random)
        try:
            async with connection.transaction():
                return await organizations.insert(connection, made, above, email)
        except UniqueViolationError:  # of somebody who had this address before
            return await organizations.insert(connection, made, above, f"{email} ({made.hex[-8:]})")

    async def _insert(
        self,
        connection: Connection,
        organization_id: UUID,
        email: str,
        name: str,
        role: Role,
        hash_: str | None = None,
    ) -> User:
        made = ids.uuid7(self._clock(), self._random)
        try:
            return await store.insert(connection, made, organization_id, email, name, role, hash_)
        except UniqueViolationError:
            raise _taken() from None

    async def _link(self, connection: Connection, purpose: Purpose, user_id: UUID, period: timedelta) -> str:
        link = ids.token(self._random)
        await insert_link(connection, self._keys, link, purpose, user_id, self._now() + period)
        return link

    async def _record(self, connection: Connection, actor: str, user: User, action: str, **detail: str) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, user.organization_id, actor, action, user.id, **detail)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def sign_up_limit() -> Buckets:
    """How many may sign up from an address."""
    return Buckets(_SIGN_UPS, _SIGN_UPS_PER_SECOND)


def link_digests(keys: ServerKeys, link: str) -> tuple[bytes, ...]:
    """What a one-time link's token may be kept as, the current one first. Whatever was sent as one has a digest."""
    return keys.digests("one-time-link", link.encode("utf-8", "replace"))


async def known_link(connection: Connection, keys: ServerKeys, link: str) -> bytes:
    """What a link's token is kept as, whatever version of the keys it was until now."""
    return await server_keys.renew(connection, "one_time_link", link_digests(keys, link), keys.current)


async def insert_link(
    connection: Connection, keys: ServerKeys, link: str, purpose: Purpose, user_id: UUID | None, expires_at: datetime
) -> None:
    """Keep a link, by its token."""
    digest = link_digests(keys, link)[0]
    await sign_in.insert_link(connection, digest, purpose, user_id, expires_at)
    await server_keys.mark(connection, "one_time_link", digest, keys.current)


async def _open_to_sign_up(connection: Connection, number: int) -> Organization:
    found = await organizations.open_to_sign_up(connection, number) if 0 < number < 2**31 else None
    if found is None:
        raise NotFound("Nobody can sign up there. Ask whoever made your device for the number, or for an invitation.")
    return found


def _meant(reference: UUID | str) -> tuple[UUID | None, str | None]:
    if isinstance(reference, UUID):
        return reference, None
    try:
        return UUID(reference), None
    except ValueError:
        pass
    try:
        return None, checked_email(reference)
    except Invalid:
        return None, None


def _still(found: User | None, reference: UUID | str) -> User:
    if found is None:
        raise NotFound(f"There is no user {str(reference)!r} whom you can see. Look in the list.")
    return found


def _check_gift(principal: Principal, role: Role) -> None:
    if not PERMISSIONS[role] <= principal.permissions:
        raise Forbidden(f"The role {role} may do more than you. Have it given by somebody who has it.")


def _check_above(principal: Principal, user: User) -> None:
    if user.id != principal.user_id and not PERMISSIONS[user.role] <= principal.permissions:
        raise Forbidden(f"This user has the role {user.role} and may do more than you. Ask somebody who has it.")


def _named(text: str) -> str:
    return checked_name(text, "A user") if text.strip() else ""


def _taken() -> Conflict:
    return Conflict(EMAIL_TAKEN)
