"""Answers that are lost: what is granted is committed, and the device never hears of it."""

from collections.abc import Sequence

GRANTED = b"credentialsValue"


class Losses:
    """For a proxy: the first `losses` answers that grant something are lost; over TCP, their connections break."""

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self.lost = 0

    def __call__(self, data: bytes, to_device: bool) -> Sequence[float]:
        if to_device and GRANTED in data and self.lost < self._losses:
            self.lost += 1
            return ()
        return (0.0,)
