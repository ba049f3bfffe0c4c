"""WiFi sessions, for operators and for people who put their devices onto WiFi: tokens, and what became of them.

A session for a device to be: the token is good once, until it expires, for whichever device reports a template that the
organization may use (`placeholders.py`). A session for a device that is there: its next token, pending as those of a
rotation are, so that the present one is good until the new one first connects.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from provserver.core import credentials as building
from provserver.core import ids, wifisession
from provserver.core.authorization import Permission, Principal
from provserver.core.credentials import has_control_characters
from provserver.core.model import Credentials, CredentialsType, Origin
from provserver.core.moment import in_utc
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import Value
from provserver.core.wifisession import MAX_DETAIL, MAX_NAME, Summary, WifiSession, WifiState
from provserver.errors import Conflict, Forbidden, Invalid, NotFound
from provserver.services.claiming import ClaimLimits
from provserver.services.credentials import seal_credentials
from provserver.services.devices import seen
from provserver.services.limits import wifi_limits
from provserver.services.organizations import check_quota, reach
from provserver.services.rotation import add_pending, fresh_token, opened
from provserver.store import audit, claiming, devices, quarantine, rotation
from provserver.store import wifi_sessions as store
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.wifi_sessions import Due

LIFE = timedelta(minutes=30)
"""How long a token waits for its device."""

MAX_OPEN = 10_000
"""Sessions of one organization that are not over."""

MAX_OPEN_EACH = 1_000
"""Those that one of its people, or one key, asked for: nobody takes what there is for all."""

BATCH = 500
"""Sessions that are looked at together."""

KEPT = timedelta(days=90)
"""How long a session is kept that is over; one whose device came of it is kept with that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a session is to be for.

    organization: that is to have the device; None: the owner's, else the principal's. owner: a user, by id or e-mail;
    None: whoever asks, if that is a person. template: a profile by template id, name or id; None: the device says it.
    name: the device's, with a part of its id behind it unless the organization is its maker. device: one that is there,
    by name or id: it keeps its id and all it has. client: with what it is asked for.
    """

    organization: UUID | str | None = None
    owner: UUID | str | None = None
    template: str | None = None
    name: str | None = None
    device: UUID | str | None = None
    client: str = "app"


@dataclass(frozen=True, slots=True)
class Requested:
    """A session, and its token, which is shown this once."""

    session: WifiSession
    token: str = field(repr=False)


class WifiSessions:
    """The sessions, as far down the tree as a principal reaches.

    life: of their tokens. limits: how often people may ask; programs, with keys, may as often as they like.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        life: timedelta = LIFE,
        limits: ClaimLimits | None = None,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._life = life
        self._limits = limits or wifi_limits()
        self._random = random
        self._clock = clock
        self._monotonic = monotonic

    async def request(self, principal: Principal, wanted: Wanted) -> Requested:
        """Begin a session: a token for a device to be, or the next one of a device that is there. Raises Refused."""
        self._admit(principal)
        if not wifisession.is_client(wanted.client):
            raise Invalid("The client is a short word: lower-case letters, digits, - and _, 32 at most.")
        if wanted.device is not None:
            if (wanted.organization, wanted.owner, wanted.template, wanted.name) != (None, None, None, None):
                raise Invalid("A device that is there keeps its name, template and owner. Name the device alone.")
            return await self._again(principal, wanted.device, wanted.client)
        if wanted.name is not None and (
            not wanted.name.strip() or len(wanted.name) > MAX_NAME or has_control_characters(wanted.name)
        ):
            raise Invalid(f"The device's name has 1 to {MAX_NAME} characters, and no control characters.")
        return await self._anew(principal, wanted)

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
        state: WifiState | None = None,
    ) -> list[WifiSession]:
        """The sessions in reach, newest first, from before the cursor's on; of one organization, or all.

        Raises Refused.
        """
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.transaction() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            await settle(connection, only or principal.organization_id)
            return await store.list_(
                connection, principal.organization_id, before=cursor, limit=limit, organization_id=only, state=state
            )

    async def show(self, principal: Principal, id_: UUID) -> WifiSession:
        """One, as it is now. Raises Refused."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.transaction() as connection:
            await self._find(connection, principal, id_)
            await settle(connection, id_=id_)
            return await self._find(connection, principal, id_)

    async def summary(
        self, principal: Principal, *, organization: UUID | str | None = None, since: datetime | None = None
    ) -> Summary:
        """What became of the sessions in reach, of one organization or all, begun from a time on. Raises Refused."""
        principal.require(Permission.DEVICES_VIEW)
        begin = None if since is None else in_utc(since, "The begin of the time")
        async with self._database.transaction() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            await settle(connection, only or principal.organization_id)
            return await store.summary(connection, principal.organization_id, organization_id=only, since=begin)

    async def note(
        self, principal: Principal, id_: UUID, event: str, detail: str | None = None, error: str | None = None
    ) -> WifiSession:
        """Keep what the phone side saw; error: becomes the last error, and the session goes on. Raises Refused."""
        _check_word(event)
        if error is not None:
            _check_word(error)
        if detail is not None and (len(detail) > MAX_DETAIL or has_control_characters(detail)):
            raise Invalid(f"The detail has {MAX_DETAIL} characters at most, and no control characters.")
        async with self._database.transaction() as connection:
            await self._own(connection, principal, id_)
            if not await store.note(connection, id_, event, detail, error):
                raise _over()
            return await self._find(connection, principal, id_)

    async def cancel(self, principal: Principal, id_: UUID) -> WifiSession:
        """End a session: its token is good no more. Raises Refused."""
        return await self._end(principal, id_, WifiState.CANCELED)

    async def fail(self, principal: Principal, id_: UUID, error: str) -> WifiSession:
        """End a session that came to nothing: its token is good no more. Raises Refused."""
        _check_word(error)
        return await self._end(principal, id_, WifiState.FAILED, error)

    async def reconfigure(self, principal: Principal, device: UUID | str) -> bool:
        """Have a device open its access point, if it is connected; whether it is. Raises Refused."""
        self._admit(principal)
        async with self._database.transaction() as connection:
            found = await seen(connection, principal.organization_id, device)
            _require_say(principal, found)
            online = await store.reconfigure(connection, found.id)
            await self._record(
                connection, principal, found.holder_id, "device.reconfigured", found.id, name=found.name, online=online
            )
        return online

    def _admit(self, principal: Principal) -> None:
        """Let somebody try once who may. Raises Refused."""
        principal.require(Permission.DEVICES_CLAIM)
        if principal.user_id is not None:
            self._limits.take(principal, "", self._monotonic())

    async def _anew(self, principal: Principal, wanted: Wanted) -> Requested:
        id_ = ids.uuid7(self._clock(), self._random)
        token = building.access_token(ids.token(self._random))
        async with self._database.transaction() as connection:
            organization_id, owner_id = await self._recipient(connection, principal, wanted)
            await check_quota(connection, organization_id, devices=1)
            await self._check_open(connection, principal, organization_id)
            profile_id = None
            if wanted.template is not None:
                reference = "" if has_control_characters(wanted.template) else wanted.template
                profile_id = await store.usable(connection, organization_id, reference)
                if profile_id is None:
                    raise NotFound(
                        f"There is no template {wanted.template!r} that the organization may use. "
                        "Look in the list of profiles."
                    )
            await store.insert(
                connection,
                id_,
                organization_id,
                id_,
                self._life,
                owner_id=owner_id,
                requester=principal.actor,
                client=wanted.client,
                profile_id=profile_id,
                device_name=wanted.name,
                id_digest=self._keys.digest("credentials", token.id),
                sealed=seal_credentials(self._keys, id_, token, self._random),
            )
            return await self._requested(connection, principal, id_, token)

    async def _again(self, principal: Principal, reference: UUID | str, client: str) -> Requested:
        id_ = ids.uuid7(self._clock(), self._random)
        async with self._database.transaction() as connection:
            device = await seen(connection, principal.organization_id, reference)
            await devices.lock(connection, device.id)
            device = await seen(connection, principal.organization_id, device.id)
            _require_say(principal, device)
            if device.maker_id is None and not await store.has_made(connection, device.id):
                raise Forbidden("This device's credentials are its maker's. Have the maker re-provision it.")
            token = await self._next_token(connection, device)
            await self._check_open(connection, principal, device.holder_id)
            await store.insert(
                connection,
                id_,
                device.holder_id,
                device.id,
                self._life,
                owner_id=device.owner_id,
                requester=principal.actor,
                client=client,
                profile_id=device.profile_id,
                device_name=device.name,
            )
            return await self._requested(connection, principal, id_, token)

    async def _next_token(self, connection: Connection, device: DeviceSummary) -> Credentials:
        """What is to follow a device's token, in place of whatever was to."""
        if await quarantine.get(connection, device.id) is not None:
            raise Conflict(f"{device.name!r} is in quarantine. Let it out first: provserver device release.")
        found = await rotation.lock(connection, device.id)
        assert found is not None  # noqa: S101 - it is held
        if found.static:
            raise Conflict("The device came of a static token, which stays its token: write that to it again.")
        held = [opened(self._keys, device.id, row) for row in await rotation.held(connection, device.id)]
        if any(each.credentials.type is not CredentialsType.ACCESS_TOKEN for each in held if not each.pending):
            raise Conflict("The device has other credentials than a token, and a token cannot follow them.")
        for session in await store.open_of(connection, device.id):
            await store.end(connection, session, WifiState.CANCELED)
        token = fresh_token(self._random)
        origin = Origin.GENERATED
        await add_pending(connection, self._keys, device.id, found, token, origin, self._clock(), self._random)
        return token

    async def _requested(
        self, connection: Connection, principal: Principal, id_: UUID, token: Credentials
    ) -> Requested:
        session = await self._find(connection, principal, id_)
        await self._record(
            connection,
            principal,
            session.organization_id,
            "wifi_session.requested",
            id_,
            device_id=str(session.device_id),
            again=session.reprovisioning,
            client=session.client,
        )
        return Requested(session, token.id)

    async def _recipient(
        self, connection: Connection, principal: Principal, wanted: Wanted
    ) -> tuple[UUID, UUID | None]:
        """The organization that is to have a device, and the user who is to own it."""
        organization_id = None
        if wanted.organization is not None:
            organization_id = (await reach(connection, principal, wanted.organization)).id
        own = principal.owner_id
        if wanted.owner is None or (own is not None and str(wanted.owner) == str(own)):
            if organization_id in (None, principal.organization_id):
                if principal.user_id is not None and not await claiming.keep_user(connection, principal.user_id):
                    raise NotFound("Your account is not there any more. Sign in again.")
                return principal.organization_id, own
            if wanted.owner is None and organization_id is not None:
                return organization_id, None
            raise Invalid("The owner is a user of the organization that is to have the device.")
        principal.require(Permission.USERS_VIEW)
        owner = None
        if isinstance(wanted.owner, UUID) or not has_control_characters(wanted.owner):
            owner = await claiming.owner(connection, principal.organization_id, wanted.owner)
        if owner is None:
            raise NotFound("There is no such user that you can see. Look him up in the list.")
        if not owner.activated:
            raise Conflict("This user has never signed in. Have the invitation accepted first.")
        if organization_id not in (None, owner.organization_id):
            raise Invalid("The owner is a user of the organization that is to have the device.")
        return owner.organization_id, owner.id

    async def _check_open(self, connection: Connection, principal: Principal, organization_id: UUID) -> None:
        all_, own = await store.count_open(connection, organization_id, principal.actor)
        if own >= MAX_OPEN_EACH:
            raise Conflict(
                f"{MAX_OPEN_EACH:,} WiFi sessions of yours are open. Wait until some are over, or cancel them."
            )
        if all_ >= MAX_OPEN:
            raise Conflict(f"{MAX_OPEN:,} WiFi sessions are open. Wait until some are over, or cancel them.")

    async def _end(self, principal: Principal, id_: UUID, state: WifiState, error: str | None = None) -> WifiSession:
        async with self._database.transaction() as connection:
            session = await self._own(connection, principal, id_)
            due = Due(id_, session.device_id, session.reprovisioning)
            ended = await store.end(connection, due, state, error)
            found = await self._find(connection, principal, id_)
            if ended and found.state is state:
                action = f"wifi_session.{state.lower()}"
                await self._record(connection, principal, found.organization_id, action, id_)
        if not ended or found.state is not state:
            raise _over()
        return found

    async def _own(self, connection: Connection, principal: Principal, id_: UUID) -> WifiSession:
        """A session that the principal has a say in: who asked for it, who is to own the device, or manages devices."""
        session = await self._find(connection, principal, id_)
        principal.require(Permission.DEVICES_CLAIM)
        if session.requester != principal.actor and (session.owner_id is None or session.owner_id != principal.user_id):
            principal.require(Permission.DEVICES_MANAGE)
        return session

    async def _find(self, connection: Connection, principal: Principal, id_: UUID) -> WifiSession:
        found = await store.find(connection, principal.organization_id, id_)
        if found is None:
            raise NotFound(f"There is no WiFi session {str(id_)!r} that you can see. Look in the list.")
        return found

    async def _record(
        self,
        connection: Connection,
        principal: Principal,
        organization_id: UUID,
        action: str,
        subject_id: UUID,
        **detail: Value,
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, organization_id, principal.actor, action, subject_id, **detail)


async def settle(connection: Connection, above: UUID | None = None, id_: UUID | None = None) -> bool:
    """End the sessions whose time is over, and those whose device came back with its new token; whether there are more.

    Who takes over pending credentials knows nothing of sessions, so it is looked at here, by whoever wants to know.
    above, id_: only those of an organization and all below it; only this one. Nobody who looks waits for others'.
    """
    due = await store.due(connection, BATCH, above, id_)
    for session in due:
        await store.end(connection, session, WifiState.EXPIRED)
    return len(due) == BATCH


def _require_say(principal: Principal, device: DeviceSummary) -> None:
    """A device's owner may, and who manages devices."""
    if device.owner_id is None or device.owner_id != principal.user_id:
        principal.require(Permission.DEVICES_MANAGE)


def _check_word(text: str) -> None:
    if not wifisession.is_word(text):
        raise Invalid("Events and errors are words of lower-case letters, digits and _, 64 at most.")


def _over() -> Conflict:
    return Conflict("This WiFi session is over. Request another one.")
