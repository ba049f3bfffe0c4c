"""ESP-IDF's unified provisioning, the device's side: the endpoints of protocomm and of its WiFi provisioning.

Without I/O but for the device's own looking around: a request for an endpoint goes in, its answer comes out, or None,
at which ESP-IDF's HTTP server closes the connection without a word. `served` has it on an HTTP server.
"""

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firmware_sim import esp_http, power, srp
from firmware_sim.address import Address
from firmware_sim.errors import WrongUsage
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import TOKEN_SIZE, Onboarding, Settings
from firmware_sim.proto3 import Fields, Unreadable, data, number, pack, unpack
from firmware_sim.wifi_networks import Network

MAX_TRIES: Final = 5
"""Wrong proofs of possession until the device is switched off and on, or reset. ESP-IDF leaves that to the product."""

ENDPOINTS: Final = ("proto-ver", "prov-session", "prov-scan", "prov-config", "prov-ctrl", "custom-data")

_SUCCESS, _INVALID_ARGUMENT, _INTERNAL_ERROR = 0, 4, 5
_CONNECTED, _CONNECTING, _DISCONNECTED, _FAILED = range(4)
_AUTH_ERROR, _NOT_FOUND = 0, 1
_AUTH_MODES: Final = ("OPEN", "WEP", "WPA", "WPA2", "WPA+WPA2", "WPA2-EAP", "WPA3", "WPA2+WPA3", "WAPI")
_MAX_SSID, _MAX_PASSWORD, _MAX_HOST = 32, 63, 33
_MAX_FOUND: Final = 15
_ON_AIR: Final = ("CONNECTING_CLOUD", "RUNNING")
_OPEN: Final = ("WAIT_CONFIG", "CONFIGURING", "IDLE")
_NO_SERVICE: Final = ("OFF", "IDLE", "OTA_UPGRADE")  # its access point is closed


@dataclass(frozen=True, slots=True)
class Possession:
    """What the device's label says. Without a user name it is security 1 that the device speaks."""

    proof: str = field(repr=False)
    username: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file: the QR code's JSON, or lines with user name and proof, or with the proof. Raises WrongUsage."""
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise WrongUsage(f"cannot read the proof of possession in {path}") from None
        try:
            if text.startswith("{"):
                members = json.loads(text)
                proof, username = members["pop"], members.get("username", "")
            else:
                username, proof = ["", *text.splitlines()][-2:]
        except (ValueError, KeyError, TypeError):
            proof = username = ""
        if not (isinstance(proof, str) and isinstance(username, str) and proof):
            raise WrongUsage(
                f"{path} holds no proof of possession: the QR code's JSON, or user name and proof in lines"
            )
        return cls(proof, username)


class _Cipher(Protocol):
    def encrypt(self, message: bytes) -> bytes: ...

    def decrypt(self, message: bytes) -> bytes | None: ...


class _Scheme(Protocol):
    """One session's security. Answers are None for what ESP-IDF answers with a closed connection."""

    cipher: _Cipher | None

    def begin(self, command: Fields) -> bytes | None: ...

    def prove(self, command: Fields) -> bytes | None: ...


