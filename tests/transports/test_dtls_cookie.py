from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.dtls_cookie import CookieExchange, Hello
from provserver.transports.handshake import MessageType, fragments
from tests.transports.tls_peer import DTLS_1_2, Client

COOKIES = CookieExchange(b"a secret of tests")


def hellos(cookies: CookieExchange = COOKIES, address: bytes = b"a", now: float = 0) -> tuple[bytes, bytes, bytes]:
    """A client's first hello, the answer, and its second hello."""
    client = Client(DTLS_1_2)
    (first,) = client.step()
    answer = cookies.judge(first, address, now)
    assert isinstance(answer, bytes)
    client.feed(answer)
    (second,) = client.step()
    return first, answer, second


def test_a_hello_with_the_cookie_is_verified_and_nothing_is_kept() -> None:
    first, answer, second = hellos()
    assert COOKIES.judge(second, b"a", 0) is Hello.VERIFIED
    assert CookieExchange(b"a secret of tests").judge(second, b"a", 0) is Hello.VERIFIED
    (request,) = fragments(answer)
    assert request.type == MessageType.HELLO_VERIFY_REQUEST
    assert len(answer) < len(first)
    assert COOKIES.judge(first, b"a", 0) == answer


def test_a_cookie_is_good_for_its_address_secret_and_time() -> None:
    _, _, second = hellos(now=30)
    assert isinstance(COOKIES.judge(second, b"b", 30), bytes)
    assert isinstance(CookieExchange(b"another secret").judge(second, b"a", 30), bytes)
    assert COOKIES.judge(second, b"a", 119) is Hello.VERIFIED
    assert isinstance(COOKIES.judge(second, b"a", 121), bytes)


def test_a_cookie_is_good_for_its_hello() -> None:
    _, _, second = hellos()
    changed = bytearray(second)
    changed[13 + 12 + 2] ^= 1  # of the random
    assert isinstance(COOKIES.judge(bytes(changed), b"a", 0), bytes)


def test_a_hello_in_fragments_is_ignored() -> None:
    first, _, _ = hellos()
    body = first[13:]
    part = body[:1] + body[1:4] + body[4:9] + (20).to_bytes(3) + body[12:32]
    assert COOKIES.judge(first[:11] + len(part).to_bytes(2) + part, b"a", 0) is Hello.NOTHING


@given(st.binary(max_size=300))
def test_garbage_is_ignored(datagram: bytes) -> None:
    assert COOKIES.judge(datagram, b"a", 0) is Hello.NOTHING


@given(st.integers(25, 25 + 33), st.integers(1, 255), st.integers(0, 300))
def test_a_changed_hello_is_never_verified_nor_amplified(at: int, change: int, size: int) -> None:
    datagram = bytearray(HELLO)
    datagram[at] ^= change  # of the version and the random
    del datagram[size:]
    judged = COOKIES.judge(bytes(datagram), b"a", 0)
    assert judged is not Hello.VERIFIED
    assert not isinstance(judged, bytes) or len(judged) < len(datagram)


HELLO = hellos()[2]
