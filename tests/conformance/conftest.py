"""The bench of the conformance cases."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.bench import Bench, bench
from tests.server import Server


@pytest.fixture(scope="session", name="bench")
async def _bench(server: Server) -> AsyncIterator[Bench]:
    """The server of the run with an operator's hands on its database."""
    async with bench(server) as opened:
        yield opened
