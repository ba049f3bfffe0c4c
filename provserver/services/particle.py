"""Particle's products, for operators: which profile's static tokens their devices get, and the jobs that see to it."""

import os
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError
from msgspec import UNSET, Struct, UnsetType

from provserver.core import ids, particle
from provserver.core.authorization import Permission, Principal
from provserver.core.particle import Acting, Check, InvalidName, Pace, Place, Run
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.telemetry import Value
from provserver.errors import Conflict, Invalid, NotFound, Unavailable
from provserver.services.job_runner import Failed, Job, JobKind, Retry, Steps
from provserver.services.organizations import check_revision, reach
from provserver.services.particle_tokens import Busy, ProfileTokens
from provserver.store import audit, jobs, static_tokens
from provserver.store import particle as store
from provserver.store.database import Connection, Database
from provserver.store.particle import ParticleProduct

if TYPE_CHECKING:
    from provserver.adapters.outgoing import Outgoing

__all__ = ["Acting", "ParticleJob", "ParticleProduct", "ParticleProducts", "ProductChange", "connect"]

KINDS = {acting: f"particle.{acting.value}" for acting in Acting}

BUSY = 5.0
"""Seconds after which it is looked again whether another run is done."""


TRIES_OF_DEVICES = 3
"""Tries of a job for the sake of devices that Particle does not take, while it takes others."""


def connect(private: str) -> "Outgoing":
    """A client that may go to public addresses and to the option `outgoing_private`. Raises Misconfigured."""
    from provserver.adapters.outgoing import Outgoing, networks  # here, as they are slow to load
    from provserver.adapters.particle import MAX_RESPONSE

    return Outgoing(networks(private), max_response=MAX_RESPONSE)


class ProductChange(Struct, frozen=True):
    """What to change; what is unset stays."""

    url: str | UnsetType = UNSET
    org: str | UnsetType = UNSET
    product: str | UnsetType = UNSET
    ledger: str | UnsetType = UNSET
    access_token: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return "<ProductChange>"


