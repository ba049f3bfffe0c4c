import os
from uuid import uuid4

import pytest

from provserver.core import statictoken
from provserver.core.ids import ALPHANUMERIC, uuid7
from provserver.core.secrets import ServerKeys, Unsealable

KEYS = ServerKeys({1: b"d" * 32}, {1: b"s" * 32})


def test_a_qr_token_has_its_form() -> None:
    qr = statictoken.qr_token(os.urandom)
    assert qr.startswith("sqr_")
    assert len(qr) == 36
    assert set(qr[4:]) <= set(ALPHANUMERIC)


def test_a_sealed_qr_token_opens_for_its_static_token_only() -> None:
    id_ = uuid4()
    sealed = statictoken.seal_qr(KEYS, id_, "sqr_x", os.urandom)
    assert b"sqr_x" not in sealed
    assert statictoken.open_qr(KEYS, id_, sealed) == "sqr_x"
    with pytest.raises(Unsealable):
        statictoken.open_qr(KEYS, uuid4(), sealed)


def test_the_ids_of_a_batch_are_a_range_in_the_order_of_making() -> None:
    batches = [statictoken.batch_id(now, os.urandom) for now in (1.0, 1.5, 2.0)]
    made = [statictoken.token_id(batch, place) for batch in batches for place in (1, 2, 1_000_000)]
    assert made == sorted(made)
    assert len(set(made)) == 9
    assert {id_.version for id_ in made} == {7}
    for batch in batches:
        first, last = statictoken.batch_range(batch)
        assert [id_ for id_ in made if first <= id_ <= last] == [
            statictoken.token_id(batch, place) for place in (1, 2, 1_000_000)
        ]
        assert statictoken.batch_range(first) == (first, last)


def test_batches_that_begin_at_once_differ() -> None:
    assert statictoken.batch_id(1.0, os.urandom) != statictoken.batch_id(1.0, os.urandom)
    assert abs(statictoken.batch_id(1.0, os.urandom).int - uuid7(1.0, os.urandom).int) < 1 << 80
