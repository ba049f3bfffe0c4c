import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.handshake import (
    MAX_MESSAGE_SIZE,
    ClientHello,
    MessageType,
    StreamReader,
    TooLarge,
    fragments,
    read_client_hello,
    read_key_exchange,
    records,
)
from tests.transports.tls_peer import DTLS_1_2, TLS_1_2, TLS_1_3, Client

RANDOM = bytes(range(32))
TICKET = bytes(range(100, 240))


def vector(size: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return len(content).to_bytes(size) + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, content)


def offered(*identities: bytes) -> bytes:
    listed = vector(2, *(vector(2, identity) + bytes(4) for identity in identities))
    return extension(41, listed + vector(2, vector(1, bytes(32))))


def hello(*extensions: bytes, suites: bytes = b"\x13\x01\xc0\x2b", cookie: bytes | None = None) -> bytes:
    parts = [b"\x03\x03", RANDOM, vector(1, b"session")]
    if cookie is not None:
        parts.append(vector(1, cookie))
    parts += [vector(2, suites), vector(1, b"\0")]
    if extensions:
        parts.append(vector(2, *extensions))
    return b"".join(parts)


def record(content: bytes, kind: int = 22) -> bytes:
    return bytes([kind]) + b"\x03\x03" + vector(2, content)


def message(body: bytes, kind: int = MessageType.CLIENT_HELLO) -> bytes:
    return bytes([kind]) + vector(3, body)


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        (hello(), None),
        (hello(extension(0, b"name"), extension(43, b"\x02\x03\x04")), None),
        (hello(extension(0, b"name"), offered(b"device-1")), "device-1"),
        (hello(offered(TICKET)), None),
        (hello(offered(TICKET, b"device-1")), "device-1"),
        (hello(offered(b"device-1", b"device-2")), "device-1"),
        (hello(offered("größer".encode())), "größer"),
        (hello(offered(b"x" * 128)), "x" * 128),
        (hello(offered(b"x" * 129)), None),
        (hello(offered(b"")), None),
        (hello(offered(b"nul\0")), None),
    ],
)
def test_the_identity_of_a_hello(body: bytes, identity: str | None) -> None:
    read = read_client_hello(body)
    assert read is not None
    assert (read.identity, read.psk_suites, read.cookie) == (identity, False, b"")


@pytest.mark.parametrize("suite", ["00a8", "00a9", "c0a4", "c0a5", "c0a8", "c0a9", "ccab", "ccac"])
def test_suites_with_a_shared_key(suite: str) -> None:
    read = read_client_hello(hello(suites=b"\xc0\x2b" + bytes.fromhex(suite)))
    assert read is not None
    assert read.psk_suites


def test_the_parameters_of_a_hello_leave_its_cookie_out() -> None:
    first, second, other = (
        read_client_hello(body, datagram=True)
        for body in (hello(cookie=b""), hello(cookie=b"cookie"), hello(cookie=b"", suites=b"\xc0\x2b"))
    )
    assert first == ClientHello(False, None, b"", hello())
    assert second == ClientHello(False, None, b"cookie", hello())
    assert other is not None
    assert other.parameters != hello()


def test_hellos_of_a_client_are_read() -> None:
    for version in (TLS_1_2, TLS_1_3):
        (flight,) = Client(version, psk=("device-1", b"k" * 16)).step()
        ((kind, body),) = StreamReader().feed(flight)
        read = read_client_hello(body)
        assert kind == MessageType.CLIENT_HELLO
        assert read is not None
        assert (read.psk_suites, read.identity) == ((True, None) if version == TLS_1_2 else (False, "device-1"))
    (datagram,) = Client(DTLS_1_2, psk=("device-1", b"k" * 16)).step()
    (fragment,) = fragments(datagram)
    assert (fragment.type, fragment.offset, fragment.length) == (1, 0, len(fragment.body))
    assert read_client_hello(fragment.body, datagram=True) is not None


def test_the_identity_of_a_key_exchange() -> None:
    assert read_key_exchange(vector(2, b"device-1")) == "device-1"
    assert read_key_exchange(vector(2, b"device-1") + vector(1, bytes(65))) == "device-1"
    assert read_key_exchange(vector(1, b"\x04" + bytes(64))) is None  # of a suite without
    assert read_key_exchange(vector(2, b"")) is None
    assert read_key_exchange(b"\0") is None


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_hello_or_none(body: bytes, datagram: bool) -> None:
    read_client_hello(body, datagram=datagram)
    read_key_exchange(body)
    list(fragments(body))


@given(st.data())
def test_a_hello_that_is_cut_or_changed_is_read_or_not(data: st.DataObject) -> None:
    body = bytearray(hello(extension(0, b"name"), offered(TICKET, b"device-1")))
    del body[data.draw(st.integers(0, len(body))) :]
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_client_hello(bytes(body))


# Records


@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=4), st.data())
def test_messages_are_found_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    """Into records, and the records into pieces."""
    messages = b"".join(map(message, bodies))
    size = data.draw(st.integers(1, len(messages)))
    stream = b"".join(record(messages[at : at + size]) for at in range(0, len(messages), size))
    step = data.draw(st.integers(1, len(stream)))
    reader = StreamReader()
    found = [each for at in range(0, len(stream), step) for each in reader.feed(stream[at : at + step])]
    assert found == [(MessageType.CLIENT_HELLO, body) for body in bodies]
    assert not reader.over


def test_a_change_of_ciphers_is_passed_over() -> None:
    reader = StreamReader()
    assert list(reader.feed(record(b"\x01", kind=20) + record(message(b"x")))) == [(1, b"x")]
    assert not reader.over


@pytest.mark.parametrize(
    "stream", [b"GET / HTTP/1.1\r\n", record(b"x", kind=23), record(b"", kind=22), b"\x80\x2e\x01\x03\x01"]
)
def test_something_else_ends_the_search(stream: bytes) -> None:
    reader = StreamReader()
    assert list(reader.feed(stream)) == []
    assert reader.over
    assert list(reader.feed(record(message(b"x")))) == []


def test_a_message_too_large() -> None:
    reader = StreamReader()
    assert list(reader.feed(record(b"\x01" + MAX_MESSAGE_SIZE.to_bytes(3)))) == []
    with pytest.raises(TooLarge):
        list(StreamReader().feed(record(b"\x01" + (MAX_MESSAGE_SIZE + 1).to_bytes(3))))


def test_fragments_of_other_epochs_and_types_are_passed_over() -> None:
    def datagram(content: bytes, kind: int = 22, epoch: int = 0) -> bytes:
        return bytes([kind]) + b"\xfe\xfd" + epoch.to_bytes(2) + (7).to_bytes(6) + vector(2, content)

    part = b"\x10" + (20).to_bytes(3) + (3).to_bytes(2) + (4).to_bytes(3) + vector(3, b"body")
    whole = datagram(b"\x01", kind=20) + datagram(part, epoch=1) + datagram(part + part)
    found = list(fragments(whole))
    assert len(found) == 2
    assert (found[0].record_number, found[0].type, found[0].message_number) == (7, 16, 3)
    assert (found[0].length, found[0].offset, found[0].body) == (20, 4, b"body")
    assert list(fragments(datagram(part[:-1]))) == []
    assert list(fragments(datagram(part)[:-1])) == []
    assert list(records(whole)) == [datagram(b"\x01", kind=20), datagram(part, epoch=1), datagram(part + part)]
