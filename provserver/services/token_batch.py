"""Static tokens that are made together: staged, checked, and added at once, all or none."""

import asyncio
import os
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from asyncpg import PostgresError

from provserver.core import credentials as building
from provserver.core import ids, statictoken
from provserver.core.authorization import Principal
from provserver.core.metadata import DEVICE_NAME
from provserver.core.model import DeviceProfile
from provserver.core.secrets import ServerKeys
from provserver.core.statictoken import Batch
from provserver.core.tokenfile import Column, ErrorKind, Excerpt, FileError, TokenRow
from provserver.errors import Conflict
from provserver.services.credentials import seal_credentials
from provserver.services.organizations import check_quota
from provserver.store import audit
from provserver.store import static_tokens as store
from provserver.store.database import Connection
from provserver.store.static_tokens import StagedToken, StagedValue

MAX_ERRORS = 1_000
"""Errors that an import keeps; it counts the rest."""

SLICE = 500
"""Tokens made in one turn of the event loop: some 20 ms, in which nobody else is served."""

ANALYSED = 10_000
"""Tokens of a batch after which Postgres is to look at the table anew: else its plans are for the one it was."""

_PAGE = 1_000
"""Names and values that others have, as they are read together."""

Progress = Callable[[int], None]


def nobody(_: int) -> None:
    """Hears of no progress."""


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do.

    columns: of the file, with what each fills. rows: of data, each of which is to make a token. errors: the first
    MAX_ERRORS of error_count, in order of rows. batch: what was made; None when nothing was. excerpt: rows as they are
    in the file, if they were asked for.
    """

    columns: Sequence[Column] = ()
    rows: int = 0
    error_count: int = 0
    errors: list[FileError] = field(default_factory=list)
    batch: Batch | None = None
    excerpt: Sequence[Excerpt] = ()

    def refuse(self, error: FileError) -> None:
        """Count an error, and keep it if it is one of the first."""
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS or _place(error) < _place(self.errors[-1]):
            insort(self.errors, error, key=_place)
            del self.errors[MAX_ERRORS:]


class TokenBatch:
    """A batch in the making, for a profile. report: of what is wrong with its rows.

    Its staging is the connection's: begin it first (`store/static_tokens.py`), and do all in one transaction.
    """

    def __init__(
        self,
        keys: ServerKeys,
        profile: DeviceProfile,
        *,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.report = ImportReport()
        self._keys = keys
        self._profile = profile
        self._random = random
        self._clock = clock
        self._id = statictoken.batch_id(clock(), random)

    async def stage(
        self, connection: Connection, rows: Iterator[TokenRow | FileError], progress: Progress = nobody
    ) -> None:
        """Make the tokens of these rows, where nobody sees them yet; what is wrong with a row is reported.

        progress: told how many rows are done.
        """
        report = self.report
        unique = [each.name for each in self._profile.metadata_fields if each.unique]
        random = ids.in_stock(self._random)
        staging: asyncio.Task[None] | None = None
        done = 0
        try:
            while part := list(islice(rows, SLICE)):
                tokens = []
                for row in part:
                    report.rows = max(report.rows, row.row or 0)
                    if isinstance(row, FileError):
                        report.refuse(row)
                    else:
                        tokens.append(self._staged(row, random))
                values = [
                    StagedValue(token.place, token.line, name, token.metadata[name], token.id)
                    for token in tokens
                    for name in unique
                    if name in token.metadata
                ]
                if staging is not None:
                    await staging
                staging = asyncio.create_task(store.stage(connection, tokens, values))
                await asyncio.sleep(0)  # it is sent: Postgres takes it in while the next part is made
                done += len(part)
                progress(done)
        finally:
            if staging is not None:
                await staging

    def _staged(self, row: TokenRow, random: ids.Randomness) -> StagedToken:
        keys = self._keys
        id_ = statictoken.token_id(self._id, row.row)
        credentials = building.access_token(ids.token(random))
        qr = statictoken.qr_token(random)
        return StagedToken(
            row.row,
            row.line,
            id_,
            keys.digest("credentials", credentials.id),
            seal_credentials(keys, id_, credentials, random),
            statictoken.qr_digest(keys, qr),
            statictoken.seal_qr(keys, id_, qr, random),
            row.name,
            row.values,
        )

    async def find_taken(self, connection: Connection) -> None:
        """Refuse the rows whose name or unique value another token or a device has."""
        report, profile = self.report, self._profile
        columns = {column.field: column for column in report.columns}
        async for found in store.taken(connection, profile.organization_id, profile.id, _PAGE):
            for each in found:
                column = columns[each.field or DEVICE_NAME]
                if each.field is not None:
                    reason = "another static token of the profile has this value already"
                elif each.by_device:
                    reason = "a device of this name exists already"
                else:
                    reason = "a static token of this name exists already"
                report.refuse(FileError(ErrorKind.TAKEN, each.place, each.line, column.number, column.header, reason))

    async def find_room(self, connection: Connection) -> None:
        """Refuse what is more than the organization may have."""
        try:
            await check_quota(connection, self._profile.organization_id, tokens=self.report.rows)
        except Conflict as fault:
            self.report.refuse(FileError(ErrorKind.QUOTA, None, None, None, None, str(fault)))

    async def keep(
        self, connection: Connection, principal: Principal, count: int, source: str, progress: Progress = nobody
    ) -> Batch:
        """Add what is staged, if the profile is still what it was staged for. Raises Conflict.

        source: what the audit calls it. progress: told how many are added.
        """
        profile = self._profile
        now = await store.lock_profile(connection, profile.id)
        if now is None or now.metadata_fields != profile.metadata_fields:
            raise Conflict("The profile was changed meanwhile; no token was made. Look at it, and try again.")
        first, last = await store.add_staged(connection, profile.organization_id, profile.id, progress)
        if count >= ANALYSED:
            with suppress(PostgresError):  # tokens are tokens without it
                async with connection.transaction():
                    await store.analyse(connection)
        await audit.record(
            connection,
            ids.uuid7(self._clock(), self._random),
            profile.organization_id,
            principal.actor,
            "static_token.made",
            self._id,
            count=count,
            source=source,
            profile_id=str(profile.id),
        )
        return Batch(self._id, profile.organization_id, profile.id, now.name, count, first, last)


def _place(error: FileError) -> tuple[int, int]:
    """The order of errors: of the file, of its header, of its rows."""
    return error.row or 0, error.column or 0
