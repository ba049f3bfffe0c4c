"""Signing in with a password, the session that comes of it, and the link by which the first admin is made.

How often a password may be guessed is limited by address, by e-mail, and by both. A stranger who guesses uses up what
strangers have; addresses that the user has signed in from have a limit of their own, and a reset link, which an admin
gives, makes the address that uses it one of those. So nobody is locked out for longer than he is being attacked, and
not where he usually is. Limits live in memory, each process' own.
"""

import hmac
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from asyncpg import UniqueViolationError
from msgspec import structs

from provserver.core import ids, passwords
from provserver.core.accounts import User, checked_email, checked_name
from provserver.core.authorization import PERMISSIONS, Principal, Role
from provserver.core.limits import Buckets, network
from provserver.core.secrets import ServerKeys
from provserver.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from provserver.services.passwords import Passwords
from provserver.services.sign_in_failures import SignInFailures
from provserver.services.users import EMAIL_TAKEN, LINK_GONE, insert_link, known_link
from provserver.store import audit, linkfile, organizations, server_keys, users
from provserver.store import sign_in as store
from provserver.store.database import Connection, Database
from provserver.store.sign_in import Purpose

log = logging.getLogger("provserver.sign_in")

SESSION_PERIOD = timedelta(hours=12)
SET_UP_PERIOD = timedelta(hours=1)

_NOTED_EVERY = timedelta(minutes=1)
_FAMILIAR = 10_000

WRONG = "The e-mail address or the password is wrong."
SIGNED_OUT = "The session has ended. Sign in again."
SET_UP_GONE = (
    "This link is not good: it was used, or has expired. While there is no user, the server writes a new one when it "
    "starts; once there is one, sign in, or be invited."
)


