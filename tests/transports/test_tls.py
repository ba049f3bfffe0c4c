"""Channels against a client in memory: what they accept, prove, refuse and bound."""

import gc
import itertools
import logging
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from provserver.errors import Misconfigured
from provserver.transports import tls
from provserver.transports.tls import MAX_HANDSHAKE_SIZE, MAX_UNREAD_SIZE, MTU, Channel, ServerContext
from tests import pki
from tests.transports.tls_peer import DTLS_1_2, ROOT, TLS_1_2, TLS_1_3, Client, Link, connect, server_files

STREAMS: Final = {"TLS 1.2": TLS_1_2, "TLS 1.3": TLS_1_3}
VERSIONS: Final = STREAMS | {"DTLS 1.2": DTLS_1_2}
KEY: Final = b"sixteen or more."

FACTORY: Final = ROOT.intermediate("Factory")
DEVICE: Final = FACTORY.leaf("sensor-1")
LONE: Final = pki.self_signed("sensor-2")

each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
each_stream = pytest.mark.parametrize("version", STREAMS.values(), ids=STREAMS)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return server_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def contexts(files: tuple[Path, Path]) -> dict[bool, ServerContext]:
    return {datagram: ServerContext(*files, datagram=datagram) for datagram in (False, True)}


@pytest.fixture
def context(contexts: dict[bool, ServerContext], version: int) -> ServerContext:
    return contexts[version == DTLS_1_2]


def one_key(identity: str) -> bytes | None:
    return KEY if identity == "device-1" else None


# Handshakes


@each_version
def test_data_passes_both_ways(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    assert (link.channel.established, link.channel.closed, link.channel.failure) == (True, False, "")
    assert (link.channel.certificates, link.channel.psk_identity, link.channel.resumed) == ((), "", False)
    assert link.say(b"question") == b"question"
    assert link.answer(b"answer") == b"answer"


@each_version
def test_a_self_signed_certificate_is_accepted_and_shown(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version, certificate=LONE))
    assert link.channel.certificates == (LONE.der,)
    assert link.say(b"x") == b"x"


@each_version
@pytest.mark.parametrize(
    "leaf",
    [
        pki.self_signed("expired", not_after=pki.days(-0.5)),
        pki.self_signed("not yet", not_before=pki.days(1)),
        pki.self_signed("a CA", ca=True),
        pki.self_signed("rsa", key="rsa2048"),
        pki.self_signed("nul\0.example"),
        pki.self_signed("a server", eku=[pki.SERVER_AUTH]),
        ROOT.leaf("without its issuer"),
    ],
    ids=lambda leaf: leaf.certificate.subject.rfc4514_string(),
)
def test_what_a_certificate_says_is_for_others_to_judge(context: ServerContext, version: int, leaf: pki.Issued) -> None:
    assert connect(context, Client(version, certificate=leaf)).channel.certificates == (leaf.der,)


@each_version
def test_a_chain_is_shown_leaf_first(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version, certificate=DEVICE, chain=DEVICE.issuers))
    assert link.channel.certificates == DEVICE.full_chain


@pytest.mark.parametrize("version", [TLS_1_2, DTLS_1_2], ids=["TLS 1.2", "DTLS 1.2"])
def test_who_lacks_the_key_of_a_certificate_is_refused(context: ServerContext, version: int) -> None:
    """One who shows another's certificate: here, put on the wire in the place of one as long."""
    taken, own = (pki.self_signed("sensor-9", serial=1 << 100 | number) for number in range(2))
    while len(own.der) != len(taken.der):
        own = pki.self_signed("sensor-9", serial=1 << 100)
    link = Link(context, Client(version, certificate=own))
    replaced = 0
    while sent := link.client.step():
        replaced += sum(own.der in piece for piece in sent)
        link.deliver(*(piece.replace(own.der, taken.der) for piece in sent))
    assert replaced == 1
    assert not link.channel.established
    assert link.channel.certificates == ()


@each_stream
def test_bytes_may_come_one_by_one(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version, certificate=DEVICE, chain=DEVICE.issuers), piece=1)
    assert link.channel.certificates == DEVICE.full_chain
    assert link.say(b"x" * 100) == b"x" * 100


