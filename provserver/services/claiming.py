"""Claims of devices: by a static token's QR code, a LoRaWAN device's or a secret; and by the device's own word.

What nobody may know is not told: a QR code that is unknown, deleted, claimed, or another manufacturer's gets one
answer.
"""

import hmac
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from provserver.core import claiming as reading
from provserver.core import ids, qr, statictoken, tr005
from provserver.core.authorization import Permission, Principal
from provserver.core.credentials import has_control_characters
from provserver.core.integration import ClaimProof
from provserver.core.limits import Buckets, network
from provserver.core.model import Authenticated
from provserver.core.secrets import ServerKeys
from provserver.core.statictoken import TokenStatus
from provserver.core.telemetry import Value
from provserver.core.tr005 import DeviceCode
from provserver.errors import Conflict, Invalid, NotFound, TooManyRequests, Unavailable
from provserver.services.ownership import Ownership, Recipient, owned
from provserver.store import claiming as store
from provserver.store import devices, lorawan_claims
from provserver.store.claiming import Appearing, Candidate, Claimable
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.lorawan_claims import Coded

CONFIRMATION_PERIOD = timedelta(seconds=60)
"""How long a claim waits for the word of its device, where the profile wants that."""

LORAWAN_CONFIRMATION_PERIOD = timedelta(minutes=15)
"""The same of a LoRaWAN device, which has to join its network first."""

MAX_NAMES = 5
"""How often a device's name is chosen again that another one has just taken."""

