from collections.abc import Iterator

import msgspec
import pytest

from provserver.admin import problem
from provserver.admin.api import Api
from provserver.errors import Invalid, Misconfigured, ProvserverError, Refused, TooManyRequests, Unavailable
from provserver.services import idempotency


def subclasses(kind: type[ProvserverError]) -> Iterator[type[ProvserverError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


def test_every_refusal_has_its_problem() -> None:
    loaded = (Api, idempotency)  # all that raises
    assert loaded
    assert {each.code for each in subclasses(Refused) if issubclass(each, Refused)} <= set(problem.KINDS)


@pytest.mark.parametrize(
    ("fault", "status", "code", "header"),
    [
        (Refused("No."), 422, "refused", None),
        (Misconfigured("Mend it."), 500, "misconfigured", None),
        (Unavailable("Away."), 503, "unavailable", None),
        (TooManyRequests("Slow down.", 1.2), 429, "too_many_requests", ("Retry-After", "2")),
        (problem.MethodNotAllowed("No.", ["GET"]), 405, "method_not_allowed", ("Allow", "GET")),
    ],
)
def test_a_problem_says_what_is_wrong(
    fault: ProvserverError, status: int, code: str, header: tuple[str, str] | None
) -> None:
    response = problem.of(fault)
    assert isinstance(response.body, bytes)
    told = msgspec.json.decode(response.body)
    assert (response.status, told["status"], told["code"], told["detail"]) == (status, status, code, str(fault))
    assert response.headers["Content-Type"] == "application/problem+json"
    assert told["type"] == f"/api/admin/docs#{code}"
    assert header is None or response.headers[header[0]] == header[1]


def test_a_problem_lists_what_is_wrong_where() -> None:
    response = problem.of(Invalid("Two rows are wrong.", [{"row": 1, "reason": ValueError("x")}, {"row": None}]))
    assert isinstance(response.body, bytes)
    assert msgspec.json.decode(response.body)["errors"] == [{"row": 1, "reason": "x"}, {"row": None}]
