"""What operators do with static tokens: make them by number or from a file, list, show and stream them.

Whoever may see a token here may see its AuthToken: the organization that made it, and those above (never a customer).
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from uuid import UUID

from asyncpg import PostgresError
from msgspec import structs

from provserver.core import ids, statictoken
from provserver.core.authorization import Permission, Principal
from provserver.core.definitions import SECRET_TYPES
from provserver.core.metadata import DEVICE_NAME
from provserver.core.model import CredentialsType, DeviceProfile
from provserver.core.secrets import ServerKeys
from provserver.core.statictoken import Batch, LorawanForm, StaticToken, TokenStatus
from provserver.core.tokenexport import OpenedToken
from provserver.core.tokenfile import Assignment, TokenFile, TokenRow
from provserver.errors import Conflict, Invalid, NotFound
from provserver.services.credentials import open_credentials
from provserver.services.organizations import check_quota
from provserver.services.token_batch import ImportReport, Progress, TokenBatch, nobody
from provserver.store import audit, lorawan_claims
from provserver.store import static_tokens as store
from provserver.store.database import Connection, Database
from provserver.store.static_tokens import Filter

MAX_COUNT = 1_000_000
"""Tokens that are made at once."""

PAGE = 1_000
"""Tokens that a stream reads together."""

MASK = "********"
"""Instead of a key, for who has not asked for secrets."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tokens, of those that the caller may see: all that fit. profile: its name, template id or id."""

    ids: Sequence[UUID] | None = None
    profile: str | None = None
    status: TokenStatus | None = None
    batch: UUID | None = None


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """Tokens that were made together. made: how many, up to the last that is left.

    count, claimed: of those that are left; BOUND + 1 stands for more. first_number, last_number: theirs.
    """

    id: UUID
    organization_id: UUID
    organization: str
    profile_id: UUID
    profile: str
    created_at: datetime
    made: int
    count: int
    claimed: int
    first_number: int
    last_number: int


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """How many tokens a selection has, and the metadata fields of their profiles; secret_fields: keys among them."""

    count: int
    fields: Sequence[str]
    secret_fields: Collection[str]


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """A token; auth_token, qr_token: in clear, for who asked for them. payload: what its QR code says, likewise."""

    token: StaticToken
    auth_token: str | None = None
    qr_token: str | None = None
    payload: str | None = None

    def __repr__(self) -> str:
        return f"<TokenDetails {self.token.number}>"


class _NothingKept(Exception):  # noqa: N818
    """Rolls an import back."""