UNCLAIMABLE = (
    "This QR code cannot be claimed. Check that it is of your manufacturer and was not used before; "
    "whoever had the device must release it first."
)
CONTENDED = (
    "Somebody else claims this device just now, so nobody gets it. Try again a minute after the other has given up, "
    "or a quarter of an hour if it is a LoRaWAN device."
)
UNCLAIMABLE_DEVICE = (
    "This device cannot be claimed. Check its name and secret, and have the device say again that it may be claimed."
)


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """How often devices may be claimed, or put onto WiFi, tried or done: at once, and for each second on top of that.

    guesses: how often in vain, from one address; who has many accounts is one guesser. what: there is too much of, for
    people.
    """

    principal: Buckets = field(default_factory=lambda: Buckets(10, 10 / 60))
    organization: Buckets = field(default_factory=lambda: Buckets(100, 1))
    guesses: Buckets = field(default_factory=lambda: Buckets(20, 1 / 6))
    what: str = "claims"

    def take(self, principal: Principal, address: str, now: float) -> None:
        """Let somebody try once. address: whence; empty on the server's own machine. Raises TooManyRequests."""
        home = principal.home.organization_id  # to choose one below it is no way around
        actor = (home, principal.actor)
        wait = self.guesses.wait(network(address), now) if address else 0.0
        wait = wait or self.principal.take(actor, now)
        if not wait:
            wait = self.organization.take(home, now)
            if wait:
                self.principal.give_back(actor, now)
        if wait:
            raise TooManyRequests(f"Too many {self.what}. Try again in {math.ceil(wait)} s.", wait)

    def guessed(self, address: str, now: float) -> None:
        """What was to be claimed was not there, or not by this code or secret."""
        if address:
            self.guesses.take(network(address), now)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What came of a claim. device: as the claimer sees it; None while it has to say yes, until `expires_at`."""

    id: UUID
    device: DeviceSummary | None
    expires_at: datetime | None = None


class Claiming(Ownership):
    """Claims (spec static-tokens A.4, thingsboard §7.4)."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        limits: ClaimLimits | None = None,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, random=random, clock=clock)
        self._keys = keys
        self._limits = limits or ClaimLimits()
        self._monotonic = monotonic

    async def claim(
        self, principal: Principal, code: str, user: UUID | str | None = None, *, address: str = ""
    ) -> Claimed:
        """Claim the device of a QR code, connected or not, for oneself or (with users:view) for a user of one's tree.

        A LoRaWAN device's code (TR005) is no secret: what is demanded besides is its profile's integration's to say.
        Where the profile wants it, the claim waits for the device's word. address: whence. Raises Refused.
        """
        with self._admitted(principal, address):
            return await self._claim(principal, code, user)

    async def _claim(self, principal: Principal, code: str, user: UUID | str | None) -> Claimed:
        token, device = "", None  # nobody's token is looked up as any other: the answer is the same, and takes as long
        try:
            token = qr.parse(code).token
        except qr.InvalidPayload:
            device = _device_code(code)
        digests, lorawan = statictoken.qr_digests(self._keys, token), False
        async with self._transaction() as connection:
            recipient = await self._recipient(connection, principal, user)
            if device is not None and (coded := await self._coded(connection, recipient, device)) is not None:
                digests, lorawan = (coded.qr_digest,), coded.proof is ClaimProof.DEVICE
            claimable = await store.claim(connection, digests, recipient.organization_id, two_sided=lorawan)
            if claimable is None:
                raise NotFound(UNCLAIMABLE)
            if not claimable.two_sided:
                await self._complete(connection, claimable, recipient, principal.actor)
                return await self._claimed(connection, principal, claimable.id)
            begun = await self._begin(connection, principal, claimable, recipient, lorawan=lorawan)
        if begun is None:  # which stays
            raise Conflict(CONTENDED)
        return begun

    async def _coded(self, connection: Connection, recipient: Recipient, code: DeviceCode) -> Coded | None:
        """The static token that a LoRaWAN device's code is of, if it proves what its profile demands."""
        found = await lorawan_claims.coded(
            connection, recipient.organization_id, code.profile_id, code.join_eui, code.dev_eui
        )
        for each in found:
            if each.proof is not ClaimProof.OWNER_TOKEN:
                return each
            qr_token = statictoken.open_qr(self._keys, each.id, each.qr_sealed)
            owner_token = statictoken.owner_token(each.metadata, qr_token)
            if hmac.compare_digest(owner_token.encode(), code.owner_token.encode()):
                return each
        return None

    async def claim_device(
        self,
        principal: Principal,
        reference: str,
        secret: str = "",
        user: UUID | str | None = None,
        *,
        address: str = "",
    ) -> Claimed:
        """Claim a device by its name or id and the secret that it, or its `claimingData`, has told. Raises Refused.

        With another secret the device's word is used up: it has to say again that it may be claimed. Where claims wait
        for the device's word, and without a secret where there is a static token, the code is the only way.
        """
        with self._admitted(principal, address):
            return await self._claim_device(principal, reference, secret, user)

    async def _claim_device(
        self, principal: Principal, reference: str, secret: str, user: UUID | str | None
    ) -> Claimed:
        async with self._transaction() as connection:
            recipient = await self._recipient(connection, principal, user)
            found = await self._candidates(connection, recipient, reference)
            match = next(filter(None, (self._matching(candidate, secret) for candidate in found)), None)
            if match is not None and await self._take(connection, match, recipient, principal.actor):
                return await self._claimed(connection, principal, match.id)
            if match is None:
                await store.spoil(connection, [each for each in found if each.secret_digest is not None])
        raise NotFound(UNCLAIMABLE_DEVICE)

    async def outcome(self, principal: Principal, id_: UUID) -> Claimed:
        """What has come of a claim of one's own: waiting as long as it has an end, over when it has no device either.

        Whoever may not know of the device hears the same as of one that nobody has. Raises Refused.
        """
        principal.require(Permission.DEVICES_CLAIM)
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.transaction() as connection:
            waits = await store.pending(connection, id_, principal.organization_id, principal.actor)
            device = None if waits else await devices.get(connection, principal.organization_id, id_)
        if device is not None and device.static_token != TokenStatus.CLAIMED:
            device = None
        return Claimed(id_, device, waits)

    async def confirm(self, device: Authenticated) -> bool:
        """The word of a device: the claim that waits for it comes true.

        False when none does and the word may be kept for whoever comes with its secret. Raises Refused, Unavailable.
        """
        async with self._database.connection() as connection:
            awaited = await store.awaited(connection, device.device_id)
        if awaited is None:
            return False
        if not awaited.waits:
            return awaited.two_sided
        async with self._transaction() as connection:
            if awaited.user_id is not None and not await store.keep_user(connection, awaited.user_id):
                return awaited.two_sided
            waiting = await store.confirm(connection, device.device_id, awaited.user_id)
            if waiting is None:
                return awaited.two_sided
            recipient = Recipient(waiting.organization_id, waiting.user_id)
            await self._complete(connection, waiting.token, recipient, waiting.actor, confirmed=True)
            return True

    @contextmanager
    def _admitted(self, principal: Principal, address: str) -> Iterator[None]:
        """Let somebody try once, and count what he claims in vain as a guess of his address."""
        principal.require(Permission.DEVICES_CLAIM)
        principal.require(Permission.DEVICES_VIEW)
        now = self._monotonic()
        self._limits.take(principal, address, now)
        try:
            yield
        except NotFound:
            self._limits.guessed(address, now)
            raise

    async def _recipient(self, connection: Connection, principal: Principal, user: UUID | str | None) -> Recipient:
        """Whoever a claim is for: the principal itself if it names nobody."""
        owner = principal.owner_id
        if user is not None and (owner is None or str(user) != str(owner)):
            principal.require(Permission.USERS_VIEW)
            return await self._user(connection, principal, user)
        if principal.home_id is not None:  # for others, as much as when they are named
            principal.require(Permission.USERS_VIEW)
        if principal.user_id is not None and not await store.keep_user(connection, principal.user_id):
            raise NotFound("Your account is not there any more. Sign in again.")
        return Recipient(principal.organization_id, owner)

    async def _begin(
        self,
        connection: Connection,
        principal: Principal,
        claimable: Claimable,
        recipient: Recipient,
        *,
        lorawan: bool = False,
    ) -> Claimed | None:
        """Have a claim wait for its device; None when another one's does or did just now: then neither does.

        lorawan: the device has to be in its network to say anything.
        """
        there = await self._there(connection, claimable)
        await self._check_quota(connection, recipient, there)
        if lorawan:
            if there is None:
                await self._make(connection, claimable)
            await self._onboard(connection, claimable.id, principal.actor)
        expires_at = await store.pend(
            connection,
            claimable.id,
            recipient.organization_id,
            recipient.user_id,
            principal.actor,
            LORAWAN_CONFIRMATION_PERIOD if lorawan else CONFIRMATION_PERIOD,
        )
        if expires_at is None:  # told to the maker, as the two are not for each other to know
            await self._record(
                connection, claimable.maker_id, principal.actor, "static_token.claim_contended", claimable.id
            )
            return None
        await self._record(
            connection, recipient.organization_id, principal.actor, "static_token.claim_begun", claimable.id
        )
        return Claimed(claimable.id, None, expires_at)

    async def _complete(
        self,
        connection: Connection,
        claimable: Claimable,
        recipient: Recipient,
        actor: str,
        **detail: Value,
    ) -> None:
        """Do what is left of a claim whose token is claimed: its device, which is made if need be, changes hands."""
        there = await self._there(connection, claimable)
        await self._check_quota(connection, recipient, there)
        if there is None:
            await self._make(connection, claimable)
        await store.give(connection, claimable.id, recipient.organization_id, recipient.user_id)
        await self._tell_claimed(connection, claimable.id, recipient)
        await self._onboard(connection, claimable.id, actor)
        await self._record(
            connection,
            recipient.organization_id,
            actor,
            "static_token.claimed",
            claimable.id,
            **owned(recipient),
            **detail,
        )

    async def _there(self, connection: Connection, claimable: Claimable) -> UUID | None:
        """The organization that has the device of an unclaimed token; None when it is not there yet."""
        return claimable.maker_id if await store.has_device(connection, claimable.id) else None

    async def _make(self, connection: Connection, claimable: Claimable) -> None:
        for _ in range(MAX_NAMES):
            event_id = ids.uuid7(self._clock(), self._random)
            (appeared,) = await store.appear(connection, [Appearing(claimable.id_digest, event_id, None)], used=False)
            if appeared.made or appeared.there:
                return
        raise Unavailable("Others make devices of the same name just now.")

    @staticmethod
    async def _candidates(connection: Connection, recipient: Recipient, reference: str) -> list[Candidate]:
        if has_control_characters(reference):
            return []
        return await store.candidates(connection, recipient.organization_id, reference)

    def _matching(self, candidate: Candidate, secret: str) -> Candidate | None:
        """What of a device's permission to be claimed this secret fits; None: nothing."""
        if candidate.static and not secret:  # its code is; what names such devices have can be guessed
            return None
        given = secret.encode(errors="replace")
        if candidate.secret_digest is not None and self._keys.verify(
            candidate.secret_digest, "claim-secret", candidate.id.bytes, given
        ):
            return candidate
        told = reading.read_claiming_data(candidate.claiming_data)
        if told is None or told.expires_at <= self._clock() * 1000:
            return None
        if not hmac.compare_digest(told.secret.encode(), given):
            return None
        return candidate._replace(secret_digest=None)

    async def _take(self, connection: Connection, match: Candidate, recipient: Recipient, actor: str) -> bool:
        """Claim a device by the permission that fits; False when somebody else was faster."""
        holding = await store.hold(connection, match.id)
        if holding is None or not holding.has_device or holding.claimed:
            return False
        if not await store.consume(connection, match):
            return False
        if (recipient.organization_id, recipient.user_id) == (holding.maker_id, None) and not holding.status:
            raise Invalid("Your organization has this device already. Name the user who is to own it.")
        await self._check_quota(connection, recipient, holding.holder_id)
        await store.give(connection, match.id, recipient.organization_id, recipient.user_id)
        await self._tell_claimed(connection, match.id, recipient)
        await self._onboard(connection, match.id, actor)
        action = "device.claimed" if holding.status is None else "static_token.claimed"
        await self._record(connection, recipient.organization_id, actor, action, match.id, **owned(recipient))
        return True

    async def _claimed(self, connection: Connection, principal: Principal, id_: UUID) -> Claimed:
        return Claimed(id_, await self._seen(connection, principal, id_))


def _device_code(text: str) -> DeviceCode | None:
    """What a LoRaWAN device's code says; None when it is none, or lacks what a claim needs. Raises Invalid."""
    try:
        code = tr005.parse(text)
    except tr005.WrongChecksum:
        raise Invalid("The checksum of this code does not fit. Scan it once more.") from None
    except tr005.InvalidCode:
        return None
    return code if code.join_eui and code.profile_id else None
