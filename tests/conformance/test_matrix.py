"""Every case of provisioning on every transport it concerns, against a real server process."""

import pytest

from tests.conformance.bench import Bench
from tests.conformance.cases import CASES
from tests.conformance.model import Case, Transport
from tests.conformance.play import play


@pytest.mark.parametrize(
    ("case", "transport"),
    [
        pytest.param(case, transport, id=f"{case.id}-{transport.name.lower()}")
        for case in CASES
        for transport in case.transports
    ],
)
async def test_case(bench: Bench, case: Case, transport: Transport) -> None:
    await play(bench, case, transport)