class Provisioning:
    """A device's endpoints, and the one session that there can be."""

    def __init__(self, device: Onboarding, possession: Possession, log: SerialLog) -> None:
        self._device = device
        self._log = log
        self._version = 2 if possession.username else 1
        self._scheme: Callable[[], _Scheme]
        if possession.username:
            # A first byte of 0 would get lost where a client takes the salt for a number.
            salt = bytes([secrets.randbelow(255) + 1]) + secrets.token_bytes(15)
            verifier = srp.Verifier.of(possession.username, possession.proof, salt)
            self._scheme = lambda: _Security2(verifier)
        else:
            key = hashlib.sha256(possession.proof.encode()).digest()
            self._scheme = lambda: _Security1(key)
        self._forget()

    def _forget(self) -> None:
        """As at power-on: all this is in memory alone."""
        self.new_session()
        self._wrong = 0
        self._found: Sequence[Network] = ()
        self._given: dict[str, Any] = {}
        self._network: tuple[str, str] | None = None
        self._trying = False
        self._failure = 0
        self._told = True

    def new_session(self) -> None:
        """Somebody else speaks from now on."""
        self._session: _Scheme = self._scheme()
        self._proven = False

    async def handle(self, endpoint: str, body: bytes) -> bytes | None:
        """A request's answer."""
        if self._device.state in _NO_SERVICE or (self._device.state == "RUNNING" and self._told):
            return None
        if endpoint == "proto-ver":
            members = {
                "ver": "v1.1",
                "sec_ver": self._version,
                "sec_patch_ver": self._version - 1,
                "cap": ["wifi_scan"],
            }
            return json.dumps({"prov": members}, separators=(",", ":")).encode()
        try:
            if endpoint == "prov-session":
                power.reached("proof exchanged")
                return self._agree(unpack(body))
            cipher = self._session.cipher if self._proven else None
            message = None if cipher is None else cipher.decrypt(body)
            if cipher is None or message is None:
                return None
            answer = await self._answer(endpoint, message)
        except Unreadable:
            return None
        power.reached(f"asked {endpoint}")
        return None if answer is None else cipher.encrypt(answer)

    def changed(self, state: str, last_error: int) -> None:
        """What becomes of the attempt, as the device's state machine tells it."""
        if state in ("OFF", "RESET_CONFIG"):
            self._forget()
        elif state == "RUNNING":
            self._trying, self._failure = False, 0
        elif self._trying and (state in _OPEN or (state == "ERROR" and last_error)):
            self._trying, self._failure = False, last_error

    def _agree(self, request: Fields) -> bytes | None:
        at = 10 + self._version
        payload = unpack(data(request, at))
        if number(request, 2) != self._version or self._wrong >= MAX_TRIES:
            return None
        kind = number(payload, 1)
        if kind == 0:
            self.new_session()
            answer = self._session.begin(unpack(data(payload, 20)))
        elif kind == 2:
            answer = self._prove(unpack(data(payload, 22)))
        else:
            return None
        if answer is None:
            return None
        return pack((2, self._version), (at, pack((1, kind + 1), (21 if kind == 0 else 23, answer))))

    def _prove(self, command: Fields) -> bytes | None:
        answer = self._session.prove(command)
        if answer is not None:
            self._proven, self._wrong = True, 0
            self._log.info("protocomm", "secure session established")
            return answer
        self._wrong += 1
        self._log.warning("protocomm", f"wrong proof of possession, {self._wrong} of {MAX_TRIES}")
        self.new_session()
        return None

    async def _answer(self, endpoint: str, message: bytes) -> bytes | None:
        if endpoint == "custom-data":
            return self._custom(message)
        request = unpack(message)
        if endpoint == "prov-scan":
            return await self._scan(request)
        if endpoint == "prov-config":
            return self._config(request)
        return self._control(request) if endpoint == "prov-ctrl" else None

    def _custom(self, message: bytes) -> bytes:
        """The product's own endpoint: a JSON object with, or without, `token`, `host`, `port`."""
        if not self._trying:
            self._device.asked()
        try:
            members = json.loads(message)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            return b'{"status":"error","msg":"wrong format"}'
        if "token" in members:
            token, host, port = members["token"], members.get("host", ""), members.get("port")
            if not (
                (isinstance(token, str) and len(token.encode(errors="replace")) == TOKEN_SIZE)
                and (isinstance(host, str) and len(host) <= _MAX_HOST)
                and (port is None or (type(port) is int and 0 < port < 65536))
            ):
                return b'{"status":"error","msg":"Configuration invalid"}'
            self._given = {"token": token, "host": host, "port": port}
            self._log.info("prov", f"token {self._log.secret(token)}")
        return json.dumps(self._info()).encode()

    def _info(self) -> Mapping[str, object]:
        board = self._device.board
        said = {
            "status": "ok",
            "board": board.template_name,
            "tmpl_id": board.template,
            "fw_type": board.firmware_type,
            "fw_ver": board.version,
            "ssid": board.name,
            "mac": board.mac,
            "last_error": self._device.last_error,
        }
        return said | ({"uid": board.uid} if board.uid else {})

    async def _scan(self, request: Fields) -> bytes | None:
        kind = number(request, 1)
        if kind == 0:
            self._found = (await self._device.scan())[:_MAX_FOUND]
            return pack((1, 1), (11, b""))
        if kind == 2:
            return pack((1, 3), (13, pack((1, 1), (2, len(self._found)))))
        if kind != 4:
            return None
        wanted = unpack(data(request, 14))
        first, count = number(wanted, 1), number(wanted, 2)
        entries = [_entry(network) for network in self._found[first : first + count]]
        status = _SUCCESS if len(entries) == count else _INTERNAL_ERROR
        return pack((1, 5), (2, status), (15, pack(*((1, entry) for entry in entries))))

    def _config(self, request: Fields) -> bytes | None:
        kind = number(request, 1)
        if kind == 0:
            return pack((1, 1), (11, self._status()))
        if kind == 2:
            return pack((1, 3), (13, pack((1, self._take(unpack(data(request, 12)))))))
        if kind == 4:
            return pack((1, 5), (15, pack((1, self._apply()))))
        return None

    def _take(self, command: Fields) -> int:
        ssid, password, bssid = data(command, 1), data(command, 2), data(command, 3)
        if not (0 < len(ssid) <= _MAX_SSID and len(password) <= _MAX_PASSWORD and len(bssid) in (0, 6)):
            return _INVALID_ARGUMENT
        self._network = ssid.decode(errors="replace"), password.decode(errors="replace")
        return _SUCCESS

    def _apply(self) -> int:
        if self._network is None or self._trying or self._failure:
            return _INTERNAL_ERROR
        given = self._given or ({"token": self._device.token} if self._device.token else {})
        if not given:
            self._log.failure("prov", "a network, but no token: custom-data comes first")
            return _INTERNAL_ERROR
        (ssid, password), self._network = self._network, None
        self._log.info("prov", f"network {ssid!r}")
        self._trying, self._told = True, False
        self._device.configure(Settings(ssid=ssid, password=password, **given))
        return _SUCCESS

    def _status(self) -> bytes:
        if self._failure:
            if self._failure == 720:
                return pack((2, _FAILED), (10, _NOT_FOUND))
            # Of what else there is, ESP-IDF has a word for the wrong password alone; custom-data tells the rest.
            return pack((2, _FAILED)) if self._failure == 722 else pack((2, _DISCONNECTED))
        if self._device.state in _ON_AIR:
            self._told = self._device.state == "RUNNING"
            return pack((2, _CONNECTED), (11, b""))
        return pack((2, _CONNECTING if self._trying else _DISCONNECTED))

    def _control(self, request: Fields) -> bytes | None:
        kind = number(request, 1)
        if kind not in (1, 3):
            return None
        status = _SUCCESS if kind == 3 or self._failure else _INTERNAL_ERROR
        self._failure = 0
        self._network = None
        return pack((1, kind + 1), (2, status), (11 + kind, b""))


