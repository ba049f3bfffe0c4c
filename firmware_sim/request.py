"""The provision request: ThingsBoard's JSON members and our requestNonce."""

import secrets

import msgspec

NONCE_BYTES = 32


def new_nonce() -> str:
    """64 hex characters. Proves to the server that a repeat comes from the device that asked first."""
    return secrets.token_hex(NONCE_BYTES)


class Request(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Everything a device asks with, but for the key and the secret, which are in its firmware.

    A repeat is granted only if every member is the same, so a device keeps all of them, not the nonce alone.
    hash: ThingsBoard's name for the certificate's PEM text. csr: PEM of the request for one.
    """

    request_nonce: str
    device_name: str | None = None
    credentials_type: str | None = None
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    hash: str | None = None
    gateway: bool = False
    csr: str | None = None

    def members(self, key: str, secret: str) -> dict[str, object]:
        """The JSON object to send, members in the same order every time."""
        return {"provisionDeviceKey": key, "provisionDeviceSecret": secret, **msgspec.to_builtins(self)}

    def body(self, key: str, secret: str) -> bytes:
        """The same as bytes."""
        return msgspec.json.encode(self.members(key, secret))
