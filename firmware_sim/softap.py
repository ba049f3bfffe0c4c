"""The access point's HTTP API, without I/O: bytes of a request in, bytes of the response out, as firmware sends them.

The chip's web server serves one client at a time, a request each, and closes. It writes the headers in an order of
its own, on `/update` one of them twice; what is no request it does not answer at all. Classic firmware prints its
JSON, so that a quote in an SSID breaks it; the new one encodes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import msgspec

from firmware_sim.board import Board, Generation
from firmware_sim.edgent_state import Edgent
from firmware_sim.wifi_networks import Networks

MAX_BODY: Final = 4 << 20
MAX_HEAD: Final = 16_384

SCANNING: Final = 2.5
"""Seconds that a look for networks takes."""

_MOST_SHOWN = 15
_WEAKEST = -90
_BOARD_BUFFER, _NETWORK_BUFFER = 511, 255
_BOARD = (
    '{"board":"%s","tmpl_id":"%s","fw_type":"%s","fw_ver":"%s","ssid":"%s","bssid":"%s","mac":"%s",'
    '"last_error":%d,"wifi_scan":true,"static_ip":true}'
)
_NETWORK = '  {"ssid":"%s","bssid":"%s","rssi":%d,"sec":"%s","ch":%d}'
_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
_METHODS = (*_WITH_BODY, "OPTIONS")
_IMAGE = 0xE9  # the first byte of a firmware image

_JSON, _HTML, _TEXT = "application/json", "text/html", "text/plain"

_FORM = """<!DOCTYPE html>
<html><head><title>WiFi</title></head><body>
<form method="get" action="config">{hidden}
<p><label>Network <input name="ssid" required></label></p>
<p><label>Password <input name="pass" type="password"></label></p>
<p><label>Token <input name="blynk" minlength="32" maxlength="32" required></label></p>
<p><label>Server <input name="host" value="{host}"></label></p>{port}
<p><button>Connect</button></p>
</form>
</body></html>
"""
_FORMS = {
    Generation.CLASSIC: _FORM.format(
        hidden="", host="blynk.cloud", port='\n<p><label>Port <input name="port_ssl" value="443"></label></p>'
    ),
    Generation.EDGENT: _FORM.format(hidden='<input type="hidden" name="if" value="wifi">', host="", port=""),
}
_UPDATE_FORM = """<html><body>
<form method="post" enctype="multipart/form-data">
<input type="file" name="update"> <button>Update</button>
</form>
</body></html>
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. arguments: of the query and of the body's form, the body's first; image: a file in it."""

    method: str
    path: str
    version: int = 1
    arguments: Mapping[str, str] = field(default_factory=dict, repr=False)
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """What it is answered. after: the device's seconds until then. restarts: and it starts anew, so long after."""

    status: int
    kind: str
    content: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    after: float = 0.0
    restarts: float | None = None

    def encode(self, version: int = 1) -> bytes:
        """On the wire. version: of HTTP/1, the client's."""
        fields = (
            ("Content-Type", self.kind),
            *self.headers,
            ("Content-Length", str(len(self.content))),
            ("Connection", "close"),
        )
        head = f"HTTP/1.{version} {self.status} {HTTPStatus(self.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields)
        return head.encode() + b"\r\n" + self.content