class SignIn:
    """Signs users in. set_up_file: where the set-up link is written; None: there is none."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        passwords: Passwords,
        set_up_file: Path | None = None,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limits: "SignInLimits | None" = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._passwords = passwords
        self._set_up_file = set_up_file
        self._random = random
        self._clock = clock
        self._limits = limits or SignInLimits()
        self._monotonic = monotonic
        self._failures = SignInFailures(database, random, clock, monotonic)

    async def password(self, email: str, password: str, address: str) -> tuple[str, str, User]:
        """Sign in: the session's token, its CSRF token, and who it is. address: whence.

        Raises Unauthenticated, after the same time for an unknown e-mail and a wrong password; TooManyRequests.
        """
        email = checked_email(email)
        with self._limits.attempt(email, address, self._monotonic()):
            for _ in range(2):  # again, when the hash was renewed meanwhile
                token, user = await self._sign_in(email, password, address)
                if user is not None:
                    return token, self.csrf_token(token), user
            raise Unauthenticated(WRONG)

    async def drain(self) -> None:
        """Wait until what failed is recorded."""
        await self._failures.drain()

    async def authenticate(self, token: str) -> Principal:
        """Who a session is of, as he is now; it lives on for SESSION_PERIOD. Raises Unauthenticated."""
        now = self._now()
        async with self._database.connection() as connection:
            digest = await self._known(connection, token)
            session = await store.session(connection, digest, now)
            if session is None:
                raise Unauthenticated(SIGNED_OUT)
            if now - session.last_seen_at >= _NOTED_EVERY:
                await store.prolong_session(connection, digest, now, now + SESSION_PERIOD)
        return Principal(f"user:{session.user_id}", session.organization_id, PERMISSIONS[session.role], session.user_id)

    async def sign_out(self, token: str) -> None:
        """End a session; again is harmless."""
        async with self._database.transaction() as connection:
            user_id = await store.delete_session(connection, await self._known(connection, token))
            user = None if user_id is None else await users.get(connection, user_id)
            if user is not None:
                await self._record(connection, user, "user.signed_out")

    def csrf_token(self, token: str) -> str:
        """What goes with every change that a session asks for, and no other site can know."""
        return self._keys.digest("csrf", token).hex()

    def check_csrf(self, token: str, csrf_token: str) -> None:
        """Whether a change comes from our own pages. Raises Forbidden."""
        given = csrf_token.encode("utf-8", "replace")
        if not any([hmac.compare_digest(each.hex().encode(), given) for each in self._keys.digests("csrf", token)]):  # noqa: C419
            raise Forbidden("The CSRF token is missing or not this session's. Reload the page.")

    async def change_password(
        self, principal: Principal, current: str, password: str, address: str, token: str | None = None
    ) -> None:
        """Choose another password, as who has signed in; all sessions end but the one of this token. Raises Refused."""
        user, hash_ = await self._own(principal)
        passwords.check(password, user.email)
        await self._prove(user, hash_, current, address)
        new = await self._passwords.hash(password)
        async with self._database.transaction() as connection:
            if not await users.replace_hash(connection, user.id, hash_, new):
                raise Conflict("The password was changed meanwhile. Sign in again.")
            but = None if token is None else await self._known(connection, token)
            await store.delete_sessions(connection, user.id, but)
            await store.delete_links(connection, user.id)
            await self._record(connection, user, "user.password_changed")

    async def change_email(self, principal: Principal, current: str, email: str, address: str) -> User:
        """Have another e-mail address, as who has signed in and knows his password. Raises Refused.

        Links that were sent to the one before are not good any more. Sessions live on.
        """
        email = checked_email(email)
        user, hash_ = await self._own(principal)
        passwords.check_apart(current, email)
        await self._prove(user, hash_, current, address)
        async with self._database.transaction() as connection:
            found = await users.lock(connection, user.id)
            if found is None or await users.password_hash(connection, user.id) != hash_:
                raise Conflict("The password was changed meanwhile. Sign in again.")
            try:
                written = await users.update(connection, structs.replace(found, email=email))
            except UniqueViolationError:
                raise Conflict(EMAIL_TAKEN) from None
            await store.delete_links(connection, user.id)
            await self._record(connection, written, "user.updated", email=email)
        self._limits.remember(email, address)
        return written

    async def choose_password(self, link: str, password: str, address: str) -> User:
        """Choose a new password by a reset link's token; all sessions end. Raises Refused; NotFound for a dead link."""
        async with self._database.connection() as connection:
            digest = await known_link(connection, self._keys, link)
            found = await store.link(connection, digest, Purpose.PASSWORD, self._now())
            user = None if found is None or found.user_id is None else await users.get(connection, found.user_id)
        if user is None:
            raise NotFound(LINK_GONE)
        passwords.check(password, user.email)
        hash_ = await self._passwords.hash(password)
        async with self._database.transaction() as connection:
            if await store.use_link(connection, digest, Purpose.PASSWORD, self._now()) is None:
                raise NotFound(LINK_GONE)
            changed = await users.set_password(connection, user.id, hash_)
            if changed is None:
                raise NotFound(LINK_GONE)
            await store.delete_sessions(connection, user.id)
            await store.delete_links(connection, user.id)
            await self._record(connection, changed, "user.password_chosen")
        self._limits.remember(changed.email, address)
        return changed

    async def awaits_set_up(self) -> bool:
        """Whether there is no user yet."""
        async with self._database.connection() as connection:
            return not await users.any_(connection)

    async def offer_set_up(self, prefix: str) -> bool:
        """While there is no user, have a link in the file by which the first one is made: whether there is.

        prefix: what the link's token is appended to. Of several processes that start, one writes it. Raises
        Misconfigured when it cannot be written.
        """
        if self._set_up_file is None:
            return False
        async with self._database.transaction() as connection:
            await store.lock_set_up(connection)
            if await users.any_(connection):
                await store.delete_set_up_links(connection)
                linkfile.remove(self._set_up_file)
                return False
            written = linkfile.read(self._set_up_file)
            if written is not None and written.startswith(prefix):
                digest = await known_link(connection, self._keys, written.removeprefix(prefix))
                if await store.link(connection, digest, Purpose.SETUP, self._now()) is not None:
                    return True
            link = ids.token(self._random)
            await insert_link(connection, self._keys, link, Purpose.SETUP, None, self._now() + SET_UP_PERIOD)
            linkfile.write(self._set_up_file, prefix + link)
        return True

    async def set_up(self, link: str, email: str, password: str, name: str = "") -> User:
        """Make the first user, an admin of the root, by the set-up link's token. Raises Refused."""
        email, name = checked_email(email), checked_name(name, "A user") if name.strip() else ""
        async with self._database.connection() as connection:
            digest = await known_link(connection, self._keys, link)
            if await store.link(connection, digest, Purpose.SETUP, self._now()) is None:
                raise NotFound(SET_UP_GONE)
        passwords.check(password, email)
        hash_ = await self._passwords.hash(password)
        async with self._database.transaction() as connection:
            await store.lock_set_up(connection)
            if await store.use_link(connection, digest, Purpose.SETUP, self._now()) is None:
                raise NotFound(SET_UP_GONE)
            if await users.any_(connection):
                raise Conflict("The server is set up already. Sign in, or be invited.")
            root = await organizations.root(connection)
            made = ids.uuid7(self._clock(), self._random)
            user = await users.insert(connection, made, root.id, email, name, Role.ADMIN, hash_)
            await self._record(connection, user, "user.set_up", email=email)
        if self._set_up_file is not None:
            try:
                linkfile.remove(self._set_up_file)
            except Misconfigured as fault:  # the user is made, and the link dead
                log.warning("%s", fault)
        return user

    async def _sign_in(self, email: str, password: str, address: str) -> tuple[str, User | None]:
        """A session's token and its user; None when the password's hash changed meanwhile. Raises Unauthenticated."""
        async with self._database.connection() as connection:
            found = await users.credentials(connection, email)
        user, hash_ = (None, None) if found is None else found
        right = await self._passwords.verify(hash_, password)
        if not right or user is None or hash_ is None:
            log.info("a sign-in from %s was refused: unknown e-mail address or wrong password", address)
            self._failures.note(user, address)
            raise Unauthenticated(WRONG)
        token = ids.token(self._random)
        now = self._now()
        async with self._database.transaction() as connection:
            digest = self._digest(token)
            if not await store.insert_session(connection, digest, user.id, hash_, now, now + SESSION_PERIOD):
                return token, None
            await server_keys.mark(connection, "user_session", digest, self._keys.current)
            active = user if user.activated_at else await users.activate(connection, user.id, now)
            await self._record(connection, user, "user.signed_in", address=address)
        await self._renew(user.id, hash_, password)
        return token, active

    async def _own(self, principal: Principal) -> tuple[User, str]:
        """Who has signed in, and the hash of the password. Raises Conflict."""
        async with self._database.connection() as connection:
            user = None if principal.user_id is None else await users.get(connection, principal.user_id)
            hash_ = None if user is None else await users.password_hash(connection, user.id)
        if user is None or hash_ is None:
            raise Conflict("An API key has no password. Sign in as a user.")
        return user, hash_

    async def _prove(self, user: User, hash_: str, current: str, address: str) -> None:
        """Whether who has signed in knows his password. Raises Invalid, TooManyRequests."""
        with self._limits.attempt(user.email, address, self._monotonic()):
            if not await self._passwords.verify(hash_, current):
                self._failures.note(user, address)
                raise Invalid("The current password is wrong.")

    async def _renew(self, user_id: UUID, hash_: str, password: str) -> None:
        """Hash a password anew that was hashed with other parameters than today's; another time, when all is busy."""
        if not passwords.outdated(hash_):
            return
        try:
            new = await self._passwords.hash(password)
            async with self._database.connection() as connection:
                await users.replace_hash(connection, user_id, hash_, new)
        except (TooManyRequests, Unavailable):
            return

    async def _record(self, connection: Connection, user: User, action: str, **detail: str) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, user.organization_id, f"user:{user.id}", action, user.id, **detail)

    async def _known(self, connection: Connection, token: str) -> bytes:
        """What a session's token is kept as, whatever version of the keys it was until now."""
        digests = self._keys.digests("session", token.encode("utf-8", "replace"))
        return await server_keys.renew(connection, "user_session", digests, self._keys.current)

    def _digest(self, token: str) -> bytes:
        return self._keys.digest("session", token.encode("utf-8", "replace"))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


