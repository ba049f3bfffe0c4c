import pytest

from firmware_sim.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.org", "example.org", 1883),
        ("example.org:1", "example.org", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]", "::1", 1883),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080),
    ],
)
def test_parses(text: str, host: str, port: int) -> None:
    assert Address.parse(text, 1883) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "[]",
        "[::1",
        "[::1]1",
        "::1",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:1a",
        "a..b",
        "a" * 64 + ".org",
        "host:²",
    ],
)
def test_rejects(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no host|cannot be the name|brackets|not \[address\]|a port is"):
        Address.parse(text, 1883)


def test_of_a_url_it_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"is a URL: write example\.org:8081$"):
        Address.parse("http://example.org:8081/api", 1883)


@pytest.mark.parametrize("text", ["example.org:1", "[::1]:8080"])
def test_is_written_as_it_is_read(text: str) -> None:
    assert str(Address.parse(text, 1)) == text
