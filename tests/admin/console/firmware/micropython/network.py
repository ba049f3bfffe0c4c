"""As much of MicroPython's `network` as the program uses: a WiFi that is there already."""

STA_IF = 0


class WLAN:
    """A station."""

    def __init__(self, interface: int) -> None:
        assert interface == STA_IF

    def active(self, on: bool) -> None:
        """Switch it on."""

    def connect(self, name: str, password: str) -> None:
        """Look for a network."""

    def isconnected(self) -> bool:
        """Whether it is connected."""
        return True
