"""Backups: the database as it is at one moment, and the server's keys, in one file; and back (docs/backup.md)."""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from provserver.core import backupfile, ids, webhook
from provserver.core.authorization import OPERATOR
from provserver.core.backupfile import Head
from provserver.errors import Conflict, Misconfigured, Refused
from provserver.store import audit, audit_chain, dumps, integrations, jobs, keyfile, schema, server_keys, webhooks
from provserver.store.database import Connection, Database
from provserver.store.headfile import HeadFile
from provserver.store.keyfile import KeySource

Progress = Callable[[int, int | None], None]
"""Told how many bytes are done, of how many."""


@dataclass(frozen=True, slots=True)
class Found:
    """A backup that was looked through and is whole. start, end: where its dump is in the file."""

    head: Head
    keys: str
    start: int
    end: int


async def backup(
    database: Database, source: KeySource, passphrase: str, random: ids.Randomness = os.urandom
) -> AsyncIterator[bytes]:
    """The content of a backup, while the server runs. Raises Misconfigured, Refused, Unavailable.

    No version of the keys comes or goes meanwhile, so that the keys are the dump's.
    """
    holder = await database.dedicated()
    try:
        if not await server_keys.lock(holder, wait=False):
            raise Conflict("`provserver keys` is at work. Wait for it, then back up.")
        async with database.connection() as connection:
            applied = await schema.applied(connection)
        program, made_by = await dumps.find("pg_dump", await dumps.server_version(database))
        seal, start = backupfile.begin(
            passphrase,
            keyfile.text_of(source.load()),
            applied,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            release=version("provserver"),
            postgres=made_by,
            random=random,
        )
        yield start
        async for chunk in dumps.dump(program, database.dsn):
            yield seal.take(chunk)
        yield seal.finish()
    finally:
        holder.terminate()


def examine(file: Path, passphrase: str, told: Progress) -> Found:
    """Look a backup through: whole, of this passphrase, and nothing that this release does not know. Raises Refused."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head, start = backupfile.read_head(opened.read(len(backupfile.MAGIC) + 4 + backupfile.MAX_HEAD))
            seal = backupfile.seal_of(head, passphrase)
            keys = seal.open_keys(head.keys)
            end = size - backupfile.SEAL_LENGTH
            opened.seek(0)
            done = 0
            while done < end and (chunk := opened.read(min(dumps.CHUNK, end - done))):
                seal.take(chunk)
                done += len(chunk)
                told(done, end)
            if end < start or not seal.holds(opened.read()):
                raise Refused("This backup is not whole, or was changed. Take another one.")
    except OSError as fault:
        raise Refused(f"{file} cannot be read: {fault.strerror}.") from None
    known = {(each.number, each.name, each.checksum) for each in schema.known()}
    for migration in head.schema:
        if tuple(migration) not in known:
            raise Refused(
                f"The backup has migration {migration[0]:04}_{migration[1]}, which this release does not know so. "
                f"Install provserver {head.release}, which made it, or a newer one."
            )
    return Found(head, keys, start, end)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. applied: migrations; silenced: webhooks that were disabled, if they were to be."""

    applied: list[schema.Migration]
    silenced: int


async def restore(
    database: Database,
    source: KeySource,
    file: Path,
    found: Found,
    told: Progress,
    head_file: HeadFile | None = None,
    *,
    webhooks_off: bool = False,
) -> Restored:
    """Fill an empty database and put the keys where they belong; again after an interruption is harmless.

    head_file: where the newest head of the audit is kept: the backup's is, from now on, even if it is an older one.
    webhooks_off: disable all webhooks and integrations, and fail what jobs wait, so that nobody hears of the copy.
    Raises Misconfigured, Refused, Unavailable.
    """
    backup_ = hashlib.sha256(found.head.keys.encode()).hexdigest()  # sealed under a salt and a nonce of its own
    async with database.connection() as connection:
        filled = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v'))"
        )
        begun = await schema.restoring(connection)
        if filled and begun is None:
            raise Refused("The database is not empty. Restore into a new data directory, or an empty database.")
        if filled and begun != backup_:
            raise Refused("The restore of another backup into this database was not finished. Finish that first.")
    keys = keyfile.KeySource(source.path, found.keys).load()
    if source.present and keyfile.text_of(source.load()) != keyfile.text_of(keys):
        mend = "Unset it." if source.text else "Restore into a new data directory, or move the file away."
        raise Refused(f"{source.name} has keys already, and not those of the backup. {mend}")
    wanted = max(await dumps.server_version(database), found.head.postgres)
    program, _ = await dumps.find("pg_restore", wanted)
    if not source.present:
        keyfile.write_new(source.path, keys)
    if head_file is not None:
        head_file.remove()
    if not filled:
        async with database.transaction() as connection:
            if begun is not None:
                await schema.end_restore(connection)
            await schema.begin_restore(connection, backup_)
        await dumps.restore(program, database.dsn, _content(file, found, told))
    applied = await schema.upgrade(database, restoring=True)
    await keyfile.prove(database, keys)
    if head_file is not None:
        async with database.connection() as connection:
            head = await audit_chain.head(connection)
        if head is not None:
            head_file.replace(head)
    async with database.transaction() as connection:  # until it is committed, nobody serves the database
        silenced = await _silence(connection) if webhooks_off else 0
        await schema.end_restore(connection)
    return Restored(applied, silenced)


async def _silence(connection: Connection) -> int:
    """Have the database tell nobody anything; how many webhooks are disabled."""
    disabled = await webhooks.disable_all(connection)
    for each in disabled:
        id_ = ids.uuid7(time.time(), os.urandom)
        about = (each.organization_id, OPERATOR, "webhook.updated", each.id)
        await audit.record(connection, id_, *about, host=webhook.host(each.url), enabled=False)
    for integration in await integrations.disable_all(connection):
        id_ = ids.uuid7(time.time(), os.urandom)
        about = (integration.organization_id, OPERATOR, "integration.updated", integration.id)
        await audit.record(connection, id_, *about, onboarding=False)
    await jobs.fail_all(connection, "the backup was restored with --webhooks-off", "Retry it if it is to be done here.")
    return len(disabled)


async def _content(file: Path, found: Found, told: Progress) -> AsyncIterator[bytes]:
    try:
        with file.open("rb") as opened:
            opened.seek(found.start)
            left = found.end - found.start
            while left and (chunk := opened.read(min(dumps.CHUNK, left))):
                yield chunk
                left -= len(chunk)
                told(found.end - found.start - left, found.end - found.start)
    except OSError as fault:
        raise Misconfigured(f"{file} cannot be read: {fault.strerror}.") from None