def test_a_client_may_be_asked_for_another_group(contexts: dict[bool, ServerContext]) -> None:
    link = connect(contexts[False], Client(groups="ffdhe2048:P-256", certificate=LONE), piece=7)
    assert link.channel.certificates == (LONE.der,)


@pytest.mark.parametrize("version", [0x0301, 0x0302], ids=["TLS 1.0", "TLS 1.1"])
def test_older_versions_are_refused(contexts: dict[bool, ServerContext], version: int) -> None:
    link = connect(contexts[False], Client(version, ciphers="ALL:@SECLEVEL=0"))
    assert not link.channel.established
    assert link.channel.failure == "unsupported protocol"


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "aNULL", "eNULL"])
def test_ciphers_without_forward_secrecy_or_authenticated_encryption_are_refused(
    contexts: dict[bool, ServerContext], cipher: str
) -> None:
    link = connect(contexts[False], Client(TLS_1_2, ciphers=f"{cipher}:@SECLEVEL=0"))
    assert not link.channel.established
    assert link.channel.failure == "no shared cipher"


def test_small_stacks_have_their_cipher_on_datagrams_only(contexts: dict[bool, ServerContext]) -> None:
    for cipher in ("PSK-AES128-CCM8", "ECDHE-ECDSA-AES128-CCM8"):
        ciphers = f"{cipher}:@SECLEVEL=0"
        psk = ("device-1", KEY) if "PSK" in cipher else None
        assert connect(contexts[True], Client(DTLS_1_2, ciphers=ciphers, psk=psk), one_key).channel.established
        assert not connect(contexts[False], Client(TLS_1_2, ciphers=ciphers, psk=psk), one_key).channel.established


# Resumption


@each_version
def test_a_resumed_session_still_shows_the_certificates(context: ServerContext, version: int) -> None:
    first = connect(context, Client(version, certificate=DEVICE, chain=DEVICE.issuers))
    assert first.channel.certificates == DEVICE.full_chain
    second = connect(context, Client(version, session=first.client))
    assert second.channel.resumed
    assert second.channel.certificates == DEVICE.full_chain
    assert second.say(b"x") == b"x"


def test_the_issuers_of_resumed_sessions_are_forgotten_past_a_bound(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ServerContext(*files)
    monkeypatch.setattr(tls, "_MAX_CHAINS_SIZE", 2 * sum(map(len, DEVICE.full_chain)))
    first = connect(context, Client(certificate=DEVICE, chain=DEVICE.issuers))
    assert first.channel.certificates == DEVICE.full_chain
    for number in range(2):
        leaf = FACTORY.leaf(f"sensor-{number}")
        assert connect(context, Client(certificate=leaf, chain=leaf.issuers)).channel.certificates == leaf.full_chain
    second = connect(context, Client(session=first.client))
    assert second.channel.resumed
    assert second.channel.certificates == (DEVICE.der,)


@each_version
def test_a_session_ends_with_its_context(files: tuple[Path, Path], version: int) -> None:
    datagram = version == DTLS_1_2
    first = connect(ServerContext(*files, datagram=datagram), Client(version, certificate=LONE))
    second = connect(ServerContext(*files, datagram=datagram), Client(version, session=first.client))
    assert not second.channel.resumed
    assert second.channel.certificates == (LONE.der,)


# Pre-shared keys

PSK_CASES: Final = {
    "TLS 1.2 PSK": (TLS_1_2, "PSK-AES128-GCM-SHA256"),
    "TLS 1.2 ECDHE-PSK": (TLS_1_2, "ECDHE-PSK-CHACHA20-POLY1305"),
    "TLS 1.2 everything": (TLS_1_2, ""),
    "TLS 1.3": (TLS_1_3, ""),
    "DTLS PSK": (DTLS_1_2, "PSK-AES256-CCM8:@SECLEVEL=0"),
    "DTLS ECDHE-PSK": (DTLS_1_2, "ECDHE-PSK-CHACHA20-POLY1305"),
}
each_psk = pytest.mark.parametrize(("version", "ciphers"), PSK_CASES.values(), ids=PSK_CASES)


@each_psk
@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "in bytes"])
def test_a_shared_key_opens(context: ServerContext, version: int, ciphers: str, piece: int) -> None:
    client = Client(version, psk=("device-1", KEY), ciphers=ciphers)
    link = connect(context, client, one_key, 1 << 20 if client.datagram else piece)
    assert link.asked == ["device-1"]
    assert (link.channel.established, link.channel.psk_identity) == (True, "device-1")
    assert link.channel.certificates == ()
    assert link.say(b"question") == b"question"
    assert link.answer(b"answer") == b"answer"


