import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provserver
from provserver.config import PREFIX, Config, join_address, load, split_address
from provserver.errors import Misconfigured

EXAMPLE = Path(provserver.__file__).parents[1] / "config" / "provserver.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "provserver.toml"


# The file that lists every option


def test_the_example_lists_every_option_with_its_default() -> None:
    listed = tomllib.loads(EXAMPLE.read_text())
    assert list(listed) == [option.name for option in fields(Config)]
    assert {name: (type(value), value) for name, value in listed.items()} == {
        name: (type(value), value)
        for name, value in ((f.name, getattr(Config(), f.name)) for f in fields(Config))
        if not isinstance(value, Path)
    } | {"data_dir": (str, str(Config().data_dir))}


def test_one_address_leaves_room_for_others() -> None:
    config = Config()

    assert config.max_unauthenticated_per_address * 4 <= config.max_unauthenticated


def test_the_example_loads_as_the_defaults() -> None:
    assert load(EXAMPLE, {}) == load(None, {}) == Config()


# Precedence


def test_the_environment_overrides_the_file_and_the_command_line_both(file: Path) -> None:
    file.write_text('http = "file:1"\nmqtt = "file:2"\ncoap = "file:3"\n')
    environment = {"PROVSERVER_MQTT": "environment:2", "PROVSERVER_COAP": "environment:3"}
    config = load(file, environment, {"coap": "line:3"})
    assert (config.http, config.mqtt, config.coap) == ("file:1", "environment:2", "line:3")


def test_what_the_command_line_did_not_give_overrides_nothing(file: Path) -> None:
    file.write_text('http = "file:1"\ndata_dir = "there"\n')
    config = load(file, {}, {"http": None, "data_dir": None, "mqtt": ""})
    assert (config.http, config.data_dir, config.mqtt) == ("file:1", Path("there"), "")


def test_an_empty_value_in_the_environment_is_a_value(file: Path) -> None:
    file.write_text('http = "file:1"\n')
    assert load(file, {"PROVSERVER_HTTP": ""}).http == ""


def test_other_variables_are_none_of_ours() -> None:
    environment = {
        "PATH": "/bin",
        "HTTP": "x",
        "provserver_http": "x",
        "XPROVSERVER_HTTP": "x",
        "PROVSERVER_TEST_REQUIRE_TOOLS": "1",
    }
    assert load(None, environment) == Config()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data_dir", "/srv/x", Path("/srv/x")),
        ("database_connections", "16", 16),
        ("request_timeout", "2.5", 2.5),
        ("drain_timeout", "0", 0.0),
        ("log_level", "debug", "debug"),
        ("database_url", "8", "8"),
        ("coap_front", "false", False),
        ("http_front", "True", True),
    ],
)
def test_types_in_the_environment(name: str, text: str, value: object) -> None:
    found = getattr(load(None, {PREFIX + name.upper(): text}), name)
    assert (type(found), found) == (type(value), value)


def test_types_in_the_file(file: Path) -> None:
    file.write_text('data_dir = "x"\ndatabase_connections = 16\nrequest_timeout = 3\ncoap_front = false\n')
    config = load(file, {})
    assert (config.data_dir, config.database_connections, config.request_timeout) == (Path("x"), 16, 3.0)
    assert (config.http_front, config.coap_front) == (True, False)
    assert type(config.request_timeout) is float


# What is wrong is named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('htpp = "x:1"', "unknown option 'htpp'. Did you mean 'http'?"),
        ('database-url = ""', "unknown option 'database-url'. Did you mean 'database_url'?"),
        ("colour = 1", "unknown option 'colour'."),
        ("[server]\nport = 1", "unknown option 'server'."),
        ("[http]\nport = 1", "option 'http' must be text."),
        ("http = 8080", "option 'http' must be text."),
        ("http = true", "option 'http' must be text."),
        ("http = []", "option 'http' must be text."),
        ("data_dir = 5", "option 'data_dir' must be a path."),
        ("data_dir = false", "option 'data_dir' must be a path."),
        ("log_level = 2026-01-01", "option 'log_level' must be text."),
        ('database_connections = "many"', "option 'database_connections' must be a whole number, 1 or more."),
        ("database_connections = 8.5", "option 'database_connections' must be a whole number, 1 or more."),
        ("database_connections = 0", "option 'database_connections' must be a whole number, 1 or more."),
        ("max_payload_size = -1", "option 'max_payload_size' must be a whole number, 1 or more."),
        ("max_connections = true", "option 'max_connections' must be a whole number, 1 or more."),
        ('request_timeout = "soon"', "option 'request_timeout' must be a number of seconds."),
        ("request_timeout = -1", "option 'request_timeout' must be a number of seconds."),
        ("request_timeout = nan", "option 'request_timeout' must be a number of seconds."),
        ("request_timeout = inf", "option 'request_timeout' must be a number of seconds."),
        ("request_timeout = false", "option 'request_timeout' must be a number of seconds."),
        ("request_timeout = [1]", "option 'request_timeout' must be a number of seconds."),
        ("coap_front = 0", "option 'coap_front' must be true or false."),
        ('coap_front = "off"', "option 'coap_front' must be true or false."),
        ("http_front = []", "option 'http_front' must be true or false."),
    ],
)
def test_a_wrong_option_in_the_file_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(Misconfigured) as caught:
        load(file, {})
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("PROVSERVER_HTPP", "", "unknown option 'htpp'. Did you mean 'http'?"),
        ("PROVSERVER_", "", "unknown option ''."),
        ("PROVSERVER_HTPP_FILE", "/x", "unknown option 'htpp_file'."),
        ("PROVSERVER_DATABASE_CONNECTIONS", "8.0", "option 'database_connections' must be a whole number, 1 or more."),
        ("PROVSERVER_DATABASE_CONNECTIONS", "", "option 'database_connections' must be a whole number, 1 or more."),
        ("PROVSERVER_COAP_FRONT", "", "option 'coap_front' must be true or false."),
        ("PROVSERVER_DATA_DIR", "", "option 'data_dir' must be a path."),
        ("PROVSERVER_IDLE_TIMEOUT", "nan", "option 'idle_timeout' must be a number of seconds."),
        ("PROVSERVER_IDLE_TIMEOUT", "1e999", "option 'idle_timeout' must be a number of seconds."),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(None, {variable: text})
    assert str(caught.value).startswith(f"{variable}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"http = ", "is not valid TOML: "), (b"\xff", "is not valid TOML: "), (b"a = 1\na = 2", "is not valid TOML: ")],
)
def test_a_file_that_is_not_toml(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match=message):
        load(file, {})


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(Misconfigured, match=r"cannot be read: No such file or directory\."):
        load(file, {})


