"""The Postgres of the run: the product's embedded one, in a process of its own that several servers can use.

    python -m benchmarks.postgres DIRECTORY [--slow FILE]

Prints its DSN once it is ready; ends on SIGTERM. Settings are the product's, but for `max_connections`, as pgbench
alone takes 64. --slow: fdatasync takes longer by the microseconds in FILE (`generators/slow_fdatasync.c`).
"""

import argparse
import asyncio
import os
import shlex
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Self

import asyncpg

from benchmarks.machine import BUILD, Broken, Processes
from provserver.store import embedded
from provserver.store.embedded import EmbeddedPostgres

MAX_CONNECTIONS = 320


class _Slowed(EmbeddedPostgres):
    """Starts through scripts that preload the shim: our environment does not reach Postgres, by design."""

    def __init__(self, directory: Path, microseconds: Path) -> None:
        super().__init__(directory)
        self._scripts = directory / "scripts"
        self._microseconds = microseconds

    async def _find_binaries(self, version: str | None) -> Path:
        binaries = await super()._find_binaries(version)
        self._scripts.mkdir(exist_ok=True)
        for name in ("postgres", "initdb"):
            preload = f"LD_PRELOAD={shlex.quote(str(BUILD / 'slow_fdatasync.so'))}" if name == "postgres" else ""
            slow = f"SLOW_FDATASYNC={shlex.quote(str(self._microseconds))}"
            script = self._scripts / name
            script.write_text(f'#!/bin/sh\nexec env {slow} {preload} {shlex.quote(str(binaries / name))} "$@"\n')
            script.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IRGRP | stat.S_IXOTH | stat.S_IROTH)
        return self._scripts


class Cluster:
    """A running Postgres; each contender has a database of its own in it."""

    def __init__(self, processes: Processes, folder: Path, *, slowed: bool = False) -> None:
        """slowed: whether `delay` may be called."""
        self._processes = processes
        folder.mkdir(parents=True, exist_ok=True)
        self._microseconds = folder / "microseconds"
        options: list[object] = []
        if slowed:
            self.delay(0)
            options = ["--slow", self._microseconds]
        self._process = processes.start(
            *(sys.executable, "-m", "benchmarks.postgres", folder / "data", *options),
            output=subprocess.PIPE,
            log="postgres",
        )
        assert self._process.stdout is not None
        self.dsn = self._process.stdout.readline().decode().strip()
        if not self.dsn:
            raise Broken(f"Postgres did not start: {processes.log('postgres')}")

    @property
    def pid(self) -> int:
        """Of the process that all of its processes come of."""
        return self._process.pid

    def database(self, name: str, *, superuser: bool = False) -> str:
        """The DSN of one of its databases, for its owner or for who may see and do all."""
        dsn = self.dsn.replace("/provserver?", f"/{name}?")
        return dsn.replace("//provserver@", "//postgres@") if superuser else dsn

    def create(self, name: str, template: str = "template1") -> str:
        """Make a database; its DSN. Nobody may be connected to the template."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.database(name)

    def drop(self, name: str) -> None:
        """Remove a database."""
        self.execute(f"DROP DATABASE {name}")

    def execute(self, *statements: str, database: str = "provserver", superuser: bool = False) -> None:
        """Run statements, each by itself, however long it takes."""
        dsn = self.database(database, superuser=superuser)

        async def run() -> None:
            connection = await asyncpg.connect(dsn)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    def value(self, query: str, database: str = "provserver") -> object:
        """The first column of the first row."""

        async def run() -> object:
            connection = await asyncpg.connect(self.database(database))
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(run())

    def settle(self, database: str) -> None:
        """Have what was loaded into a database written, and known to the planner, before anything is measured."""
        self.execute("VACUUM ANALYZE", database=database)
        self.execute("CHECKPOINT", superuser=True)

    def delay(self, microseconds: int) -> None:
        """How much longer every fdatasync takes from now on."""
        # In place: the shim has the file mapped.
        with os.fdopen(os.open(self._microseconds, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.write(struct.pack("=I", microseconds))

    def stop(self) -> None:
        """End it; what it holds stays on disk until the run's folder goes."""
        self._processes.end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


async def _serve(directory: Path, microseconds: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    embedded.SETTINGS["max_connections"] = str(MAX_CONNECTIONS)
    postgres = EmbeddedPostgres(directory) if microseconds is None else _Slowed(directory, microseconds)
    async with postgres:
        print(postgres.dsn, flush=True)
        await stop.wait()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--slow", type=Path)
    arguments = parser.parse_args()
    arguments.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(_serve(arguments.directory, arguments.slow))


if __name__ == "__main__":
    main()
