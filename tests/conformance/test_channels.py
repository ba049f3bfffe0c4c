"""Every case of devices that come back, on every channel it concerns, against a real server process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

import pytest

from tests.conformance.bench import Bench
from tests.conformance.channels.cases import CASES
from tests.conformance.channels.model import Case, Channel
from tests.conformance.channels.play import play
from tests.conformance.channels.premises import Premises
from tests.conformance.channels.stage import Stage

AT_ONCE, AHEAD = 8, 16
"""Cells that run beside each other, as most of them wait: for a process to start, or a second to pass. And cells that
are begun ahead of their test: no more, as another process may have their tests (pytest-xdist).
"""

Cell = tuple[Case, Channel]


class Runs:
    """Runs cells, ahead of the tests that wait for them."""

    def __init__(self, premises: Premises) -> None:
        self._premises = premises
        self._places = asyncio.Semaphore(AT_ONCE)
        self._stages: list[Stage] = []
        self._numbers: dict[tuple[str, Channel], int] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def prepared(self, cells: Sequence[Cell]) -> AsyncIterator[Self]:
        """Make ready for these, in the order of their tests."""
        async with self._premises.opened(cells) as self._stages:
            self._numbers = {(case.id, channel): number for number, (case, channel) in enumerate(cells)}
            try:
                yield self
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def outcome(self, case: Case, channel: Channel) -> None:
        """Wait for a cell; raises what it raised."""
        wanted = self._numbers[case.id, channel]
        for number in range(wanted, min(wanted + AHEAD, len(self._stages))):
            if number not in self._tasks:
                self._tasks[number] = asyncio.create_task(self._play(self._stages[number]))
        await self._tasks[wanted]

    async def secrets(self) -> set[str]:
        """The tokens and provision secrets of those that have run."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        texts = ("token", "secret", "old.token", "new.token", "first.token", "second.token")
        values = [self._stages[number].values for number in self._tasks]
        return {secret for each in values for text in texts if (secret := each.get(text))}

    async def _play(self, stage: Stage) -> None:
        async with self._places:
            await self._premises.prepare(stage)
            await play(stage, self._premises)


@pytest.fixture(scope="module")
async def runs(
    bench: Bench, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Runs]:
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cells = [(each["case"], each["channel"]) for each in parameters if isinstance(each.get("case"), Case)]
    premises = Premises(bench, tmp_path_factory.mktemp("channels"), tool)
    async with Runs(premises).prepared(cells) as prepared:
        yield prepared


@pytest.mark.parametrize(
    ("case", "channel"),
    [pytest.param(case, channel, id=f"{case.id}-{channel.name.lower()}") for case in CASES for channel in case.columns],
)
async def test_case(runs: Runs, case: Case, channel: Channel) -> None:
    await runs.outcome(case, channel)


async def test_no_secret_is_logged(runs: Runs, bench: Bench) -> None:
    secrets = await runs.secrets()
    if not secrets:
        pytest.skip("no case has run")
    log = bench.server.log
    assert not any(secret in log for secret in secrets)
