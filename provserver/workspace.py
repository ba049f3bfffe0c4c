"""What commands and the server work with: the database, its keys, and the services of operators."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from asyncpg import InsufficientPrivilegeError

from provserver.config import Config
from provserver.core import ids
from provserver.core.secrets import ServerKeys
from provserver.errors import Misconfigured
from provserver.services.attempts import AttemptList
from provserver.services.devices import Devices
from provserver.services.job_runner import JobKind
from provserver.services.profiles import Profiles
from provserver.store import keyfile, profiles, schema
from provserver.store.database import Database
from provserver.store.embedded import connectable
from provserver.store.headfile import HeadFile
from provserver.store.keyfile import KeySource

ROOT_ORGANIZATION = "Manufacturer"


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a command works with: the database, opened and up to date, and the keys it was written with.

    organization_id: of the manufacturer, at the top of the tree.
    """

    database: Database
    keys: ServerKeys
    organization_id: UUID
    profiles: Profiles
    devices: Devices
    attempts: AttemptList


@asynccontextmanager
async def database(config: Config, *, make: bool = False) -> AsyncIterator[Database]:
    """The configured database as it is, or the embedded one of the data directory, served or not.

    make: whether to make the data directory where there is none. Raises Misconfigured.
    """
    if not make and not config.database_url and not _is_data_dir(config.data_dir):
        raise Misconfigured(
            f"There is no data directory at {config.data_dir.absolute()}. "
            "Start the server there first (provserver serve), or name it with --data-dir."
        )
    async with AsyncExitStack() as stack:
        url = config.database_url or await stack.enter_async_context(connectable(config.data_dir))
        opened = Database(url, size=2)
        await opened.open()
        stack.push_async_callback(opened.close)
        with rights():
            yield opened


@contextmanager
def rights() -> Iterator[None]:
    """Say what to do where the user of the database may not do what is wanted."""
    try:
        yield
    except InsufficientPrivilegeError as fault:
        raise Misconfigured(
            f"Postgres refuses: {fault}. Connect as the owner of the database, or have it given to this user "
            "(ALTER DATABASE … OWNER TO …)."
        ) from None


@asynccontextmanager
async def workspace(config: Config, *, make: bool = False) -> AsyncIterator[Workspace]:
    """The configured database for a command. Raises Misconfigured, also when it must be upgraded first.

    make: whether to make the data directory and the keys where there are none.
    """
    async with database(config, make=make) as opened:
        if config.database_url and await schema.pending(opened):
            raise Misconfigured("The database is not up to date. Run: provserver db upgrade --database-url …")
        if config.database_url and not make and not key_source(config).present:
            raise Misconfigured(
                f"There are no keys at {config.keys_path.absolute()}. "
                "Start the server there first (provserver serve), or name its data directory with --data-dir."
            )
        yield await furnish(opened, config)


def key_source(config: Config) -> KeySource:
    """Where the server's keys come from."""
    return KeySource(config.keys_path, config.keys)


def job_kinds(space: Workspace, config: Config, stack: AsyncExitStack) -> dict[str, JobKind]:
    """What durable jobs there are, and who does them. The stack lets go of what they need."""
    from provserver.services import network_check, network_jobs, particle  # here, as most commands have no use for them

    outgoing = network_check.outgoing(config.outgoing_private)
    stack.push_async_callback(outgoing.close)
    return {
        **network_jobs.kinds(space.database, space.keys, outgoing),
        **particle.kinds(space.database, space.keys, lambda: particle.connect(config.outgoing_private)),
    }


def head_file(config: Config) -> HeadFile:
    """Where the newest head of the audit is kept."""
    return HeadFile(config.audit_head_path)


def _is_data_dir(path: Path) -> bool:
    try:
        return not {"lock", "postgres"}.isdisjoint(entry.name for entry in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # for all we may see; who opens it says what is wrong


async def furnish(opened: Database, config: Config) -> Workspace:
    """What a command, or the server, works with on a database that is open."""
    if not config.database_url:
        await schema.upgrade(opened)
    keys = await keyfile.of_database(opened, key_source(config))
    async with opened.connection() as connection:
        root = await profiles.root_organization(connection, ids.uuid7(time.time(), os.urandom), ROOT_ORGANIZATION)
    return Workspace(
        opened, keys, root, Profiles(opened, keys, root), Devices(opened, keys, root), AttemptList(opened, root)
    )
