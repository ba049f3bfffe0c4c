import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import backupfile
from provserver.core.backupfile import MAGIC, Head
from provserver.errors import Refused

KEYS = '{"digest": {}}'


def begun(passphrase: str = "passphrase") -> tuple[backupfile.Seal, bytes]:
    return backupfile.begin(
        passphrase,
        KEYS,
        [(1, "core", "ab")],
        created_at="2026-11-22T16:00:00+00:00",
        release="1.2.3",
        postgres=18,
        random=os.urandom,
    )


def test_what_was_sealed_opens_under_its_passphrase_alone() -> None:
    writing, start = begun("päss")
    writing.take(b"dump")
    written = writing.finish()

    head, end = backupfile.read_head(start + b"dump")

    assert (end, head.release, head.postgres, head.schema) == (len(start), "1.2.3", 18, [(1, "core", "ab")])
    assert KEYS.encode() not in start
    reading = backupfile.seal_of(head, "päss")
    assert reading.open_keys(head.keys) == KEYS
    reading.take(start)
    reading.take(b"dump")
    assert reading.holds(written)
    reading.take(b"x")
    assert not reading.holds(written)
    with pytest.raises(Refused, match="passphrase"):
        backupfile.seal_of(head, "pass").open_keys(head.keys)


def test_two_backups_share_no_salt_and_no_nonce() -> None:
    assert begun()[1] != begun()[1]


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    for start in (data, MAGIC + data, MAGIC + len(data).to_bytes(4) + data):
        with pytest.raises(Refused):
            backupfile.read_head(start)


@pytest.mark.parametrize("cost", [0, 1, 3, -8, 1 << 21])
def test_a_cost_that_would_be_no_work_or_too_much_is_refused(cost: int) -> None:
    head = msgspec.json.encode(Head("now", "1", 18, [], "AA==", "AA==", cost))
    with pytest.raises(Refused):
        backupfile.read_head(MAGIC + len(head).to_bytes(4) + head)
