"""As much of MicroPython's `machine` as the program uses."""


def unique_id() -> bytes:
    """A chip's number."""
    return bytes.fromhex("020000000003")
