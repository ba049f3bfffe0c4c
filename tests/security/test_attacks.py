"""The attacks of the field's checklists, each named after its clause, over real sockets on a server process.

ETSI EN 303 645, OWASP ISVS, IEC 62443-4-2; `docs/security.md` has the table of clauses, modules and tests.
"""

import asyncio
import json
import secrets
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conformance.clients import coap
from tests.pki import Authority
from tests.security.conftest import Target
from tests.server import CommandFailed, Server

HEADERS = 28
"""Bytes of IPv4 and UDP on the wire, without options."""

_hosts = count(1)


@asynccontextmanager
async def stranger() -> AsyncIterator[aiohttp.ClientSession]:
    """A client from an address that nobody else has: what it does wrong locks out nobody else."""
    n = next(_hosts)
    connector = aiohttp.TCPConnector(local_addr=(f"127.9.{n // 250}.{n % 250 + 1}", 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def provision(server: Server, request: object, session: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
    content = request if isinstance(request, bytes) else json.dumps(request).encode()
    async with session.post(f"http://{server.http}/api/v1/provision", data=content) as response:
        return response.status, await response.json()


# --- ETSI EN 303 645 5.1-1, 5.1-2; OWASP ISVS 2.1.10: what devices get is their own, and cannot be guessed


async def test_etsi_5_1_1_no_two_devices_have_one_credential(target: Target) -> None:
    async with stranger() as session:
        answers = [(await provision(target.server, target.request(), session))[1] for _ in range(40)]
    tokens = [answer["credentialsValue"] for answer in answers]
    assert len(set(tokens)) == len(tokens)
    assert {len(token) for token in tokens} == {32}  # of 62 characters: 190 bits
    assert set("".join(tokens)) == set(string.ascii_letters + string.digits)
    for position in range(32):  # no place of it is fixed, so none is made from another
        assert len({token[position] for token in tokens}) > 8


async def test_etsi_5_1_2_what_others_may_know_of_a_device_opens_nothing(target: Target) -> None:
    """Its name, its id, its provision key, and the words that are reserved."""
    name = f"known-{secrets.token_hex(4)}"
    async with stranger() as session:
        _, answer = await provision(target.server, target.request(name), session)
        known = (name, answer["deviceId"], target.key, target.secret, "provision", "device", "mgmt_device")
        for guess in known:
            url = f"http://{target.server.http}/api/v1/{guess}/attributes"
            async with session.get(url) as response:
                assert response.status == 401, guess


# --- 5.1-5, IEC 62443-4-2 CR 1.11, ISVS 2.1.12: guessing


async def test_etsi_5_1_5_guesses_are_evaluated_up_to_a_limit_only(target: Target) -> None:
    async with stranger() as guesser, stranger() as other:
        wrong = target.request(provisionDeviceSecret="wrong")
        said = [(await provision(target.server, wrong, guesser))[0] for _ in range(200)]
        evaluated = said.count(200)
        assert said[0] == 200  # NOT_FOUND, as ThingsBoard says it
        assert 200 - evaluated == said.count(429)
        assert 0 < evaluated < 60
        status, answer = await provision(target.server, target.request(), other)  # nobody else pays for it
        assert (status, answer["status"]) == (200, "SUCCESS")


async def test_isvs_2_1_12_a_locked_address_says_when_to_come_back(target: Target) -> None:
    async with stranger() as guesser:
        url = f"http://{target.server.http}/api/v1/provision"
        for _ in range(200):
            async with guesser.post(url, json=target.request(provisionDeviceSecret="wrong")) as response:
                answer = await response.json()
                if response.status == 429:
                    break
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        assert (answer["status"], "Too many" in answer["errorMsg"]) == ("FAILURE", True)


# --- names, tokens and claims that exist are not told from those that do not


async def test_whether_a_name_exists_is_not_told_without_the_secret(target: Target) -> None:
    name = f"taken-{secrets.token_hex(4)}"
    async with stranger() as session:
        await provision(target.server, target.request(name), session)
        answers = {
            json.dumps(await provision(target.server, target.request(each, **change), session))
            for each in (name, "free", None)
            for change in ({"provisionDeviceSecret": "wrong"}, {"provisionDeviceKey": "unknown"})
        }
    assert len(answers) == 1


async def test_whether_a_token_exists_is_not_told(target: Target) -> None:
    """Unknown, revoked and malformed ones get the same answer."""
    async with stranger() as session:
        name = f"revoked-{secrets.token_hex(4)}"
        _, answer = await provision(target.server, target.request(name), session)
        await asyncio.to_thread(target.server.cli, "device", "revoke", name)
        said = set()
        for token in (answer["credentialsValue"], "x" * 32, "a", secrets.token_hex(200)):
            url = f"http://{target.server.http}/api/v1/{token}/telemetry"
            async with session.post(url, data=b'{"a":1}') as response:
                said.add((response.status, await response.read()))
    assert said == {(401, b"")}


# --- response-topic hijack (DESIGN §4): answers go to who asked


async def test_nobody_reads_anothers_answer(target: Target, tool: Callable[[str], str]) -> None:
    host, port = target.server.mqtt.rsplit(":", 1)
    where = ("-h", host, "-p", port, "-u", "provision")
    spies = [
        await asyncio.create_subprocess_exec(
            tool("mosquitto_sub"), *where, "-i", f"spy-{n}", "-t", topic, "-W", "3", "-v", stdout=-1, stderr=-1
        )
        for n, topic in enumerate(
            ("/provision/response", "#", "/provision/+", "$SYS/#", "$share/all//provision/response")
        )
    ]
    async with stranger() as session:
        _, answer = await provision(target.server, target.request(), session)
        assert answer["status"] == "SUCCESS"
    asked = await asyncio.create_subprocess_exec(
        tool("mosquitto_pub"), *where, "-i", "device", "-t", "/provision/request", "-m", json.dumps(target.request()),
        "-q", "1",
    )  # fmt: skip
    assert await asked.wait() == 0
    for spy in spies:
        out, _ = await spy.communicate()
        assert b"credentialsValue" not in out


# --- MQTT wildcards in a client id


@pytest.mark.parametrize("client_id", ["#", "+/+", "$share/x/#", "a\x01b", "x" * 60_000, "../../etc", "provision/#"])
async def test_a_client_id_is_no_topic(target: Target, client_id: str) -> None:
    texts = [client_id, "provision"]
    body = b"\0\4MQTT\4\x82\0\x3c" + b"".join(len(text.encode()).to_bytes(2) + text.encode() for text in texts)
    size, length = b"", len(body)
    while True:
        size += bytes((length % 128 | (0x80 if length > 127 else 0),))
        length //= 128
        if not length:
            break
    reader, writer = await asyncio.open_connection(*target.server.mqtt.rsplit(":", 1))
    try:
        writer.write(b"\x10" + size + body)
        said = await reader.read(4)
        assert said in (b"\x20\x02\0\0", b"\x20\x02\0\2", b"")  # let in to provision, refused, or cut; never more
    finally:
        writer.close()
    async with stranger() as session:
        assert (await provision(target.server, target.request(), session))[1]["status"] == "SUCCESS"


# --- CoAP amplification (RFC 9175 §2.4, RFC 7252 §11.3)


@pytest.mark.parametrize(
    "path", [("api", "v1", "provision"), (".well-known", "core"), ("api", "v1", "x" * 32, "attributes")]
)
async def test_a_spoofed_datagram_is_not_amplified(target: Target, path: tuple[str, ...]) -> None:
    """What one datagram of an unproven peer can have us send to whoever it claims to be."""
    loop = asyncio.get_running_loop()

    class Victim(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.came: list[bytes] = []
            self.first = asyncio.Event()

        def datagram_received(self, data: bytes, _addr: object) -> None:
            self.came.append(data)
            self.first.set()

    host, port = target.server.coap.rsplit(":", 1)
    for method, payload in (("GET", b""), ("POST", b"{}"), ("POST", b"\xff" * 200)):
        # A port for each: what takes a while is acknowledged first, and what comes later is not the next one's.
        transport, victim = await loop.create_datagram_endpoint(Victim, remote_addr=(host, int(port)))
        try:
            asked = coap.request(method, secrets.randbelow(65_536), b"\1", coap.path_options(path), payload)
            transport.sendto(asked)
            async with asyncio.timeout(60):
                await victim.first.wait()
            assert len(victim.came) == 1
            assert HEADERS + len(victim.came[0]) <= 3 * (HEADERS + len(asked)), (method, path, victim.came)
        finally:
            transport.close()


# --- oversize and deep JSON (ETSI 5.13-1, 62443 CR 3.5)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"x":"' + b"y" * 60_000 + b'"}',
        b"\x00" * 1000,
        b"{" * 65_000,
        b'{"provisionDeviceKey":' + b"9" * 60_000 + b"}",
        b'{"deviceName":"' + b"\\ud800" * 1000 + b'"}',
    ],
    ids=["deep array", "deep object", "long text", "zeros", "open braces", "huge number", "lone surrogates"],
)
async def test_etsi_5_13_1_input_of_any_form_is_answered(target: Target, payload: bytes) -> None:
    async with stranger() as session:
        status, answer = await provision(target.server, payload, session)
        assert (status, answer["status"]) == (400, "FAILURE")
        async with session.post(f"http://{target.server.http}/api/v1/provision", data=b"x" * 70_000) as response:
            assert response.status == 413
        assert (await provision(target.server, target.request(), session))[1]["status"] == "SUCCESS"


# --- a certificate of another tenant's issuer (62443 CR 1.9)


async def test_iec_62443_1_9_an_issuer_vouches_for_its_own_profile_alone(
    target: Target, tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Nor is one another, for having its name."""
    server, named = target.server, f"Root {secrets.token_hex(4)}"
    root, impostor = Authority.root(named), Authority.root(named)
    (tmp_path / "ca.pem").write_text(root.pem)
    chain = ("--strategy", "x509-chain", "--ca", str(tmp_path / "ca.pem"))
    await asyncio.to_thread(server.cli, "profile", "create", f"chain-{secrets.token_hex(4)}", *chain)
    with pytest.raises(CommandFailed, match="CA"):  # one CA, two profiles: whose would its devices be?
        await asyncio.to_thread(server.cli, "profile", "create", f"chain-{secrets.token_hex(4)}", *chain)
    for n, (issuer, status) in enumerate(((root, b"200"), (impostor, b"401"))):
        certificate, key = issuer.leaf(f"device-{secrets.token_hex(4)}").write(tmp_path, f"client{n}")
        asked = await asyncio.create_subprocess_exec(
            tool("curl"), "-s", "--cacert", str(server.ca), "--cert", str(certificate), "--key", str(key),
            "-d", '{"a":1}', "-o", "/dev/null", "-w", "%{http_code}", f"https://{server.https}/api/v1/telemetry",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert (await asked.communicate())[0] == status
