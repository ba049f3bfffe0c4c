"""One device: what it does from power-on until it holds credentials."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from firmware_sim import sealed
from firmware_sim.credentials import Kind, draft, kind_of, strip_pem, verify
from firmware_sim.errors import FlashError, NoAnswer, Refused, Unauthorized
from firmware_sim.flash import Credentials, Flash, Memory
from firmware_sim.log import SerialLog
from firmware_sim.reply import Reply
from firmware_sim.request import Request
from firmware_sim.retry import Retry
from firmware_sim.sealed import Envelope
from firmware_sim.tls import ClientCertificate
from firmware_sim.transports import Transport


class Step(StrEnum):
    """The boot sequence, in order. A device that found its credentials does the first one only."""

    READ_FLASH = "read-flash"
    SAVE_REQUEST = "save-request"
    ASK = "ask"
    VERIFY = "verify"
    SAVE_CREDENTIALS = "save-credentials"


@dataclass(frozen=True, slots=True)
class Firmware:
    """What the factory put into the image.

    name None: the name in flash, else the server's choice. kind None: the kind in flash, else generated.
    sealed: the server's public key, base64url, to seal requests to. sealed_answer: have the answer sealed alone.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    name: str | None = None
    kind: Kind | None = None
    gateway: bool = False
    sealed: str | None = None
    sealed_answer: bool = False


@dataclass(frozen=True, slots=True)
class Provisioned:
    """How a boot ended well. attempts: requests sent, 0 if the credentials were in flash already."""

    credentials: Credentials
    private_key: str | None = field(repr=False)
    attempts: int


def factory_outcome(name: str | None, certificate: ClientCertificate, attempts: int) -> Provisioned:
    """What a device has whose certificate the server accepted: what it brought. attempts: connections tried."""
    leaf = strip_pem(certificate.chain.decode().partition("-----END")[0])
    return Provisioned(Credentials("X509_CERTIFICATE", leaf, name), certificate.private_key.decode(), attempts)


@dataclass(slots=True)
class Device:
    """A device at power-on.

    timeout: seconds to wait for each answer. reached: told of each step of the boot as soon as it is done.
    """

    firmware: Firmware
    flash: Flash
    transport: Transport
    log: SerialLog
    retry: Retry = field(default_factory=Retry)
    timeout: float = 10.0
    reached: Callable[[Step], None] = lambda _: None

    async def boot(self) -> Provisioned:
        """Run the boot sequence. Raises a SimulatorError; booting again is always safe."""
        memory = await self.flash.read()
        self.reached(Step.READ_FLASH)
        if memory.request:
            self._expect_same_device(memory.request)
        if memory.credentials:
            self.log.info("flash", f"credentials found, {self._describe(memory.credentials)}")
            return Provisioned(memory.credentials, memory.private_key, attempts=0)

        memory, request = await self._save_request(memory)
        self.reached(Step.SAVE_REQUEST)
        reply, attempts = await self._ask(request, self._envelope(memory))
        self.reached(Step.ASK)
        verify(request, reply, memory.private_key)
        self.reached(Step.VERIFY)
        credentials = await self._save_credentials(memory, request, reply)
        self.reached(Step.SAVE_CREDENTIALS)
        return Provisioned(credentials, memory.private_key, attempts)

    async def _save_request(self, memory: Memory) -> tuple[Memory, Request]:
        """Save before asking: the nonce is all the proof there is if the answer is lost."""
        if memory.request:
            nonce = self.log.secret(memory.request.request_nonce)
            self.log.info("flash", f"unfinished request found, nonce {nonce}")
            return memory, memory.request
        fresh = draft(self.firmware.kind or Kind.GENERATED, self.firmware.name, gateway=self.firmware.gateway)
        answer_key = sealed.encode(sealed.new_key()) if self._sealing else None
        memory = Memory(fresh.request, fresh.private_key, answer_key=answer_key)
        await self.flash.write(memory)
        self.log.info("flash", f"no credentials; saved nonce {self.log.secret(fresh.request.request_nonce)}")
        return memory, fresh.request

    async def _ask(self, request: Request, envelope: Envelope | None) -> tuple[Reply, int]:
        tag = self.transport.name
        members = request.members(self.firmware.key, self.firmware.secret)

        async def ask(attempt: int) -> tuple[Reply, int]:
            self.log.info(tag, f"asking {self.transport.url}, attempt {attempt}/{self.retry.attempts}")
            body = envelope.request(members) if envelope else msgspec.json.encode(members)
            try:
                answer = await self.transport.provision(body, self.timeout)
                return Reply.parse(envelope.answer(answer) if envelope else answer), attempt
            except Unauthorized as refusal:  # of key and secret: there are no other credentials yet
                raise Refused(str(refusal)) from refusal

        def waiting(failure: NoAnswer, delay: float) -> None:
            self.log.warning(tag, f"{failure}; asking again in {delay:.1f} s")

        return await self.retry.run(ask, waiting)

    async def _save_credentials(self, memory: Memory, request: Request, reply: Reply) -> Credentials:
        value = reply.credentials_value
        credentials = Credentials(
            reply.credentials_type,
            value if isinstance(value, str) else dict(value),
            reply.device_name or request.device_name,
            reply.device_id,
        )
        self.log.info("reply", f"SUCCESS, {self._describe(credentials)}")
        await self.flash.write(msgspec.structs.replace(memory, credentials=credentials))
        self.log.info("flash", "credentials saved")
        return credentials

    @property
    def _sealing(self) -> bool:
        return self.firmware.sealed is not None or self.firmware.sealed_answer

    def _envelope(self, memory: Memory) -> Envelope | None:
        if memory.answer_key is None:
            if self._sealing:
                raise FlashError("the unfinished request in flash was not sealed; --erase it first")
            return None
        if not self._sealing:
            raise FlashError("the unfinished request in flash was sealed; ask with --sealed, or --erase it first")
        return Envelope(self.firmware.sealed, sealed.decode(memory.answer_key))

    def _expect_same_device(self, request: Request) -> None:
        name = request.device_name or "(unnamed)"
        if self.firmware.name not in (None, request.device_name):
            raise FlashError(f"the flash belongs to device {name}; --erase it first")
        if self.firmware.kind not in (None, kind_of(request)):
            raise FlashError(f"the flash is for {kind_of(request)} credentials; --erase it first")

    def _describe(self, credentials: Credentials) -> str:
        whose = f"device {credentials.device_name or credentials.device_id or '(unnamed)'}"
        return f"{whose}, {credentials.credentials_type} {self.log.secret(credentials.credentials_value)}"
