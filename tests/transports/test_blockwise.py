import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.transports.blockwise import (
    LIFETIME,
    MAX_EXCHANGES,
    Block,
    Progress,
    RequestBodies,
    ResponseBodies,
    cut,
)

BODY = bytes(range(256)) * 4
PEER = "peer"


def blocks(body: bytes, exponent: int) -> list[tuple[Block, bytes]]:
    """A body as a client sends it."""
    size = 1 << exponent + 4
    count = max(1, -(-len(body) // size))
    return [(Block(n, n < count - 1, exponent), body[n * size : (n + 1) * size]) for n in range(count)]


def feed(bodies: RequestBodies, *some: tuple[Block, bytes], now: float = 0, key: str = PEER) -> list[bytes | Progress]:
    return [bodies.feed(key, block, payload, now) for block, payload in some]


def bodies(max_size: int = 4096) -> RequestBodies:
    return RequestBodies(max_size)


@pytest.mark.parametrize(("exponent", "size"), [(0, 16), (1, 32), (2, 64), (3, 128), (4, 256), (5, 512), (6, 1024)])
def test_block_sizes_of_rfc_7959(exponent: int, size: int) -> None:
    block = Block(3, True, exponent)
    assert (block.size, block.start) == (size, 3 * size)


@given(st.integers(0, 0xFFFFFF))
def test_a_block_is_written_as_it_was_read(option: int) -> None:
    assert Block.of(option).option == option
    assert Block.of(0x2E) == Block(2, True, 6)


def test_progress_is_the_codes_of_rfc_7959() -> None:
    assert [progress.value for progress in Progress] == ["2.31", "4.08", "4.13"]


# Requests


@pytest.mark.parametrize("body", [b"", b"x", BODY[:16]])
def test_one_block_is_the_whole_body(body: bytes) -> None:
    assert feed(bodies(), (Block(0, False, 0), body)) == [body]


def test_the_last_block_completes_the_body() -> None:
    first, second, last = blocks(BODY[:40], 0)
    assert feed(bodies(), first, second, last) == [Progress.CONTINUE, Progress.CONTINUE, BODY[:40]]


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 6))
def test_any_body_in_any_block_size_is_assembled(body: bytes, exponent: int) -> None:
    *progress, whole = feed(bodies(), *blocks(body, exponent))
    assert set(progress) <= {Progress.CONTINUE}
    assert whole == body


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(0, 6), st.data())
def test_the_block_size_may_shrink_under_way(body: bytes, exponent: int, data: st.DataObject) -> None:
    assembling = bodies()
    at, result = 0, assembling.feed(PEER, Block(0, True, 6), bytes(1024), 0)  # an earlier try that came to nothing
    while not isinstance(result, bytes):
        exponent = data.draw(st.integers(0, exponent))
        size = 1 << exponent + 4
        block = Block(at // size, at + size < len(body), exponent)
        result = assembling.feed(PEER, block, body[at : at + size], 0)
        at += size
    assert result == body


@settings(deadline=None)
@given(st.binary(min_size=17, max_size=2000), st.integers(0, 4), st.data())
def test_blocks_that_come_again_change_nothing(body: bytes, exponent: int, data: st.DataObject) -> None:
    parts = blocks(body, exponent)
    assembling = bodies()
    for n, part in enumerate(parts):
        if n > 1:
            again = data.draw(st.lists(st.sampled_from(parts[1:n]), max_size=3))
            assert set(feed(assembling, *again)) <= {Progress.CONTINUE}
        (result,) = feed(assembling, part)
    assert result == body


def test_the_first_block_starts_anew() -> None:
    first, second, last = blocks(BODY[:40], 0)
    other = blocks(b"y" * 20, 0)
    assembling = bodies()
    assert feed(assembling, first, second, *other) == [Progress.CONTINUE] * 3 + [b"y" * 20]
    assert feed(assembling, first, second, first, last) == [Progress.CONTINUE] * 3 + [Progress.INCOMPLETE]
    assert feed(assembling, second, last) == [Progress.CONTINUE, BODY[:40]]  # what was there goes on


def test_another_block_in_the_same_place_replaces_what_followed() -> None:
    first, second, third, last = blocks(BODY[:60], 0)
    changed = (second[0], b"z" * 16)
    assembling = bodies()
    feed(assembling, first, second, third)
    assert feed(assembling, changed, last) == [Progress.CONTINUE, Progress.INCOMPLETE]
    assert feed(assembling, third, last) == [Progress.CONTINUE, BODY[:16] + b"z" * 16 + BODY[32:60]]


def test_the_last_block_ends_the_body_although_more_was_there() -> None:
    first, second, third, _ = blocks(BODY[:60], 0)
    assert feed(bodies(), first, second, third, (Block(1, False, 0), second[1]))[-1] == BODY[:32]


@pytest.mark.parametrize("missing", range(4))
def test_a_gap_is_incomplete(missing: int) -> None:
    parts = blocks(BODY[:70], 0)
    results = feed(bodies(), *parts[:missing], *parts[missing + 1 :])
    assert results[:missing] == [Progress.CONTINUE] * missing
    assert set(results[missing:]) == {Progress.INCOMPLETE}


def test_a_gap_can_be_filled() -> None:
    first, second, last = blocks(BODY[:40], 0)
    assert feed(bodies(), first, last, second, last) == [
        Progress.CONTINUE,
        Progress.INCOMPLETE,
        Progress.CONTINUE,
        BODY[:40],
    ]


def test_no_exchange_is_taken_up_in_the_middle() -> None:
    _, second, last = blocks(BODY[:40], 0)
    assert feed(bodies(), second, last) == [Progress.INCOMPLETE] * 2


def test_a_finished_body_is_forgotten() -> None:
    assembling = bodies()
    first, last = blocks(BODY[:20], 0)
    assert feed(assembling, first, last, last) == [Progress.CONTINUE, BODY[:20], Progress.INCOMPLETE]


@pytest.mark.parametrize("payload", [b"", b"x" * 15, b"x" * 17, b"x" * 32])
def test_a_block_before_the_last_is_full(payload: bytes) -> None:
    assembling = bodies()
    assert feed(assembling, (Block(0, True, 0), payload)) == [Progress.INCOMPLETE]
    assert feed(assembling, (Block(1, False, 0), b"x")) == [Progress.INCOMPLETE]


def test_a_wrong_block_does_not_spoil_the_others() -> None:
    first, second, last = blocks(BODY[:40], 0)
    wrong = (Block(1, True, 0), b"short")
    assert feed(bodies(), first, wrong, second, last)[-1] == BODY[:40]


def test_exchanges_do_not_mix() -> None:
    assembling = bodies()
    one, other = blocks(b"a" * 40, 0), blocks(b"b" * 40, 0)
    for mine, theirs in zip(one, other, strict=True):
        (got,) = feed(assembling, mine, key="one")
        (their,) = feed(assembling, theirs, key="other")
    assert (got, their) == (b"a" * 40, b"b" * 40)


@pytest.mark.parametrize("exponent", [0, 2, 6])
def test_the_size_limit_is_exact(exponent: int) -> None:
    assert feed(bodies(1000), *blocks(BODY[:1000], exponent))[-1] == BODY[:1000]
    assert feed(bodies(999), *blocks(BODY[:1000], exponent))[-1] is Progress.TOO_LARGE


@pytest.mark.parametrize("number", [63, 64, 1 << 20, (1 << 20) - 1])
def test_a_block_past_the_limit_is_refused_before_anything_is_kept(number: int) -> None:
    assembling = bodies(1008)
    assert feed(assembling, (Block(number, True, 0), bytes(16))) == [Progress.TOO_LARGE]


def test_what_grew_too_large_is_forgotten() -> None:
    assembling = bodies(32)
    parts = blocks(BODY[:48], 0)
    assert feed(assembling, *parts) == [Progress.CONTINUE, Progress.CONTINUE, Progress.TOO_LARGE]
    assert feed(assembling, parts[1]) == [Progress.INCOMPLETE]


def test_an_unfinished_body_expires_after_its_last_block() -> None:
    first, second, last = blocks(BODY[:40], 0)
    assembling = bodies()
    feed(assembling, first, now=1000)
    feed(assembling, second, now=1000 + LIFETIME - 1)
    assert feed(assembling, last, now=1000 + 2 * LIFETIME - 1.5) == [BODY[:40]]
    feed(assembling, first, second, now=5000)
    assert feed(assembling, last, now=5000 + LIFETIME) == [Progress.INCOMPLETE]


def kept(assembling: RequestBodies | ResponseBodies[str]) -> int:
    return len(assembling._parts if isinstance(assembling, RequestBodies) else assembling._bodies)


def test_unfinished_bodies_are_bounded_and_the_oldest_go_first() -> None:
    assembling = bodies()
    first, last = blocks(BODY[:20], 0)
    for n in range(MAX_EXCHANGES):
        feed(assembling, first, key=f"{n}")
    feed(assembling, first, key="0")  # seen again, so it is the youngest
    feed(assembling, first, key="one more")
    assert kept(assembling) == MAX_EXCHANGES
    assert feed(assembling, last, key="1") == [Progress.INCOMPLETE]
    for key in ("0", "2", "one more"):
        assert feed(assembling, last, key=key) == [BODY[:20]]


def test_expired_bodies_make_room_when_another_comes() -> None:
    assembling = bodies()
    for n in range(100):
        feed(assembling, blocks(BODY, 0)[0], key=f"{n}", now=n / 100)
    feed(assembling, blocks(BODY, 0)[0], key="late", now=LIFETIME + 0.5)
    assert kept(assembling) == 50  # 51 of a hundred, and this one


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.builds(Block, st.integers(0, 4), st.booleans(), st.integers(0, 1)),
            st.sampled_from([0, 1, 15, 16, 32, 33]),
            st.floats(0, 60),
        ),
        max_size=30,
    )
)
def test_whatever_comes_a_body_is_bounded_and_of_its_own_exchange(feeds: list[tuple[str, Block, int, float]]) -> None:
    assembling, now = bodies(100), 0.0
    for key, block, length, step in feeds:
        now += step
        result = assembling.feed(key, block, key.encode() * length, now)
        if isinstance(result, bytes):
            assert not block.more
            assert len(result) == block.start + length <= 100
            assert set(result) <= set(key.encode())
    assert kept(assembling) <= 2


