"""The examples in the README are run, and print what the README says."""

import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from tests.server import Server

ROOT = Path(__file__).parents[1]

_RANDOM = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"TMPL[A-Za-z0-9]{9}"), "<template id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r'"[A-Za-z0-9]{32}"'), "<token>"),
    (re.compile(r'"[A-Za-z0-9]{20}"'), "<name>"),
)
_PORTS = (("http", "8080"), ("coap", "5683"))


def examples(page: str) -> list[tuple[str, str]]:
    """(command, what it prints) of every console block, in order."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = example.partition("\n")
            found.append((command, printed))
    return found


def without_randomness(text: str) -> str:
    for pattern, name in _RANDOM:
        text = pattern.sub(name, text)
    return text.strip()


def run(server: Server, command: str) -> str:
    """What a command prints, with the server's ports instead of the usual ones."""
    words = shlex.split(command)
    if words[0] == "provserver":
        done = server.run(*words[1:])
    else:
        for name, port in _PORTS:
            words = [word.replace(f"localhost:{port}", server.addresses[name]) for word in words]
        words = [server.mqtt.split(":")[1] if word == "1883" else word for word in words]
        words = ["127.0.0.1" if word == "localhost" else word for word in words]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(str(server.data_dir), "provserver-data")
    return printed.replace(f'"{socket.gethostname()}"', '"factory"')


@pytest.mark.parametrize(
    ("page", "number"),
    [("README.md", 6), ("docs/devices.md", 7), ("docs/secure-channels.md", 1), ("docs/profiles.md", 4)],
)
def test_the_examples_are_what_happens(tmp_path: Path, tool: object, page: str, number: int) -> None:
    assert callable(tool)
    for program in ("curl", "mosquitto_rr", "coap-client-notls"):
        tool(program)
    assert len(examples(page)) >= number
    with Server(tmp_path / "provserver-data", fresh=True) as server:
        for command, printed in examples(page):
            assert without_randomness(run(server, command)) == without_randomness(printed), command


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
        assert (file.parent / link).exists(), f"{page}: {link}"