@each_psk
def test_an_unknown_identity_looks_like_a_wrong_key(context: ServerContext, version: int, ciphers: str) -> None:
    seen = []
    for identity, key in (("device-1", b"another key"), ("device-2", KEY)):
        link = connect(context, Client(version, psk=(identity, key), ciphers=ciphers), one_key)
        assert link.asked == [identity]
        assert not link.channel.established
        assert link.channel.psk_identity == ""
        alerts = [piece for piece in link.to_client if piece[0] == 21]
        error = link.client.error
        seen.append((alerts, list(map(len, link.to_client)), error and error.args, link.channel.failure))
    assert seen[0] == seen[1]


@each_psk
def test_sessions_do_not_outlive_the_key(context: ServerContext, version: int, ciphers: str) -> None:
    first = connect(context, Client(version, psk=("device-1", KEY), ciphers=ciphers), one_key)
    assert first.say(b"x") == b"x"
    again = connect(context, Client(version, session=first.client), one_key)
    assert (again.asked, again.channel.psk_identity) == (["device-1"], "device-1")
    revoked = connect(context, Client(version, session=again.client), lambda _: b"the key that came after it")
    assert revoked.asked == ["device-1"]
    assert not revoked.channel.established


@each_psk
def test_nothing_happens_before_the_key_is_there(context: ServerContext, version: int, ciphers: str) -> None:
    link = connect(context, Client(version, psk=("device-1", KEY), ciphers=ciphers), None)
    assert (link.channel.wanted_identity, link.channel.established) == ("device-1", False)
    assert link.channel.timeout(0) is None
    link.channel.resume_with(KEY)
    link.run()
    assert link.channel.psk_identity == "device-1"


def test_a_key_too_long_for_openssl_is_a_wrong_one(contexts: dict[bool, ServerContext]) -> None:
    link = connect(contexts[False], Client(psk=("device-1", KEY)), lambda _: b"k" * 5000)
    assert not link.channel.established


@pytest.mark.parametrize("identity", ["", "tab\t", "x" * 129])
def test_what_can_be_no_identity_is_not_looked_up(contexts: dict[bool, ServerContext], identity: str) -> None:
    for version in (TLS_1_2, TLS_1_3):
        link = connect(contexts[False], Client(version, psk=(identity, KEY), ciphers="PSK"), lambda _: KEY)
        assert link.asked == []
        assert link.channel.psk_identity == ""


# Ends


