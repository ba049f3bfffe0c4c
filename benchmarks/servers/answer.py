"""What servers without a database answer: a token, as a server of few lines would."""

import secrets

import msgspec


class Request(msgspec.Struct, rename="camel"):
    """A provision request."""

    device_name: str
    provision_device_key: str
    provision_device_secret: str


_request = msgspec.json.Decoder(Request)
_encoder = msgspec.json.Encoder()


def answer(payload: bytes) -> bytes:
    """Read a request and grant it."""
    request = _request.decode(payload)
    return _encoder.encode(
        {
            "status": "SUCCESS",
            "credentialsType": "ACCESS_TOKEN",
            "credentialsValue": secrets.token_hex(16),
            "deviceName": request.device_name,
        }
    )