class SignInLimits:
    """How often passwords may be guessed."""

    def __init__(self) -> None:
        self._addresses = Buckets(20, 1 / 6)
        self._pairs = Buckets(5, 1 / 60)  # so that one stranger cannot use up what an e-mail has
        self._emails = Buckets(100, 1 / 10)
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    @contextmanager
    def attempt(self, email: str, address: str, now: float) -> Iterator[None]:
        """An attempt; what it takes is given back when it succeeds, or when nothing was learnt of the password.

        Raises TooManyRequests, and then takes nothing.
        """
        where = network(address)
        wanted: list[tuple[Buckets, Hashable]] = [(self._addresses, where), (self._pairs, (email, where))]
        if (email, where) not in self._familiar:
            wanted.append((self._emails, email))
        taken: list[tuple[Buckets, Hashable]] = []
        for buckets, key in wanted:
            if wait := buckets.take(key, now):
                _give_back(taken, now)
                log.warning("sign-ins from %s are refused: too many", address)
                raise TooManyRequests("Too many attempts to sign in. Try again later.", wait)
            taken.append((buckets, key))
        try:
            yield
        except (TooManyRequests, Unavailable):
            _give_back(taken, now)
            raise
        _give_back(taken, now)
        self.remember(email, address)

    def remember(self, email: str, address: str) -> None:
        """Have an address be one that the user of an e-mail signs in from."""
        key = (email, network(address))
        self._familiar[key] = None
        self._familiar.move_to_end(key)
        if len(self._familiar) > _FAMILIAR:
            self._familiar.popitem(last=False)


def _give_back(taken: list[tuple[Buckets, Hashable]], now: float) -> None:
    for buckets, key in taken:
        buckets.give_back(key, now)
