"""What the placeholders of a case stand for in one run of it."""

import base64
import itertools
import json
import os
import re
from collections.abc import Mapping
from functools import cached_property

from tests.conformance.clients import protobuf
from tests.conformance.clients.protobuf import Proto

_PLACEHOLDER = re.compile("«([a-z.]+)»")
_numbers = itertools.count(1)

HEADER, FOOTER = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Values:
    """Values that no other run has. keys: what the operator's set-up made, by placeholder."""

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self.number = next(_numbers)
        self.tag = f"t{self.number}x{os.urandom(4).hex()}"
        self._values = {"tag": self.tag, "number": str(self.number), **(keys or {})}

    @cached_property
    def _certificates(self) -> dict[str, str]:
        """Texts of the size and form of a certificate: the server takes any."""
        found: dict[str, str] = {}
        for name, size in (("", 3000), ("short.", 300)):
            body = base64.b64encode(os.urandom(size)).decode()
            lines = [body[at : at + 64] for at in range(0, len(body), 64)]
            found |= {f"{name}pem": "\n".join((HEADER, *lines, FOOTER, "")), f"{name}body": body}
        return found

    def add(self, **values: str) -> None:
        """Set further placeholders, or change some."""
        self._values |= values

    def get(self, name: str) -> str | None:
        """What was set for a placeholder, if anything was."""
        return self._values.get(name)

    def text(self, text: str) -> str:
        """The text with its placeholders filled in."""
        return _PLACEHOLDER.sub(lambda match: self._value(match[1]), text)

    def payload(self, payload: "str | bytes | Proto") -> bytes:
        """The bytes of a payload; in text, which is JSON, values are escaped as JSON wants them."""
        if isinstance(payload, bytes):
            return payload
        if isinstance(payload, Proto):
            return protobuf.encode(payload, self.text)
        return _PLACEHOLDER.sub(lambda match: json.dumps(self._value(match[1]))[1:-1], payload).encode()

    def _value(self, name: str) -> str:
        return self._values[name] if name in self._values else self._certificates[name]
