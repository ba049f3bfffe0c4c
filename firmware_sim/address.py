"""Where a server listens."""

from dataclasses import dataclass
from typing import Self

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Host name or IP literal (IPv6 without brackets), and port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> Self:
        """Read `host`, `host:port`, `[v6]` or `[v6]:port`. Raises ValueError."""
        if "://" in text:
            raise ValueError(f"{text!r} is a URL: write {text.partition('://')[2].partition('/')[0]}")
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            colon, port = rest[:1], rest[1:]
            if not bracket or colon not in ("", ":"):
                raise ValueError(f"{text!r} is not [address]:port")
        elif text.count(":") > 1:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, [::1]:{default_port}")
        else:
            host, colon, port = text.partition(":")
        if not host:
            raise ValueError(f"{text!r} names no host")
        try:
            host.encode("idna")
        except UnicodeError:
            raise ValueError(f"{text!r}: {host!r} cannot be the name of a host") from None
        if not colon:
            return cls(host, default_port)
        if not (port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT):
            raise ValueError(f"{text!r}: a port is a number from 1 to {_MAX_PORT}")
        return cls(host, int(port))

    def __str__(self) -> str:
        """The form that `parse` reads and a URL's authority takes."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
