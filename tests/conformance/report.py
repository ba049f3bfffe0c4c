"""A plugin that prints the matrices at the end of a run, in whatever process each case ran."""

import itertools

import pytest

from tests.conformance.channels.model import Case as ChannelCase
from tests.conformance.channels.model import Channel
from tests.conformance.matrix import Matrix
from tests.conformance.model import Case, Transport

PROPERTY = "conformance"

_matrices = {
    "transport": Matrix("conformance: provisioning", tuple(Transport)),
    "channel": Matrix("conformance: devices that come back", tuple(Channel)),
}
_numbers = itertools.count()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have the test's report say which cell of which matrix it is, and in which order they come."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    case = parameters.get("case")
    for kind in _matrices:
        if isinstance(case, Case | ChannelCase) and kind in parameters:
            item.user_properties.append((PROPERTY, [kind, next(_numbers), case.id, parameters[kind].value]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a cell came out."""
    for name, value in report.user_properties:
        if name == PROPERTY and isinstance(value, list) and (report.when == "call" or report.outcome != "passed"):
            kind, number, case, column = value
            _matrices[kind].record(number, (case, column), report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrices."""
    for matrix in _matrices.values():
        if matrix.empty:
            continue
        terminalreporter.section(matrix.title, red=matrix.failed, green=not matrix.failed)
        for line in matrix.lines():
            terminalreporter.write_line(line, red="FAIL" in line)
