"""The examples in the README are run, and print what the README says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.server import Server

README = Path(__file__).parents[1] / "README.md"

_RANDOM = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"TMPL[A-Za-z0-9]{9}"), "<template id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r'"[A-Za-z0-9]{32}"'), "<token>"),
    (re.compile(r'"[A-Za-z0-9]{20}"'), "<name>"),
)


def examples() -> list[tuple[str, str]]:
    """(command, what it prints) of every console block, in order."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = example.partition("\n")
            found.append((command, printed))
    return found


def without_randomness(text: str) -> str:
    for pattern, name in _RANDOM:
        text = pattern.sub(name, text)
    return text.strip()


def test_the_readme_is_what_happens(tmp_path: Path, tool: object) -> None:
    assert callable(tool)
    for program in ("curl", "mosquitto_rr", "coap-client-notls"):
        tool(program)
    assert len(examples()) >= 6
    with Server(tmp_path / "provserver-data") as server:
        for command, printed in examples():
            words = shlex.split(command)
            if words[0] == "provserver":
                done = server.run(*words[1:])
            else:
                for name, port in (("http", "8080"), ("coap", "5683")):
                    words = [word.replace(f"localhost:{port}", server.addresses[name]) for word in words]
                words = [server.mqtt.split(":")[1] if word == "1883" else word for word in words]
                words = ["127.0.0.1" if word == "localhost" else word for word in words]
                done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            assert without_randomness(done.stdout) == without_randomness(printed)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (README.parent / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    file = README.parent / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
        assert (file.parent / link).exists(), f"{page}: {link}"
