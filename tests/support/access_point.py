"""A device's access point as its firmware has it: raw sockets, one request a connection, and no more of HTTP."""

import socket
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

CLASSIC = (
    b'{"board":"Thermostat","tmpl_id":"%s","fw_type":"ESP32","fw_ver":"1.2.0","ssid":"Blynk Thermostat-8DCF",'
    b'"bssid":"AA:BB:CC:DD:EE:01","mac":"AA:BB:CC:DD:EE:FF","last_error":%d,"wifi_scan":true,"static_ip":true}'
)
EDGENT = (
    b'{"vendor":"Blynk","tmpl_id":"%s","fw_type":"ESP32","fw_ver":"2.0.0","name":"Blynk Thermostat-8DCF",'
    b'"uid":"0d5ac1ce-6f2d-4c36-a2a4-2f1d6c3dfd0a","bssid":"AA:BB:CC:DD:EE:01","last_error":%d,'
    b'"ifs":[{"name":"wifi","mac":"AA:BB:CC:DD:EE:FF","scan":1,"5ghz":0,"static_ip":1}]}'
)
SCAN = (
    b'[{"ssid":"Home","bssid":"AA:BB:CC:00:00:01","rssi":-50,"sec":"WPA2","ch":6},'
    b'{"ssid":"Bob"s "attic"","bssid":"AA:BB:CC:00:00:02","rssi":-70,"sec":"WPA2","ch":1},'
    b'{"ssid":"Cafe","bssid":"AA:BB:CC:00:00:03","rssi":-80,"sec":"OPEN","ch":11}]'
)
TAKEN = b'{"status":"ok","msg":"Trying to connect..."}'
TEMPLATE = "TMPL2a3b4c5d6"

Answer = tuple[int, bytes]


@dataclass
class FakeAccessPoint:
    """Answers by a script: for each path, answers in turn, the last one again and again; None: the connection is cut.

    targets: what was asked for, as it stood in the requests.
    """

    script: dict[str, list[Answer | None]]
    targets: list[str] = field(default_factory=list)
    address: str = ""
    _last: str = ""

    @classmethod
    def of(cls, board: bytes = CLASSIC, template: str = TEMPLATE, errors: tuple[int, ...] = (0,)) -> Self:
        """One of a board, which takes its settings. errors: its last_error, at each look."""
        boards: list[Answer | None] = [(200, board % (template.encode(), error)) for error in errors]
        return cls({"/board_info.json": boards, "/wifi_scan.json": [(200, SCAN)], "/config": [(200, TAKEN)]})

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen; the second time where it did before."""
        if not self.address:  # bound, and not listening: while it is closed, nobody else is lent the port
            reserved = socket.socket()
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.address = "{}:{}".format(*reserved.getsockname())
            weakref.finalize(self, reserved.close)
        host, _, port = self.address.partition(":")
        self._listener = socket.create_server((host, int(port)))
        self._thread = threading.Thread(target=self._serve, args=(self._listener,))
        self._thread.start()

    def close(self) -> None:
        """Refuse what comes."""
        with suppress(OSError):  # it may be closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def close_after(self, path: str) -> None:
        """Cut the connection that asks for a path, and refuse all that come then."""
        self._last = path

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)
                if self._last and self.targets[-1].startswith(self._last):
                    self._last = ""
                    listener.close()
                    return

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            more = connection.recv(4096)
            if not more:
                return
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        method, target, version = line.split(b" ")
        names = {header.partition(b":")[0].lower() for header in headers}
        if (method, version, body) != (b"GET", b"HTTP/1.1", b"") or b"host" not in names or len(head) > 2048:
            connection.sendall(_response(400, b"no request that firmware reads"))
            return
        self.targets.append(target.decode("ascii"))
        answers = self.script.get(self.targets[-1].partition("?")[0], [(404, b"Not found")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is not None and not (self._last and self.targets[-1].startswith(self._last)):
            connection.sendall(_response(*answer))


def _response(status: int, body: bytes) -> bytes:
    kind = b"application/json" if body[:1] in b"[{" else b"text/plain"
    return b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status,
        b"OK" if status == 200 else b"Wrong",
        kind,
        len(body),
        body,
    )