@asynccontextmanager
async def served(
    address: Address, device: Onboarding, log: SerialLog, possession: Possession
) -> AsyncIterator[Address]:
    """Have the endpoints on HTTP, as long as the context lasts. Yields where: port 0 is any that is free."""
    provisioning = Provisioning(device, possession, log)
    forget = device.watch(provisioning.changed)
    try:
        async with esp_http.served(address, ENDPOINTS, provisioning.handle, provisioning.new_session) as bound:
            yield bound
    finally:
        forget()


class _Security2:
    """SRP-6a, then AES-256-GCM with a nonce whose counter rises with each message of either side."""

    def __init__(self, verifier: srp.Verifier) -> None:
        self.cipher: _Cipher | None = None
        self._verifier = verifier
        self._username = b""
        self._exchange: srp.Exchange | None = None

    def begin(self, command: Fields) -> bytes | None:
        self._username, public = data(command, 1), data(command, 2)
        if len(public) != srp.LENGTH or not self._username:
            return None
        try:
            self._exchange = srp.Exchange(self._verifier, public, int.from_bytes(secrets.token_bytes(32)))
        except srp.Refused:
            return None
        return pack((2, self._exchange.public), (3, self._verifier.salt))

    def prove(self, command: Fields) -> bytes | None:
        exchange, self._exchange = self._exchange, None
        answer = None if exchange is None else exchange.answer(self._username, data(command, 1))
        if exchange is None or answer is None:
            return None
        nonce = secrets.token_bytes(8)
        self.cipher = _Gcm(exchange.key[:32], nonce)
        return pack((2, answer), (3, nonce + (1).to_bytes(4)))


class _Gcm:
    def __init__(self, key: bytes, session: bytes) -> None:
        self._key = AESGCM(key)
        self._session = session
        self._count = 1

    def encrypt(self, message: bytes) -> bytes:
        sealed = self._key.encrypt(self._session + self._count.to_bytes(4), message, None)
        self._count += 1
        return sealed

    def decrypt(self, message: bytes) -> bytes | None:
        try:
            opened = self._key.decrypt(self._session + self._count.to_bytes(4), message, None)
        except InvalidTag:
            return None
        self._count += 1
        return opened


class _Security1:
    """X25519 with the proof of possession mixed in, then AES-256-CTR: one key stream for both directions."""

    def __init__(self, proof: bytes) -> None:
        self.cipher: _Cipher | None = None
        self._proof = proof
        self._client = b""
        self._public = b""
        self._stream: CipherContext | None = None

    def begin(self, command: Fields) -> bytes | None:
        self._client = data(command, 1)
        if len(self._client) != 32:
            return None
        key = X25519PrivateKey.generate()
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(self._client))
        except ValueError:
            return None
        mixed = int.from_bytes(shared) ^ int.from_bytes(self._proof)
        random = secrets.token_bytes(16)
        self._stream = Cipher(algorithms.AES(mixed.to_bytes(32)), modes.CTR(random)).encryptor()
        self._public = key.public_key().public_bytes_raw()
        return pack((2, self._public), (3, random))

    def prove(self, command: Fields) -> bytes | None:
        stream, self._stream = self._stream, None
        if stream is None or not secrets.compare_digest(stream.update(data(command, 2)), self._public):
            return None
        self.cipher = _Ctr(stream)
        return pack((3, stream.update(self._client)))


class _Ctr:
    def __init__(self, stream: CipherContext) -> None:
        self._stream = stream

    def encrypt(self, message: bytes) -> bytes:
        return self._stream.update(message)

    def decrypt(self, message: bytes) -> bytes | None:
        return self._stream.update(message)


def _entry(network: Network) -> bytes:
    auth = _AUTH_MODES.index(network.sec) if network.sec in _AUTH_MODES else len(_AUTH_MODES)
    bssid = bytes.fromhex(network.bssid.replace(":", ""))
    return pack((1, network.ssid.encode()[:_MAX_SSID]), (2, network.ch), (3, network.rssi), (4, bssid), (5, auth))
