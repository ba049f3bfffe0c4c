import asyncio

import pytest

from provserver.core.authorization import OPERATOR, Principal
from provserver.errors import Conflict, Unavailable
from provserver.services.idempotency import Idempotency, Kept, KeyInUse, KeyReused
from tests.conftest import Space
from tests.services.conftest import contents

KEY = "4d7ae2f0-9bb0-4a43-9e8c-1e1a4c9f24aa"
ANSWER = Kept(201, {"ETag": '"1"'}, b'{"secret":"psk_shown-once"}')


@pytest.fixture
def idempotency(space: Space) -> Idempotency:
    return Idempotency(space.database, space.keys)


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def test_the_same_request_has_the_same_answer(
    space: Space, idempotency: Idempotency, operator: Principal
) -> None:
    async with idempotency.once(operator, KEY, ["POST", "/a", b"body"]) as turn:
        assert turn.kept is None
        await turn.keep(ANSWER)
    async with idempotency.once(operator, KEY, ["POST", "/a", b"body"]) as turn:
        assert turn.kept == ANSWER
    assert "shown-once" not in repr(await contents(space))


async def test_another_request_under_the_key_is_refused(idempotency: Idempotency, operator: Principal) -> None:
    async with idempotency.once(operator, KEY, ["POST", "/a", b"body"]) as turn:
        await turn.keep(ANSWER)
    with pytest.raises(KeyReused):
        async with idempotency.once(operator, KEY, ["POST", "/a", b"another"]):
            pass
    async with idempotency.once(Principal("key:1", operator.organization_id), KEY, ["POST", "/a"]) as turn:
        assert turn.kept is None  # it is each caller's own


async def test_a_request_under_way_is_not_made_again(idempotency: Idempotency, operator: Principal) -> None:
    async with idempotency.once(operator, KEY, ["POST"]):
        with pytest.raises(KeyInUse):
            async with idempotency.once(operator, KEY, ["POST"]):
                pass


async def test_of_requests_at_once_one_goes_through(idempotency: Idempotency, operator: Principal) -> None:
    made = []

    async def ask() -> Kept | None:
        try:
            async with idempotency.once(operator, KEY, ["POST"]) as turn:
                if turn.kept is not None:
                    return turn.kept
                made.append(1)
                await turn.keep(ANSWER)
                return ANSWER
        except KeyInUse:
            return None

    assert set(map(repr, await asyncio.gather(*(ask() for _ in range(4))))) <= {repr(ANSWER), "None"}
    assert made == [1]


async def test_what_is_refused_leaves_the_key_free(idempotency: Idempotency, operator: Principal) -> None:
    with pytest.raises(Conflict, match="no"):
        async with idempotency.once(operator, KEY, ["POST"]):
            raise Conflict("no")
    async with idempotency.once(operator, KEY, ["PATCH"]) as turn:
        assert turn.kept is None


@pytest.mark.parametrize("fault", [Unavailable("away"), ValueError("unforeseen"), asyncio.CancelledError()])
async def test_what_may_have_been_done_is_not_done_again(
    idempotency: Idempotency, operator: Principal, fault: BaseException
) -> None:
    with pytest.raises(type(fault)):
        async with idempotency.once(operator, KEY, ["POST"]):
            raise fault
    with pytest.raises(KeyInUse, match="look whether it was done, and if not, use a new key"):
        async with idempotency.once(operator, KEY, ["POST"]):
            pass


async def test_a_key_is_remembered_for_a_day(space: Space, idempotency: Idempotency, operator: Principal) -> None:
    async with idempotency.once(operator, KEY, ["POST"]) as turn:
        await turn.keep(ANSWER)
    await space.rows("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
    async with idempotency.once(operator, KEY, ["PATCH"]) as turn:
        assert turn.kept is None
