"""The bench of the conformance cases, and the matrix they print."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.bench import Bench, bench
from tests.conformance.matrix import Cell, Matrix
from tests.conformance.model import Case, Transport
from tests.server import Server

_matrix = Matrix()
_cells: dict[str, Cell] = {}


@pytest.fixture(scope="session", name="bench")
async def _bench(server: Server) -> AsyncIterator[Bench]:
    """The server of the run with an operator's hands on its database."""
    async with bench(server) as opened:
        yield opened


def pytest_itemcollected(item: pytest.Item) -> None:
    """Remember which cell of the matrix a test is."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    case, transport = parameters.get("case"), parameters.get("transport")
    if isinstance(case, Case) and isinstance(transport, Transport):
        _cells[item.nodeid] = case.id, transport


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a cell came out."""
    if report.nodeid in _cells and (report.when == "call" or report.outcome != "passed"):
        _matrix.record(_cells[report.nodeid], report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix."""
    if _matrix.empty:
        return
    terminalreporter.section("conformance", red=_matrix.failed, green=not _matrix.failed)
    for line in _matrix.lines():
        terminalreporter.write_line(line, red="FAIL" in line)