# Responses


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 6))
def test_any_body_is_cut_into_blocks_that_make_it_again(body: bytes, exponent: int) -> None:
    whole, number, more = b"", 0, True
    while more:
        part = cut(body, number, exponent)
        assert part is not None
        payload, block = part
        assert (block.number, block.exponent) == (number, exponent)
        assert len(payload) == block.size or not block.more
        whole, number, more = whole + payload, number + 1, block.more
    assert whole == body
    assert cut(body, number, exponent) is None


@pytest.mark.parametrize(
    ("length", "number", "payload", "more"),
    [
        (0, 0, 0, False),
        (1, 0, 1, False),
        (16, 0, 16, False),
        (17, 0, 16, True),
        (17, 1, 1, False),
        (32, 1, 16, False),
        (33, 1, 16, True),
        (33, 2, 1, False),
    ],
)
def test_blocks_of_a_response(length: int, number: int, payload: int, more: bool) -> None:
    assert cut(BODY[:length], number, 0) == (BODY[number * 16 :][:payload], Block(number, more, 0))


@pytest.mark.parametrize(("length", "number"), [(0, 1), (16, 1), (17, 2), (17, 1 << 20)])
def test_past_the_end_there_is_no_block(length: int, number: int) -> None:
    assert cut(BODY[:length], number, 0) is None


def test_a_kept_response_is_fetched_as_often_as_asked() -> None:
    responses = ResponseBodies[str]()
    responses.keep(PEER, BODY, "2.01", 0)
    assert [responses.fetch(PEER, LIFETIME - 1) for _ in range(2)] == [(BODY, "2.01")] * 2
    assert responses.fetch("another", 0) is None
    assert responses.fetch(PEER, LIFETIME) is None


def test_the_newest_response_of_an_exchange_counts() -> None:
    responses = ResponseBodies[str]()
    responses.keep(PEER, b"old", "2.01", 0)
    responses.keep(PEER, b"new", "4.00", 1)
    assert responses.fetch(PEER, 1) == (b"new", "4.00")
    assert kept(responses) == 1


def test_kept_responses_are_bounded() -> None:
    responses = ResponseBodies[str]()
    for n in range(MAX_EXCHANGES + 10):
        responses.keep(n, b"body", "2.01", 0)
    assert kept(responses) == MAX_EXCHANGES
    assert responses.fetch(9, 0) is None
    assert responses.fetch(10, 0) == (b"body", "2.01")