class StaticTokens:
    """The static tokens of all organizations, as far as a principal reaches."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock

    async def make(self, principal: Principal, profile: str, count: int, progress: Progress = nobody) -> Batch:
        """Make so many tokens, all or none. progress: told how far it is, of that number. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        if not 1 <= count <= MAX_COUNT:
            raise Invalid(f"Between 1 and {MAX_COUNT:,} tokens are made at once.")
        async with self._database.transaction() as connection:  # to know before the work is done, and hold no lock
            found = await self._profile(connection, principal, profile)
            await check_quota(connection, found.organization_id, tokens=count)
        batch = TokenBatch(self._keys, found, random=self._random, clock=self._clock)
        rows = (TokenRow(place, 0, None, {}) for place in range(1, count + 1))

        def staged(done: int) -> None:
            progress(done // 2)  # to add them takes as long

        def kept(done: int) -> None:
            progress(min((count + done) // 2, count - 1))  # the last is done when they are there

        try:
            async with self._database.transaction() as connection:
                await store.begin_staging(connection)
                await batch.stage(connection, rows, staged)
                await check_quota(connection, found.organization_id, tokens=count)
                made = await batch.keep(connection, principal, count, "count", kept)
        except PostgresError as fault:
            raise self._refused(fault) from fault
        progress(count)
        return made

    async def import_(
        self,
        principal: Principal,
        profile: str,
        lines: Iterable[str],
        mapping: Assignment | None = None,
        *,
        dry_run: bool = False,
        excerpt: int = 0,
        progress: Progress = nobody,
    ) -> ImportReport:
        """Make a token for each row of a CSV, all or none; what is wrong is in the report. Raises Refused.

        lines, mapping, excerpt: as `TokenFile` takes them (its `keep`). progress: told the rows read so far.
        """
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            found = await self._profile(connection, principal, profile)
        batch = TokenBatch(self._keys, found, random=self._random, clock=self._clock)
        file = TokenFile(lines, found.metadata_fields, mapping, keep=excerpt)
        report = batch.report
        report.columns = file.columns
        try:
            async with self._database.transaction() as connection:
                await store.begin_staging(connection)
                await batch.stage(connection, iter(file), progress)
                await batch.find_taken(connection)
                await batch.find_room(connection)
                if dry_run or report.error_count:
                    raise _NothingKept
                report.batch = await batch.keep(connection, principal, report.rows, "file")
        except _NothingKept:
            pass
        except PostgresError as fault:
            raise self._refused(fault) from fault
        report.excerpt = [file.kept[row] for row in sorted(file.kept)]
        return report

    async def list_(
        self,
        principal: Principal,
        profile: str | None = None,
        status: TokenStatus | None = None,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        batch: UUID | None = None,
        search: str | None = None,
    ) -> list[StaticToken]:
        """Tokens in the order they were made, after the cursor's; keys in their metadata are MASK. Raises Refused.

        search: the beginning of a name, a unit or a unique value, or a number or id; of very many some are found.
        """
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            filter_ = await self._filter(connection, principal, Selection(None, profile, status, batch))
            if search:
                id_, number = _meant(search)
                found = await store.search(connection, filter_.makers, search, number=number, id_=id_)
                filter_ = replace(filter_, ids=found)
            return await _masked(connection, await store.list_(connection, filter_, after=cursor, limit=limit))

    async def batches(
        self, principal: Principal, profile: str | None = None, before: UUID | None = None, limit: int = 50
    ) -> list[BatchSummary]:
        """What was made together, newest first, before a batch. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            filter_ = await self._filter(connection, principal, Selection(profile=profile))
            found = await store.batches(
                connection, filter_.makers, profile_id=filter_.profile_id, before=before, limit=limit
            )
        return [
            BatchSummary(
                statictoken.batch_of(row.last),
                row.organization_id,
                row.organization,
                row.profile_id,
                row.profile,
                row.created_at,
                statictoken.place_of(row.last),
                row.left,
                row.claimed,
                row.first_number,
                row.last_number,
            )
            for row in found
        ]

    async def summary(self, principal: Principal, selection: Selection) -> SelectionSummary:
        """How many tokens a selection has, and their metadata fields. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            filter_ = await self._filter(connection, principal, selection)
            count = await store.count(connection, filter_)
            found = await store.profiles_of(connection, filter_)
        fields = {each.name: each.type for profile in found for each in profile.metadata_fields}
        fields.pop(DEVICE_NAME, None)
        secret = {name for name, type_ in fields.items() if type_ in SECRET_TYPES}
        return SelectionSummary(count, list(fields), secret)

    async def count(self, principal: Principal, selection: Selection) -> int:
        """How many a selection has. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            return await store.count(connection, await self._filter(connection, principal, selection))

    async def show(self, principal: Principal, reference: UUID | str, *, open_: bool = False) -> TokenDetails:
        """A token by id or number; open_: with its secrets in clear, which the audit keeps. Raises Refused.

        One whose AuthToken was seen may be in a unit: it is not for the production line any more.
        """
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.transaction() as connection:
            row = await self._find(connection, principal, reference)
            token = row.token
            if not open_:
                return TokenDetails((await _masked(connection, [row]))[0])
            await store.mark_used(connection, [token.id])
            await self._record(connection, principal, token.organization_id, "static_token.shown", token.id)
            forms = await lorawan_claims.forms(connection, [token.profile_id])
        auth_token, qr_token = self._open(row)
        payload = statictoken.payload(token, qr_token, forms.get(token.profile_id))
        return TokenDetails(token, auth_token, qr_token, payload)

    async def show_qr(self, principal: Principal, reference: UUID | str) -> TokenDetails:
        """A token by id or number, with its QR token alone in clear, which opens a claim: the audit keeps it.

        Raises Refused.
        """
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.transaction() as connection:
            row = await self._find(connection, principal, reference)
            token = row.token
            await self._record(connection, principal, token.organization_id, "static_token.qr_shown", token.id)
            forms = await lorawan_claims.forms(connection, [token.profile_id])
        qr_token = statictoken.open_qr(self._keys, token.id, row.qr_sealed)
        payload = statictoken.payload(token, qr_token, forms.get(token.profile_id))
        return TokenDetails(token, qr_token=qr_token, payload=payload)

    async def export_fields(self, principal: Principal, selection: Selection) -> list[str]:
        """The metadata fields that the profiles of these tokens have, each once. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            filter_ = await self._filter(connection, principal, selection)
            found = await store.profiles_of(connection, filter_)
        names = [each.name for profile in found for each in profile.metadata_fields if each.name != DEVICE_NAME]
        return list(dict.fromkeys(names))

    async def unique_fields(self, principal: Principal, selection: Selection) -> list[str]:
        """The first metadata field of each of their profiles that is unique and no key, each once. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            found = await store.profiles_of(connection, await self._filter(connection, principal, selection))
        firsts: list[str] = []
        for profile in found:
            fields = (each.name for each in profile.metadata_fields if each.unique and each.type not in SECRET_TYPES)
            firsts += islice((name for name in fields if name != DEVICE_NAME), 1)
        return list(dict.fromkeys(firsts))

    async def stream(
        self, principal: Principal, selection: Selection, *, labels: bool = False
    ) -> AsyncGenerator[OpenedToken, None]:
        """These tokens with their secrets in clear, in the order they were made; the audit keeps it. Raises Refused.

        labels: for what shows no AuthToken; else they may be in units, and are not for the production line any more.
        Read page by page: a slow reader holds neither a connection nor a transaction.
        """
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.transaction() as connection:
            filter_ = await self._filter(connection, principal, selection)
            count = await store.count(connection, filter_)
            if selection.ids is not None and count < len(set(selection.ids)):
                raise NotFound("Some of these static tokens are not there, or you cannot see them. Select them anew.")
            await self._record(
                connection,
                principal,
                principal.organization_id,
                "static_token.exported",
                selection.batch or filter_.profile_id or principal.organization_id,
                count=count,
                **({"labels": True} if labels else {}),
            )
        after = None
        while True:
            async with self._database.transaction() as connection:
                page = await store.list_(connection, filter_, after=after, limit=PAGE)
                if not labels:
                    await store.mark_used(connection, [row.token.id for row in page])
                forms = await lorawan_claims.forms(connection, list({row.token.profile_id for row in page}))
            for row in page:
                yield self._opened(row, forms)
            if len(page) < PAGE:
                return
            after = page[-1].token.id

    async def _find(self, connection: Connection, principal: Principal, reference: UUID | str) -> store.TokenRow:
        id_, number = _meant(reference)
        row = await store.find(connection, principal.organization_id, id_=id_, number=number)
        if row is None:
            raise NotFound(
                f"There is no static token {str(reference)!r} that you can see. Look it up in the list; "
                "one that another organization made goes by the id of its device."
            )
        return row

    async def _profile(self, connection: Connection, principal: Principal, reference: str) -> DeviceProfile:
        found = await store.find_profile(connection, principal.organization_id, reference.replace("\0", ""))
        if not found:
            raise NotFound(f"There is no profile {reference!r} that you can see. Look in the list of profiles.")
        if len(found) > 1:
            raise Conflict(f"Several organizations have a profile {reference!r}. Give its id.")
        return found[0]

    async def _filter(self, connection: Connection, principal: Principal, selection: Selection) -> Filter:
        profile_id = None
        if selection.profile is not None:
            profile_id = (await self._profile(connection, principal, selection.profile)).id
        first, last = (None, None) if selection.batch is None else statictoken.batch_range(selection.batch)
        makers = await store.makers(connection, principal.organization_id)
        return Filter(makers, selection.ids, profile_id, selection.status, first, last)

    async def _record(
        self,
        connection: Connection,
        principal: Principal,
        organization_id: UUID,
        action: str,
        subject: UUID,
        **detail: str | int,
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, organization_id, principal.actor, action, subject, **detail)

    def _refused(self, fault: PostgresError) -> Exception:
        if not self._database.is_race(fault):
            return fault
        return Conflict(
            "Something else took one of the names or values meanwhile; no token was made. Make them once more."
        )

    def _open(self, row: store.TokenRow) -> tuple[str, str]:
        id_ = row.token.id
        credentials = open_credentials(self._keys, id_, CredentialsType.ACCESS_TOKEN, row.sealed)
        return credentials.id, statictoken.open_qr(self._keys, id_, row.qr_sealed)

    def _opened(self, row: store.TokenRow, forms: Mapping[UUID, LorawanForm]) -> OpenedToken:
        token = row.token
        auth_token, qr_token = self._open(row)
        return OpenedToken(
            id=token.id,
            number=token.number,
            auth_token=auth_token,
            qr_token=qr_token,
            payload=statictoken.payload(token, qr_token, forms.get(token.profile_id)),
            organization_number=token.organization_number,
            organization_name=token.organization,
            profile_name=token.profile,
            template_id=token.template_id,
            status=token.status,
            created_at=token.created_at,
            name=token.name,
            metadata=token.metadata,
        )


async def _masked(connection: Connection, rows: Sequence[store.TokenRow]) -> list[StaticToken]:
    """Tokens without the keys among their metadata."""
    secret = await store.secret_fields(connection, {row.token.profile_id for row in rows})
    return [_without(row.token, secret[row.token.profile_id]) for row in rows]


def _without(token: StaticToken, secret: Collection[str]) -> StaticToken:
    metadata = {name: MASK if name in secret else value for name, value in token.metadata.items()}
    return structs.replace(token, metadata=metadata)


def _meant(reference: UUID | str) -> tuple[UUID | None, int | None]:
    if isinstance(reference, UUID):
        return reference, None
    if reference.isascii() and reference.isdigit() and len(reference) < 19:
        return None, int(reference)
    try:
        return UUID(reference), None
    except ValueError:
        return None, None
