"""A device's next credentials, asked for over its own connection: a token, or a certificate for a new key.

The new key is saved before it is sent, and the server gives the same answer until it was used: whenever the power goes,
the device has credentials that work.
"""

import msgspec

from firmware_sim.credentials import issued_for, signing_request
from firmware_sim.errors import BadReply, FlashError
from firmware_sim.flash import Credentials, Flash, Memory, Next
from firmware_sim.links import Link
from firmware_sim.log import SerialLog
from firmware_sim.reply import Reply


async def rotate(link: Link, flash: Flash, log: SerialLog) -> Memory:
    """Ask for the next credentials and save them. Raises a SimulatorError; asking again is always safe."""
    memory = await flash.read()
    if memory.credentials is None:
        raise FlashError("there are no credentials to rotate")
    members: dict[str, str] = {}
    if memory.credentials.credentials_type == "X509_CERTIFICATE":
        if memory.next is None:
            memory = msgspec.structs.replace(memory, next=Next(*signing_request(memory.credentials.device_name or "")))
            await flash.write(memory)
            log.info("flash", "saved a new key")
        members = {"credentialsType": "X509_CERTIFICATE", "csr": memory.next.csr if memory.next else ""}
    reply = Reply.parse(await link.rotate(msgspec.json.encode(members)))
    fresh = _verified(memory, reply)
    key = memory.next.private_key if memory.next else None
    memory = msgspec.structs.replace(memory, private_key=key, credentials=fresh, next=None)
    await flash.write(memory)
    log.info("flash", f"next credentials saved, {fresh.credentials_type} {log.secret(fresh.credentials_value)}")
    return memory


def _verified(memory: Memory, reply: Reply) -> Credentials:
    value = reply.credentials_value
    held = memory.credentials
    if held is None or reply.credentials_type != held.credentials_type or not isinstance(value, str):
        raise BadReply(f"the reply grants {reply.credentials_type}, which the device did not ask for")
    if memory.next is not None and not issued_for(value, memory.next.private_key):
        raise BadReply("the certificate is for another key")
    return Credentials(reply.credentials_type, value, held.device_name, reply.device_id or held.device_id)
