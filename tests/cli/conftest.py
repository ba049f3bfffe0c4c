"""Commands: in this process, which is quick, on a database of the run."""

import asyncio
import contextlib
import io
import itertools
import json
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import asyncpg
import pytest
import typer.main

from provserver.cli import main
from tests.server import COMMAND_LIMIT, Server

_numbers = itertools.count(1)

_command = cache(typer.main.get_command)
"""All commands as they are for each run: to put them together takes longer than most of them do."""


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Cli:
    """Runs commands as the console script does."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def run(self, *arguments: str) -> Done:
        """In a thread, as commands have a loop of their own. One that hangs is left behind; where it hangs is said."""
        done, out, err = Done(0, "", ""), io.StringIO(), io.StringIO()
        thread = threading.Thread(target=self._run, args=(done,), daemon=True)
        with (
            mock.patch.object(sys, "argv", ["provserver", *arguments, *self.options]),
            mock.patch.object(typer.main, "get_command", _command),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            thread.start()
            thread.join(COMMAND_LIMIT)
            if thread.is_alive():
                where = "".join(traceback.format_stack(sys._current_frames().get(thread.ident or 0)))
                pytest.fail(
                    f"{arguments} has not ended after {COMMAND_LIMIT} s: {out.getvalue()}{err.getvalue()}{where}"
                )
        done.out, done.err = out.getvalue(), err.getvalue()
        return done

    def json(self, *arguments: str) -> Any:
        """The one JSON value that a command prints, and nothing else."""
        done = self.run(*arguments, "--json")
        assert (done.code, done.err) == (0, ""), done.err
        return json.loads(done.out)

    def refused(self, *arguments: str, code: int = 1) -> str:
        """What a command says that ends with the code, having printed nothing else."""
        done = self.run(*arguments)
        assert (done.code, done.out) == (code, ""), done
        assert "Traceback" not in done.err
        return done.err

    @staticmethod
    def _run(done: Done) -> None:
        try:
            main()
        except SystemExit as end:
            done.code = end.code if isinstance(end.code, int) else int(end.code is not None)


@pytest.fixture(scope="session")
async def url(postgres: str) -> str:
    """The DSN of a database for the commands of the run: tests make things under names of their own."""
    connection = await asyncpg.connect(postgres)
    await connection.execute("CREATE DATABASE cli TEMPLATE template")
    await connection.close()
    return postgres.replace("/provserver?", "/cli?")


@pytest.fixture(scope="session")
def cli_data_dir(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of the run, which the first profile makes."""
    data_dir = tmp_path_factory.mktemp("cli") / "data"
    Cli("--data-dir", str(data_dir), "--database-url", url).json("profile", "create", "first")
    return data_dir


@pytest.fixture
def local(url: str, cli_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands on a database of their own."""
    monkeypatch.setenv("COLUMNS", "200")
    return Cli("--data-dir", str(cli_data_dir), "--database-url", url)


@pytest.fixture
def cli(local: Cli) -> Cli:
    """The same; modules whose commands must do the same on a server have `everywhere` instead."""
    return local


@pytest.fixture(scope="session")
def administered(url: str, cli_data_dir: Path) -> Iterator[Server]:
    """A server with an admin listener on the database of the commands."""
    with Server(cli_data_dir, "--database-url", url) as running:
        yield running


@pytest.fixture
def remote(local: Cli, administered: Server) -> Cli:
    """Commands on that server, with a key that may do everything."""
    made = local.json("key", "create", f"key-{next(_numbers)}")
    return Cli("--server", f"http://{administered.admin}", "--api-key", made["secret"])


@pytest.fixture(params=["database", "server"])
def everywhere(request: pytest.FixtureRequest) -> Cli:
    """Commands on the database, and on a server on it: they are to do the same."""
    found: Cli = request.getfixturevalue("local" if request.param == "database" else "remote")
    return found


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"profile-{next(_numbers)}"


@pytest.fixture
def profile(local: Cli, name: str) -> str:
    """A profile of the test's own, that checks pre-provisioned devices."""
    local.json("profile", "create", name, "--strategy", "check-pre-provisioned")
    return name


class Holder:
    """A transaction that keeps commands from reading the profiles."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        self._held, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._hold()))
        self._thread.start()
        if not self._held.wait(COMMAND_LIMIT):
            self._done.set()
            pytest.fail(f"the profiles are not locked after {COMMAND_LIMIT} s")

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    async def _hold(self) -> None:
        connection = await asyncpg.connect(self._url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE device_profile IN ACCESS EXCLUSIVE MODE")
            self._held.set()
            await asyncio.to_thread(self._done.wait)
        await connection.close()


@pytest.fixture
def holder(url: str) -> Holder:
    return Holder(url)
