"""How long making and exporting static tokens takes, and the memory for it: our services on a Postgres of their own.

    python -m benchmarks.token_export [--count N] [--svg] [--labels] [--used]

Prints seconds and peak resident memory of each step. All that a server has loaded is loaded; the reader is a file.
--used: people have signed in and printed labels before, in the same process.
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import provserver.app  # noqa: F401 - counts as memory of the server
from provserver.core import ids
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.model import MetadataField
from provserver.services import memory
from provserver.services.passwords import Passwords
from provserver.services.profiles import ProfileChange, Profiles
from provserver.services.static_tokens import Selection, StaticTokens
from provserver.services.token_export import MAX_LABELS, TokenExport
from provserver.store import keyfile, profiles, schema
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres

PROFILE, PRINTED = "meters", "printed"
SIGN_INS, LABELS = 40, 3_000


async def main(arguments: argparse.Namespace) -> None:
    """Make, export, tell."""
    with tempfile.TemporaryDirectory(prefix="token-export-") as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "data") as postgres:
            database = Database(postgres.dsn, size=4)
            await database.open()
            try:
                await measure(database, folder, arguments)
            finally:
                await database.close()


async def measure(database: Database, folder: Path, arguments: argparse.Namespace) -> None:
    """Every step in turn."""
    memory.settle()  # as whoever serves operators does
    await schema.upgrade(database)
    keys = keyfile.load_or_create(folder / "keys.json")
    await keyfile.prove(database, keys)
    async with database.connection() as connection:
        root = await profiles.root_organization(connection, ids.uuid7(time.time(), os.urandom), "Manufacturer")
    fields = [MetadataField("Serial")]
    await Profiles(database, keys, root).create(ProfileChange(name=PROFILE, metadata_fields=fields))
    principal, tokens = Principal(OPERATOR, root), StaticTokens(database, keys)
    export, these = TokenExport(tokens), Selection(profile=PROFILE)
    count: int = arguments.count

    await timed("nothing yet", count, asyncio.sleep(0))
    if arguments.used:
        await timed("sign in", SIGN_INS, sign_in())
        await Profiles(database, keys, root).create(ProfileChange(name=PRINTED, metadata_fields=fields))
        await tokens.make(principal, PRINTED, LABELS)
        printed = export.labels(principal, Selection(profile=PRINTED))
        await timed("labels", LABELS, write(folder / "printed.pdf", printed))
    made = await timed("make", count, tokens.make(principal, PROFILE, count))
    exported = await timed("csv", count, write(folder / "tokens.csv", export.csv(principal, these)))
    print(f"{'make and csv':<14}{made + exported:8.1f} s")
    await timed("zip", count, write(folder / "tokens.zip", export.zip_(principal, these)))
    with zipfile.ZipFile(folder / "tokens.zip") as archive:
        assert len(archive.namelist()) == count + 1
        print(f"{'':14}{(folder / 'tokens.zip').stat().st_size / 1e6:8.1f} MB, {count} images")
    if arguments.svg:
        await timed("zip of svg", count, write(folder / "svg.zip", export.zip_(principal, these, images="svg")))
    if arguments.labels and count <= MAX_LABELS:
        await timed("labels", count, write(folder / "labels.pdf", export.labels(principal, these)))


async def timed(step: str, count: int, work: Awaitable[object]) -> float:
    """Await it; print and return the seconds it took."""
    before = resident()
    forget_peak()
    begun, worked = time.perf_counter(), time.process_time()
    late = asyncio.create_task(lateness())
    await work
    took = time.perf_counter() - begun
    late.cancel()
    processor = time.process_time() - worked
    print(
        f"{step:<14}{took:8.1f} s{count / took:12,.0f}/s{processor:8.1f} s of this processor"
        f"{before:8.0f} MB before{peak():8.0f} MB peak{1000 * max(WAITED):8.0f} ms late"
    )
    return took


async def sign_in() -> None:
    """What many do in the morning."""
    passwords = Passwords()
    hash_ = await passwords.hash("correct horse battery staple")
    for _ in range(SIGN_INS // 8):
        await asyncio.gather(*(passwords.verify(hash_, "correct horse battery staple") for _ in range(8)))
    passwords.close()


WAITED = [0.0]
"""How late others had their turn, seconds."""


async def lateness() -> None:
    """Look every millisecond how late one is."""
    WAITED[:] = [0.0]
    while True:
        wanted = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        WAITED[0] = max(WAITED[0], time.perf_counter() - wanted)


def forget_peak() -> None:
    """Begin the peak of memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Resident memory of this process at most since the last step, MB."""
    return _memory("VmHWM")


def resident() -> float:
    """Resident memory of this process now, MB."""
    return _memory("VmRSS")


def _memory(which: str) -> float:
    (kilobytes,) = re.findall(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1000


async def write(path: Path, chunks: AsyncIterator[bytes]) -> None:
    """What a client does that keeps up."""
    with path.open("wb") as file:
        async for chunk in chunks:
            file.write(chunk)
            await asyncio.sleep(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_export", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--svg", action="store_true", help="a zip of SVG images, too")
    parser.add_argument("--labels", action="store_true", help=f"labels, too (up to {MAX_LABELS})")
    parser.add_argument("--used", action="store_true", help="sign in and print labels first")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_arguments())))