class ParticleProducts:
    """The products, as far down the tree as a principal reaches. All raise Refused.

    connect: makes a client, by which it is known where an access token may go in clear.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        *,
        connect: Callable[[], "Outgoing"] = lambda: connect(""),
    ) -> None:
        self._database = database
        self._keys = keys
        self._connect = connect
        self._random = random
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        profile: str,
        product: str,
        access_token: str,
        *,
        ledger: str = particle.LEDGER,
        org: str = "",
        url: str = particle.URL,
    ) -> ParticleProduct:
        """Have a product's devices get a profile's static tokens. Nothing is asked of Particle yet."""
        principal.require(Permission.TOKENS_MANAGE)
        values = _checked(ProductChange(url, org, product, ledger, access_token))
        await self._check_address(values["url"])  # outside the transaction, as it may wait for DNS
        made = ids.uuid7(self._clock(), self._random)
        sealed = self._seal(made, values.pop("access_token"))
        try:
            async with self._database.transaction() as connection:
                found = await static_tokens.find_profile(connection, principal.organization_id, profile)
                if not found:
                    raise NotFound(f"There is no profile {profile!r} that you can see. Look in the list of profiles.")
                if len(found) > 1:
                    raise Conflict(f"Several organizations have a profile {profile!r}. Give its id.")
                added = await store.insert(
                    connection,
                    made,
                    found[0].organization_id,
                    found[0].id,
                    **values,
                    sealed=sealed,
                    created_by=principal.actor,
                )
                await self._record(connection, principal, added, "particle.connected")
        except UniqueViolationError:
            raise _taken() from None
        return added

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
    ) -> list[ParticleProduct]:
        """The products in reach, in the order they were connected, after the cursor's; of one organization, or all."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection, principal.organization_id, after=cursor, limit=limit, organization_id=only
            )

    async def show(self, principal: Principal, reference: str) -> ParticleProduct:
        """One by its id, Particle's product, or the profile."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            return await _find(connection, principal, reference)

    async def update(
        self, principal: Principal, reference: str, change: ProductChange, revision: int | None = None
    ) -> ParticleProduct:
        """Change one; revision: which the change was meant for. Another URL needs the access token again."""
        principal.require(Permission.TOKENS_MANAGE)
        changes: dict[str, object] = dict(_checked(change))
        if change.url is not UNSET:
            await self._check_address(str(changes["url"]))  # outside the transaction, as it may wait for DNS
        try:
            async with self._database.transaction() as connection:
                found = await _find(connection, principal, reference, lock=True)
                check_revision(found.revision, revision)
                if changes.get("url", found.url) != found.url and "access_token" not in changes:
                    raise Invalid(
                        f"The access token was not given for {changes['url']}: give it again with that.",
                        [{"field": "accessToken", "reason": "must be given again with another URL"}],
                    )
                names = [name for name, value in changes.items() if value != getattr(found, name, None)]
                if (token := changes.pop("access_token", None)) is not None:
                    changes["token_sealed"] = self._seal(found.id, str(token))
                changed = await store.update(connection, found.id, changes)
                await self._record(connection, principal, changed, "particle.updated", changed=[*names])
        except UniqueViolationError:
            raise _taken() from None
        return changed

    async def delete(self, principal: Principal, reference: str, revision: int | None = None) -> ParticleProduct:
        """Forget one, with its access token; its devices keep the tokens that they have."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.transaction() as connection:
            found = await _find(connection, principal, reference, lock=True)
            check_revision(found.revision, revision)
            await store.delete(connection, found.id)
            await self._record(connection, principal, found, "particle.disconnected")
        return found

    async def start(self, principal: Principal, reference: str, acting: Acting, run: Run) -> Job:
        """Have a job do it; one at a time of each kind for a product."""
        principal.require(Permission.TOKENS_MANAGE)
        if acting is Acting.REVOKE and not run.narrow:
            raise Invalid("Say whose tokens are revoked: name devices, a group or a serial number.")
        if len(run.devices) > particle.MAX_SELECTED:
            raise Invalid(f"A run names {particle.MAX_SELECTED:,} devices at most.")
        try:
            for device in run.devices:
                particle.device_id(device)
        except InvalidName as fault:
            raise Invalid(str(fault)) from None
        id_ = ids.uuid7(self._clock(), self._random)
        async with self._database.transaction() as connection:
            found = await _find(connection, principal, reference)
            job = await jobs.enqueue(
                connection,
                id_,
                found.organization_id,
                KINDS[acting],
                principal.actor,
                subject_id=found.id,
                input=msgspec.to_builtins(run),
                key=str(found.id),
            )
            if job is None:
                raise Conflict(
                    f"A job of the kind {KINDS[acting]} is at this product already. Look in the list of jobs."
                )
            await self._record(connection, principal, found, f"particle.{acting.value}", job=str(job.id))
        return job

    async def test(self, principal: Principal, reference: str) -> Check:
        """What the access token may do, found out without changing anything there. Raises Unavailable, too."""
        from provserver.adapters.particle import Later, ParticleCloud
        from provserver.services.particle_check import check

        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            found = await _find(connection, principal, reference)
            sealed = await store.sealed(connection, found.id)
        if sealed is None:
            raise NotFound(f"There is no Particle product {reference!r} any more.")
        place = _place(found)
        cloud = ParticleCloud(self._connect(), place, _unsealed(self._keys, found.id, sealed))
        try:
            return await check(cloud, place)
        except Later as fault:
            raise Unavailable(f"{fault.reason}. {particle.UNANSWERED}") from None
        finally:
            await cloud.close()

    async def _check_address(self, url: str) -> None:
        from provserver.adapters.particle import Denied, Later, check_address

        client = self._connect()
        try:
            await check_address(client, url)
        except Later as fault:
            raise Invalid(f"{fault.reason}.", [{"field": "url", "reason": fault.reason}]) from None
        except Denied as fault:
            raise Invalid(str(fault), [{"field": "url", "reason": str(fault)}]) from None
        finally:
            await client.close()

    def _seal(self, id_: UUID, access_token: str) -> bytes:
        return self._keys.seal(access_token.encode(), token_context(id_), self._random(12))

    async def _record(
        self, connection: Connection, principal: Principal, found: ParticleProduct, action: str, **detail: Value
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        detail = {"url": found.url, "product": found.product, "ledger": found.ledger, "profile": found.profile} | detail
        await audit.record(connection, id_, found.organization_id, principal.actor, action, found.id, **detail)


class ParticleJob(JobKind):
    """Runs of one kind. connect: makes the client; a job has one of its own."""

    tries = 5
    age = 3600.0

    def __init__(
        self,
        acting: Acting,
        database: Database,
        keys: ServerKeys,
        connect: Callable[[], "Outgoing"],
        pace: Pace = Pace(),  # noqa: B008 - immutable
    ) -> None:
        self._acting = acting
        self._database = database
        self._keys = keys
        self._connect = connect
        self._pace = pace

    def lane(self, job: Job) -> str:
        """See `JobKind`: Particle counts the requests of an address, but access tokens differ."""
        return f"particle:{job.subject_id}"

    async def run(self, job: Job, steps: Steps) -> object:
        """See `JobKind`. What was done is in the tokens' record: whoever goes on looks at everything anew."""
        from provserver.adapters.particle import Denied, Later, ParticleCloud
        from provserver.services.particle_delivery import Delivery

        product, access_token = await self._product(job)
        tokens = ProfileTokens(self._database, self._keys, product.organization_id, product.profile_id, job.actor)
        place = _place(product)
        cloud = ParticleCloud(self._connect(), place, access_token)
        numbers = count(1)

        async def step(name: str, work: Callable[[], object]) -> object:
            while steps.begun(title := f"{name} {next(numbers)}"):  # an earlier try's: of other devices, maybe
                pass
            return await steps.do(title, work)  # type: ignore[arg-type]

        try:
            delivery = Delivery(cloud, place, tokens, self._pace, step=step)
            report = await delivery.run(self._acting, msgspec.convert(job.input, Run), steps.progress)
            expires_at = delivery.expires_at
        except Later as fault:
            if job.tries >= self.tries:
                raise Failed(f"{fault.reason}.", particle.UNANSWERED) from None
            raise Retry(fault.reason, fault.after or None) from None
        except Denied as fault:
            raise Failed(fault.reason, fault.remedy) from None
        except Busy as fault:
            raise Retry(str(fault), BUSY) from None
        finally:
            await cloud.close()
        async with self._database.connection() as connection:
            await store.set_expiry(connection, product.id, expires_at)
        if report.later is not None and job.tries < TRIES_OF_DEVICES:
            raise Retry(report.later)
        return report.to_json()

    async def give_up(self, job: Job, steps: Steps) -> None:
        """See `JobKind`. Devices keep what they have: a token that was taken back would leave its device without."""

    async def _product(self, job: Job) -> tuple[ParticleProduct, str]:
        async with self._database.connection() as connection:
            product = None if job.subject_id is None else await store.get(connection, job.subject_id)
            sealed = None if product is None else await store.sealed(connection, product.id)
        if product is None or sealed is None:
            raise Failed("The product is not connected any more.", "Connect it again: provserver particle connect.")
        return product, _unsealed(self._keys, product.id, sealed)


def kinds(
    database: Database,
    keys: ServerKeys,
    connect: Callable[[], "Outgoing"],
    pace: Pace = Pace(),  # noqa: B008
) -> dict[str, JobKind]:
    """What a JobRunner needs to run these jobs."""
    return {name: ParticleJob(acting, database, keys, connect, pace) for acting, name in KINDS.items()}


def token_context(id_: UUID) -> bytes:
    """What the access token of a product is sealed for."""
    return b"particle:" + id_.bytes


def _unsealed(keys: ServerKeys, id_: UUID, sealed: bytes) -> str:
    try:
        return keys.unseal(sealed, token_context(id_)).decode()
    except Unsealable:
        raise Unavailable("The access token cannot be opened now.") from None


def _place(product: ParticleProduct) -> Place:
    return Place(product.url, product.product, product.ledger, product.org)


def _checked(change: ProductChange) -> dict[str, str]:
    """What is set, in its one form. Raises Invalid."""
    checks: dict[str, Callable[[str], str]] = {
        "url": particle.api_url,
        "org": lambda text: particle.slug(text) if text else "",
        "product": particle.slug,
        "ledger": particle.ledger_name,
        "access_token": particle.access_token,
    }
    try:
        return {name: check(value) for name, check in checks.items() if (value := getattr(change, name)) is not UNSET}
    except InvalidName as fault:
        raise Invalid(str(fault)) from None


async def _find(connection: Connection, principal: Principal, reference: str, *, lock: bool = False) -> ParticleProduct:
    found = await store.find(connection, principal.organization_id, reference.replace("\0", ""), lock=lock)
    if not found:
        raise NotFound(f"There is no Particle product {reference!r} that you can see. Look in the list.")
    first, *others = found
    if others and str(first.id) != reference:
        raise Conflict(f"{reference!r} means several Particle products. Give its id, which the list has.")
    return first


def _taken() -> Conflict:
    return Conflict(
        "The profile has a Particle product already, or another profile has this product and ledger: "
        "one ledger is filled with one profile's tokens."
    )
