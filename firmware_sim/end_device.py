"""A LoRaWAN end device: it joins over the air (OTAA), then sends."""

import secrets

import msgspec

from firmware_sim.errors import BadReply, FlashError, NoAnswer
from firmware_sim.flash import Flash
from firmware_sim.forwarder import Forwarder
from firmware_sim.log import SerialLog
from firmware_sim.lorawan import MAX_NONCE, Identity, Session, join_accept, join_request, uplink
from firmware_sim.retry import Retry


class EndDevice:
    """A device and the air between it and one gateway. sent: its uplinks."""

    def __init__(self, identity: Identity, flash: Flash, gateway: Forwarder, log: SerialLog, retry: Retry) -> None:
        self._identity = identity
        self._flash = flash
        self._gateway = gateway
        self._log = log
        self._retry = retry
        self.attempts = 0
        self.sent = 0

    async def join(self) -> Session:
        """Ask until a join accept comes. Raises NoAnswer: the network does not know the device, or not this key."""
        try:
            session = await self._retry.run(self._ask, self._waiting)
        except NoAnswer as failure:
            raise NoAnswer(f"no join accept: {failure}") from None
        self._log.info("join", f"accepted, device address {session.address.hex().upper()}")
        return session

    async def send(self, session: Session, payload: bytes, f_port: int) -> None:
        """The session's next uplink. Raises NoAnswer."""
        await self._gateway.heard(uplink(session, self.sent, f_port, payload))
        self._log.info("data", f"sent {len(payload)} bytes, frame {self.sent}")
        self.sent += 1

    async def _ask(self, attempt: int) -> Session:
        self.attempts = attempt
        nonce = await self._nonce()
        self._log.info("join", f"request {attempt}, DevNonce {nonce}")
        await self._gateway.heard(join_request(self._identity, nonce))
        while True:
            frame = await self._gateway.downlink()
            try:
                session = join_accept(self._identity, nonce, frame)
                await self._accept(session)
            except BadReply as wrong:  # a device cannot tell it from another's frame: it listens on
                self._log.warning("join", str(wrong))
            else:
                return session

    async def _nonce(self) -> int:
        """One that was never used, and is saved as used before it is."""
        if not self._identity.counts:
            return secrets.randbelow(MAX_NONCE + 1)
        memory = await self._flash.read()
        nonce = memory.dev_nonces
        if nonce > MAX_NONCE:
            raise FlashError("every DevNonce has been used: the device can never join again")
        await self._flash.write(msgspec.structs.replace(memory, dev_nonces=nonce + 1))
        return nonce

    async def _accept(self, session: Session) -> None:
        """Whoever records a join accept cannot have it taken again. Raises BadReply."""
        if not self._identity.counts:
            return
        memory = await self._flash.read()
        if session.join_nonce < memory.join_nonces:
            raise BadReply("a join accept with an old JoinNonce")
        await self._flash.write(msgspec.structs.replace(memory, join_nonces=session.join_nonce + 1))

    def _waiting(self, failure: NoAnswer, delay: float) -> None:
        self._log.warning("join", f"{failure}; asking again in {delay:.1f} s")