class Reader:
    """One request, as its bytes come in. `request` once it is whole; `broken`: it never will be."""

    def __init__(self) -> None:
        self._data = b""
        self.request: Request | None = None
        self.broken = False

    def feed(self, data: bytes) -> None:
        """More of it."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            self.broken = len(self._data) > MAX_HEAD
            return
        lines = head.split(b"\r\n")
        words = lines[0].decode(errors="replace").split(" ")
        if len(words) < 3:
            self.broken = True
            return
        headers = _headers(lines[1:])
        method = words[0] if words[0] in _METHODS else "GET"
        length = 0
        if method in _WITH_BODY:
            length = _number(headers.get("content-length", ""))
        if length > MAX_BODY:
            self.broken = True
        elif len(body) >= length:
            self.request = _request(method, words[1], words[2], headers.get("content-type", ""), body[:length])


class SoftAp:
    """Answers for one device."""

    def __init__(self, edgent: Edgent, networks: Networks) -> None:
        self._edgent = edgent
        self._networks = networks
        self._board = edgent.board
        self._classic = self._board.generation is Generation.CLASSIC

    def respond(self, request: Request, now: float) -> Response | None:
        """Do what is asked; None: the device starts anew before it can answer."""
        match request.path:
            case "/":
                return Response(200, _HTML, _FORMS[self._board.generation].encode())
            case "/board_info.json":
                self._edgent.asked(now)
                return Response(200, _JSON, self._board_info())
            case "/wifi_scan.json":
                return Response(200, _JSON, self._scan(), after=SCANNING)
            case "/config":
                return self._config(request, now)
            case "/reset":
                self._edgent.reset_asked(now)
                return _said("ok", "Configuration reset")
            case "/reboot":
                self._edgent.reboot_asked(now)
                return None
            case "/update" if request.method in ("GET", "POST"):
                return self._update(request)
            case path if self._classic:
                return Response(404, _HTML, f"Not found: {path}".encode())
            case _:
                return Response(404, _TEXT, b"Not found")

    def _config(self, request: Request, now: float) -> Response:
        message = self._edgent.configure(request.arguments, now)
        if message is None:
            return _said("error", "Configuration invalid", 500)
        return _said("ok", message)

    def _update(self, request: Request) -> Response:
        closing = (("Connection", "close"),)
        if request.method == "GET":
            return Response(200, _HTML, _UPDATE_FORM.encode(), closing)
        taken = request.image is not None and request.image[:1] == bytes([_IMAGE])
        if self._classic:
            taken = taken or request.image is None  # nothing went wrong where nothing was sent
            return _updated(taken, closing, 1.0)
        return _updated(taken, closing, 0.1 if taken else None)

    def _board_info(self) -> bytes:
        board = self._board
        if self._classic:
            return _printed(
                _BOARD
                % (
                    board.template_name,
                    board.template,
                    board.type,
                    board.firmware_version,
                    board.name,
                    dotted(board.access_point_mac),
                    dotted(board.mac),
                    self._edgent.last_error,
                ),
                _BOARD_BUFFER,
            )
        return _encoded(modern_info(board, self._edgent.config.uid, self._edgent.last_error))

    def _scan(self) -> bytes:
        shown = self._networks.by_strength()[:_MOST_SHOWN]
        if not self._classic:
            return _encoded(
                [
                    {"ssid": n.ssid, "bssid": n.bssid, "rssi": n.rssi, "sec": n.sec, "ch": n.ch}
                    for n in shown
                    if n.ssid and not n.hidden and n.rssi >= _WEAKEST
                ]
            )
        if not shown:
            return b"[]"
        lines = [
            _printed(
                _NETWORK % ("" if n.hidden else n.ssid, n.bssid, n.rssi, n.sec, n.ch),
                _NETWORK_BUFFER,
            )
            for n in shown
        ]
        return b"[\n" + b",\n".join(lines) + b"\n]"


def modern_info(board: Board, uid: str, last_error: int) -> dict[str, object]:
    """What new firmware says of itself."""
    wifi = {"name": "wifi", "mac": dotted(board.mac), "scan": 1, "5ghz": 0, "static_ip": 1}
    return {
        "vendor": board.vendor,
        "tmpl_id": board.template,
        "fw_type": board.type,
        "fw_ver": board.firmware_version,
        "name": board.name,
        "uid": uid,
        "bssid": dotted(board.access_point_mac),
        "last_error": int(last_error),
        "ifs": [wifi],
    }


def dotted(mac: bytes) -> str:
    """`AA:BB:CC:DD:EE:FF`."""
    return mac.hex(":").upper()


def _said(status: str, message: str, code: int = 200) -> Response:
    return Response(code, _JSON, f'{{"status":"{status}","msg":"{message}"}}'.encode())


def _updated(taken: bool, headers: tuple[tuple[str, str], ...], restarts: float | None) -> Response:
    return Response(200 if taken else 500, _TEXT, b"OK" if taken else b"FAIL", headers, restarts=restarts)


def _printed(text: str, room: int) -> bytes:
    return text.encode(errors="surrogateescape")[:room]


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(_clean(value))


def _clean(value: object) -> object:
    """Without the halves of characters that a name was cut in."""
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, dict):
        return {name: _clean(part) for name, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, list) else value


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, _, value = line.decode(errors="replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _request(method: str, target: str, protocol: str, kind: str, body: bytes) -> Request:
    path, _, query = target.partition("?")
    version = _number(protocol[len("HTTP/1.") :])
    arguments: dict[str, str] = {}
    image = None
    if kind.startswith("multipart/") and body:
        boundary = kind.partition("=")[2].replace('"', "").encode()
        arguments, image = _form(body, boundary)
    elif kind.startswith("application/x-www-form-urlencoded") and body:
        query = f"{query}&{body.decode(errors='replace')}" if query else body.decode(errors="replace")
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if equals:
            arguments.setdefault(_unquoted(name), _unquoted(value))
    return Request(method, path, version, arguments, image)


def _form(body: bytes, boundary: bytes) -> tuple[dict[str, str], bytes | None]:
    """The texts and the file of a multipart form."""
    texts: dict[str, str] = {}
    image = None
    for part in body.split(b"--" + boundary)[1:]:
        head, end, content = part.partition(b"\r\n\r\n")
        disposition = _headers(head.split(b"\r\n")).get("content-disposition", "")
        if not end or not disposition:
            continue
        content = content.removesuffix(b"\r\n")
        if "filename=" in disposition:
            image = content
        else:
            name = disposition.partition('name="')[2].partition('"')[0]
            texts.setdefault(name, content.decode(errors="replace"))
    return texts, image


def _unquoted(text: str) -> str:
    """As the chip decodes: a percent sign takes the two characters after it, whatever they are."""
    source = text.encode()
    decoded = bytearray()
    position = 0
    while position < len(source):
        byte = source[position]
        position += 1
        if byte == ord("%") and position + 1 < len(source):
            decoded.append(_hexadecimal(source[position : position + 2]))
            position += 2
        else:
            decoded.append(ord(" ") if byte == ord("+") else byte)
    return decoded.decode(errors="replace")


def _hexadecimal(digits: bytes) -> int:
    """As C's strtol: what begins as a number."""
    for size in (2, 1):
        piece = digits[:size].decode(errors="replace")
        if all(character in "0123456789abcdefABCDEF" for character in piece):
            return int(piece, 16)
    return 0