@pytest.mark.parametrize("listener", ["http", "mqtt", "coap", "blynk", "blynks", "blynk_redirect"])
@pytest.mark.parametrize("source", ["file", "environment", "command line"])
def test_a_wrong_listener_is_named_wherever_it_comes_from(file: Path, listener: str, source: str) -> None:
    file.write_text(f'{listener} = "8080"' if source == "file" else "")
    environment = {PREFIX + listener.upper(): "8080"} if source == "environment" else {}
    overrides = {listener: "8080"} if source == "command line" else {}
    with pytest.raises(Misconfigured) as caught:
        load(file, environment, overrides)
    assert str(caught.value) == f"{listener}: '8080' is not \"host:port\"."


def test_devices_are_sent_to_a_port_that_there_is() -> None:
    assert load(None, {}, {"blynk_redirect": "blynk.example:80"}).blynk_redirect == "blynk.example:80"
    with pytest.raises(Misconfigured, match=r"blynk_redirect: 'blynk\.example:0' names no port"):
        load(None, {}, {"blynk_redirect": "blynk.example:0"})


def test_a_listener_may_be_off() -> None:
    config = load(None, {}, {"http": "", "mqtt": "", "coap": ""})
    assert (config.http, config.mqtt, config.coap) == ("", "", "")


# Secrets from files


def test_an_option_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://user:Tr0ub4dor@db/x\n")
    assert load(None, {"PROVSERVER_DATABASE_URL_FILE": str(secret)}).database_url == "postgresql://user:Tr0ub4dor@db/x"


def test_options_that_end_in_file_are_themselves(tmp_path: Path) -> None:
    config = load(None, {"PROVSERVER_KEYS_FILE": "/k", "PROVSERVER_READY_FILE": "/r"})
    assert (config.keys_file, config.ready_file) == ("/k", "/r")
    name = tmp_path / "name"
    name.write_text(" /elsewhere \n")
    assert load(None, {"PROVSERVER_KEYS_FILE_FILE": str(name)}).keys_file == "/elsewhere"


def test_a_number_from_a_file_is_checked_as_any(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("many")
    with pytest.raises(Misconfigured, match="PROVSERVER_MAX_CONNECTIONS_FILE: option 'max_connections' must be"):
        load(None, {"PROVSERVER_MAX_CONNECTIONS_FILE": str(number)})


def test_a_secret_file_that_cannot_be_read(tmp_path: Path) -> None:
    variable = "PROVSERVER_DATABASE_URL_FILE"
    for path, message in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(Misconfigured) as caught:
            load(None, {variable: str(path)})
        assert str(caught.value) == f"{variable}: {path} cannot be read: {message}."
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    with pytest.raises(Misconfigured) as caught:
        load(None, {variable: str(binary)})
    assert str(caught.value) == f"{variable}: {binary} cannot be read: it is not UTF-8."


def test_the_repr_shows_no_database_url() -> None:
    assert "Tr0ub4dor" not in repr(Config(database_url="postgresql://user:Tr0ub4dor@db/x"))


def test_the_keys_are_in_the_data_directory_unless_named() -> None:
    assert Config(data_dir=Path("/d")).keys_path == Path("/d/keys.json")
    assert Config(data_dir=Path("/d"), keys_file="/k/keys").keys_path == Path("/k/keys")


# Addresses


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("db-1.example.:65535", ("db-1.example.", 65535)),
        ("[::1]:1883", ("::1", 1883)),
        ("[::]:0", ("::", 0)),
        ("[fe80::1%eth0]:5683", ("fe80::1%eth0", 5683)),
        ("[::ffff:192.0.2.1]:80", ("::ffff:192.0.2.1", 80)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", "host", ":80", "host:", "host:port", "host:-1", "host:+1", "host:65536", "host:1 ", "host:8 0"),
        *("host:0x50", "host:\u00b2", "host:\u0661", "host:1_0", "host:80:", "host:" + "9" * 5000, "host:80\n"),
        *("::1", "::1:80", "fe80::1:80", "[::1]", "[::1:80", "::1]:80", "[]:80", "[[::1]]:80", "[host]:80", "a:b:80"),
    ],
    ids=lambda v: ascii(v)[:20],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        split_address(address, "http")
    assert str(caught.value).startswith("http: ")


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_and_port_make_a_round_trip(host: object, port: int) -> None:
    assert split_address(join_address(str(host), port)) == (str(host), port)