@each_version
def test_close_notify_is_sent_and_understood(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    link.client.ssl.shutdown()
    link.deliver(*link.client.output())
    assert link.channel.read() == b""
    assert (link.channel.closed, link.channel.failure) == (True, "")
    assert link.answer(b"the last word") == b"the last word"
    link.channel.close()
    link.return_()
    with pytest.raises(SSL.ZeroReturnError):
        link.client.ssl.recv(1)


@each_version
def test_nothing_is_written_after_close(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    link.channel.close()
    link.channel.write(b"too late")
    assert link.channel.failure
    link.return_()
    with pytest.raises(SSL.ZeroReturnError):
        link.client.ssl.recv(1)


@each_stream
def test_a_changed_record_ends_the_connection(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    link.client.ssl.send(b"transfer 100")
    (record,) = link.client.output()
    link.channel.feed(record[:-1] + bytes([record[-1] ^ 1]))
    assert link.channel.read() == b""
    assert (link.channel.closed, bool(link.channel.failure)) == (True, True)
    assert link.channel.data_to_send()  # the alert


def test_renegotiation_is_refused(contexts: dict[bool, ServerContext]) -> None:
    link = connect(contexts[False], Client(TLS_1_2))
    link.client.ssl.renegotiate()
    for _ in range(20):
        try:
            link.client.ssl.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            assert "no renegotiation" in str(error)  # noqa: PT017 - in a loop
            break
        link.deliver(*link.client.output())
        assert link.channel.read() == b""
        link.return_()
    else:
        pytest.fail("the client was not told")
    assert link.channel.failure == ""
    link.channel.write(b"still there")
    assert link.channel.data_to_send()


# Bounds


@each_version
@pytest.mark.parametrize("what", ["a name of 64 kB", "200 certificates"])
def test_handshakes_are_bounded(context: ServerContext, version: int, what: str) -> None:
    if what == "200 certificates":
        client = Client(version, certificate=DEVICE, chain=(FACTORY,) * 200)
    else:
        client = Client(version, certificate=pki.self_signed("x" * 65_536))
    link = Link(context, client)
    fed = 0
    while sent := client.step():
        for piece in itertools.chain.from_iterable(_cut(piece, client.datagram) for piece in sent):
            fed += 0 if link.channel.closed else len(piece)
            link.deliver(piece)
    assert not link.channel.established
    if client.datagram:
        assert fed <= MAX_HANDSHAKE_SIZE + 2 * MTU
    else:
        assert link.channel.failure in ("the handshake is too large", "excessive message size")
        assert link.channel.oversized
        assert fed <= MAX_HANDSHAKE_SIZE + 1024


def _cut(piece: bytes, datagram: bool) -> list[bytes]:
    return [piece] if datagram else [piece[at : at + 1024] for at in range(0, len(piece), 1024)]


@each_version
def test_fifty_certificates_are_for_others_to_judge(context: ServerContext, version: int) -> None:
    chain = (FACTORY,) * 49
    link = connect(context, Client(version, certificate=DEVICE, chain=chain))
    assert link.channel.certificates == (DEVICE.der, *[FACTORY.der] * 49)


@pytest.mark.parametrize("length", [32_769, 2**24 - 1])
def test_a_message_that_claims_too_much_is_refused_unread(contexts: dict[bool, ServerContext], length: int) -> None:
    channel = Channel(contexts[False])
    channel.feed(b"\x16\x03\x01\x00\x08\x01" + length.to_bytes(3) + b"\x03\x03ab")
    assert (channel.closed, channel.failure) == (True, "a handshake message is too large")
    assert not channel.oversized  # that was no certificate yet
    assert channel.data_to_send() == []


def test_a_hello_takes_nothing_of_openssl_until_it_is_whole(contexts: dict[bool, ServerContext]) -> None:
    (hello,) = Client().step()
    channel = Channel(contexts[False])
    channel.feed(hello[:-1])
    assert not channel._begun
    channel.feed(hello[-1:])
    assert channel._begun


@each_stream
def test_what_is_not_read_is_bounded(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    for _ in range(MAX_UNREAD_SIZE // 16_384 + 1):
        link.client.ssl.sendall(bytes(16_384))
        link.deliver(*link.client.output())
    assert link.channel.failure == "more was sent than is read"
    assert link.channel.read() == b""


def test_waiting_datagrams_are_bounded(contexts: dict[bool, ServerContext]) -> None:
    link = connect(contexts[True], Client(DTLS_1_2))
    for _ in range(100):
        link.client.ssl.send(b"x")
        link.deliver(*link.client.output())
    assert len(list(link.read())) == 32


@pytest.mark.parametrize("size", [0, 1, 100, 16_384, 16_385, 1_000_000])
@each_stream
def test_large_data_passes(context: ServerContext, version: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    link = connect(context, Client(version))
    got = b""
    for start in range(0, size, 65_536):
        got += link.say(data[start : start + 65_536])
    assert got == data
    assert link.answer(data) == data
    assert link.client.ssl.get_peer_certificate() is not None


@each_stream
def test_reads_are_as_small_as_wanted(context: ServerContext, version: int) -> None:
    link = connect(context, Client(version))
    link.client.ssl.send(b"0123456789")
    link.deliver(*link.client.output())
    assert [link.channel.read(4) for _ in range(4)] == [b"0123", b"4567", b"89", b""]


# Datagrams


def test_datagrams_fit_the_path(tmp_path: Path) -> None:
    issuers = [ROOT]
    for number in range(8):
        issuers.append(issuers[-1].intermediate(f"{number} of a long chain"))
    context = ServerContext(*server_files(tmp_path, issuers[-1].leaf("localhost")), datagram=True)
    link = connect(context, Client(DTLS_1_2, certificate=LONE))
    assert link.channel.established
    assert max(map(len, link.to_client)) <= MTU
    assert sum(map(len, link.to_client)) > 2 * MTU


def test_a_datagram_in_is_a_read_out(contexts: dict[bool, ServerContext]) -> None:
    link = connect(contexts[True], Client(DTLS_1_2))
    for text in (b"one", b"two", b"three"):
        link.client.ssl.send(text)
    link.deliver(*link.client.output())
    assert list(link.read()) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("seed", range(8))
def test_datagrams_may_come_out_of_order_twice_and_among_garbage(
    contexts: dict[bool, ServerContext], seed: int
) -> None:
    chance = random.Random(seed)
    client = Client(DTLS_1_2, certificate=DEVICE, chain=DEVICE.issuers, mtu=300)
    link = Link(contexts[True], client)
    link.deliver(*client.step())  # for the cookie
    link.deliver(*client.step())
    flight = client.step()
    assert len(flight) > 3
    first_of_epoch = next(at for at, datagram in enumerate(flight) if datagram[0] == 20)
    plain, protected = flight[:first_of_epoch], flight[first_of_epoch:]
    mixed = [*plain, *plain, *(chance.randbytes(60) for _ in range(3)), b"\x16\xfe\xfd" + bytes(30)]
    chance.shuffle(mixed)
    link.deliver(*mixed, *protected)
    link.run()
    assert link.channel.certificates == DEVICE.full_chain
    link.deliver(b"", b"\x17", chance.randbytes(100), b"\x17\xfe\xfd\x00\x01" + chance.randbytes(80))
    assert link.say(b"unharmed") == b"unharmed"


def test_a_lost_flight_is_sent_again(contexts: dict[bool, ServerContext]) -> None:
    link = Link(contexts[True], Client(DTLS_1_2, certificate=LONE))
    channel = link.channel
    assert channel.timeout(0) is None
    link.deliver(*link.client.step())  # for the cookie
    (hello,) = link.client.step()
    channel.feed(hello)
    link._cookies = None
    lost = channel.data_to_send()
    channel.handle_timeout()
    assert channel.data_to_send() == []  # it is not time yet
    while not (again := channel.data_to_send()):
        due = channel.timeout(0)
        assert due is not None
        assert due <= 1
        time.sleep(due)  # OpenSSL's own clock
        channel.handle_timeout()
    assert sum(map(len, again)) == sum(map(len, lost))
    link.client.feed(*again)
    link.run()
    assert channel.certificates == (LONE.der,)
    assert channel.timeout(0) is None


def test_a_fragment_that_claims_too_much_makes_no_room(contexts: dict[bool, ServerContext]) -> None:
    client = Client(DTLS_1_2)
    link = Link(contexts[True], client)
    link.deliver(*client.step())
    link.deliver(*client.step())
    message = b"\x0b" + (100_000).to_bytes(3) + (2).to_bytes(2) + bytes(3) + (10).to_bytes(3) + bytes(10)
    link.deliver(b"\x16\xfe\xfd" + (5).to_bytes(8) + len(message).to_bytes(2) + message)
    link.run()
    assert link.channel.established


def test_a_channel_begins_with_a_cookie(contexts: dict[bool, ServerContext]) -> None:
    channel = Channel(contexts[True])
    for datagram in Client(DTLS_1_2).step():
        channel.feed(datagram)
    assert (channel.closed, channel.established) == (True, False)
    assert channel.data_to_send() == []


# Any bytes


def _exercise(channel: Channel, pieces: list[bytes]) -> None:
    for piece in pieces:
        channel.feed(piece)
        channel.data_to_send()
        if channel.wanted_identity is not None:
            channel.resume_with(None)
        while channel.read():
            pass
        channel.write(b"answer")
        channel.timeout(0)
        channel.handle_timeout()
        assert len(channel._held) <= MAX_HANDSHAKE_SIZE
    assert channel.certificates == ()
    channel.close()
    channel.data_to_send()


@given(datagram=st.booleans(), pieces=st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_are_harmless(contexts: dict[bool, ServerContext], datagram: bool, pieces: list[bytes]) -> None:
    channel = Channel(contexts[datagram])
    _exercise(channel, pieces)
    assert not channel.established


_CHANGES: Final = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=8)), min_size=1, max_size=3
)


@settings(max_examples=200)
@given(
    flights=st.integers(0, 3), psk=st.booleans(), changes=_CHANGES, more=st.lists(st.binary(max_size=50), max_size=3)
)
@each_version
def test_any_changed_bytes_are_harmless(
    contexts: dict[bool, ServerContext],
    version: int,
    flights: int,
    psk: bool,
    changes: list[tuple[int, int, bytes]],
    more: list[bytes],
) -> None:
    """At any place of any flight, of any length; to channels in any state."""
    client = Client(version, certificate=None if psk else LONE, psk=("device-1", KEY) if psk else None)
    link = Link(contexts[client.datagram], client, one_key)
    for _ in range(flights):
        link.deliver(*client.step())
    sent = client.step()
    if client.done and not sent:
        client.ssl.send(b"x" * 40)
        sent = client.output()
    changed = bytearray(b"".join(sent))
    for place, size, replacement in changes:
        at = place % (len(changed) + 1)
        changed[at : at + size] = replacement
    _exercise_changed(link.channel, bytes(changed), more)


def _exercise_changed(channel: Channel, changed: bytes, more: list[bytes]) -> None:
    for piece in (changed, *more):
        channel.feed(piece)
        if channel.wanted_identity is not None:
            channel.resume_with(KEY)
        while channel.read():
            pass
        channel.write(b"answer")
        channel.data_to_send()
    channel.close()
    channel.data_to_send()


# The server's certificate


def test_changed_files_are_for_the_next_handshakes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (ROOT.leaf(f"{number}.example") for number in range(2))
    files = server_files(tmp_path, first)
    context = ServerContext(*files)
    open_before = connect(context)
    assert not context.reload_if_changed()

    server_files(tmp_path, second)
    assert context.reload_if_changed()
    assert not context.reload_if_changed()
    link = connect(context)
    shown = link.client.ssl.get_peer_certificate(as_cryptography=True)
    assert shown == second.certificate
    assert open_before.say(b"still open") == b"still open"

    files[1].write_text(first.key_pem)
    with pytest.raises(Misconfigured, match="is not the key"):
        context.reload_if_changed()
    assert not context.reload_if_changed()  # it has been said
    assert connect(context).client.ssl.get_peer_certificate(as_cryptography=True) == second.certificate

    with caplog.at_level(logging.INFO, "provserver.tls"):
        context.refresh(1000.0)
        files[0].write_text(first.chain_pem)
        context.refresh(1001.0)  # too soon to look again
        assert caplog.messages == []
        context.refresh(1006.0)
        assert caplog.messages == ["the TLS certificate was reloaded"]
        files[0].unlink()
        context.refresh(1012.0)
        context.refresh(1018.0)
    assert len(caplog.messages) == 2  # not again until it changes again
    assert "was not reloaded: There is no" in caplog.messages[1]
    assert connect(context).channel.established


def test_ticket_keys_are_renewed(tmp_path: Path) -> None:
    context = ServerContext(*server_files(tmp_path))
    context.refresh(0.0)
    first = connect(context, Client(certificate=LONE))
    context.refresh(timedelta(hours=23).total_seconds())
    assert connect(context, second := Client(session=first.client)).channel.resumed
    context.refresh(timedelta(hours=25).total_seconds())
    assert not connect(context, Client(session=second)).channel.resumed


@each_psk
def test_a_handshake_under_way_keeps_its_context(files: tuple[Path, Path], version: int, ciphers: str) -> None:
    context = ServerContext(*files, datagram=version == DTLS_1_2)
    link = connect(context, Client(version, psk=("device-1", KEY), ciphers=ciphers), None)
    context._renew()
    gc.collect()
    link.channel.resume_with(KEY)
    link.run()
    assert link.channel.psk_identity == "device-1"
