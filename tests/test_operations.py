"""What operators are given: numbers, a dashboard, alert rules, a unit of systemd; each against a server that runs."""

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from provserver.config import Config
from tests import processes
from tests.server import Server, children, until

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "config"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """What systemd would hear of the server."""
    path = tmp_path_factory.mktemp("notify") / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(60)
        yield listening


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, told: socket.socket) -> Iterator[Server]:
    env = {"NOTIFY_SOCKET": str(told.getsockname()), "WATCHDOG_USEC": "200000"}
    options = ("--workers", "2", "--metrics", "127.0.0.1:0")
    with Server(tmp_path_factory.mktemp("operations") / "data", *options, env=env) as running:
        yield running


def scrape(server: Server) -> Samples:
    with urllib.request.urlopen(f"http://{server.addresses['metrics']}/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for (each, having), value in samples.items() if each == name and labels.items() <= set(having))


def names(server: Server) -> set[str]:
    return {name for name, _ in scrape(server)}


def families(server: Server) -> set[str]:
    """What people call them: without the parts of a histogram."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names(server)}


def used(expression: str) -> set[str]:
    return set(re.findall(r"\bprovserver_[a-z_]+", expression))


def test_systemd_hears_that_it_is_ready_and_alive(server: Server, told: socket.socket) -> None:
    assert server.process is not None
    heard = told.recv(1000)
    while heard == b"WATCHDOG=1":
        heard = told.recv(1000)
    assert heard == b"READY=1\nSTATUS=serving devices"
    assert told.recv(1000) == b"WATCHDOG=1"


def test_what_workers_count_is_added_up_and_outlives_them(server: Server) -> None:
    server.cli("profile", "create", "sensors", "--key", "key", "--secret", "secret")
    addresses = [f"--{name}={server.addresses[name]}" for name in ("http", "mqtt", "coap")]
    words = ["fleet", "--count", "30", "--transport", "mix", *addresses]
    words += ["--telemetry", "1", "--key", "key", "--secret", "secret"]
    done = processes.firmware_sim().run(words, os.environ, None, 300)
    assert done.returncode == 0, done.stdout + done.stderr
    success, accepted = ("provserver_provisions_total", "success"), "provserver_authentications_total"
    until(lambda: total(scrape(server), success[0], outcome=success[1]) == 30, "30 are provisioned")
    for transport in ("HTTP", "MQTT", "COAP"):
        assert total(scrape(server), success[0], outcome=success[1], transport=transport) == 10
        until(
            lambda: total(scrape(server), accepted, transport=transport, result="accepted") >= 10,  # noqa: B023
            f"10 are let in over {transport}",
        )
    until(lambda: total(scrape(server), "provserver_sessions") == 0, "all sessions have ended")
    assert total(scrape(server), "provserver_group_items_sum", group="provision") == 30

    assert server.process is not None
    dying = children(server.process.pid)[-1]
    os.kill(dying, signal.SIGKILL)
    pid = server.process.pid
    until(lambda: dying not in children(pid), "a worker is dead")
    until(lambda: total(scrape(server), "provserver_process_up") == 4, "it has a successor")

    assert total(scrape(server), success[0], outcome=success[1]) == 30
    until(lambda: total(scrape(server), "provserver_listeners") == 6, "the successor listens")


def test_no_number_of_ours_tells_a_secret(server: Server) -> None:
    """Labels are the words of the list in metrics.py, and names of processes."""
    words = {word for _, labels in scrape(server) for _, word in labels}
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}|worker \d", word) for word in words), words


def test_the_dashboard_shows_what_there_is(server: Server) -> None:
    dashboard = json.loads((CONFIG / "grafana" / "provserver.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [each["expr"] for each in dashboard["annotations"]["list"]]
    expressions += [each.get("definition", "") for each in dashboard["templating"]["list"]]
    there = names(server)

    for expression in expressions:
        assert used(expression) <= there, expression
        assert expression.count("(") == expression.count(")")
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_alerts_are_of_what_there_is(server: Server) -> None:
    rules = [
        rule
        for group in yaml.safe_load((CONFIG / "prometheus" / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    there = names(server)
    words = {word for _, labels in scrape(server) for _, word in labels}

    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert used(rule["expr"]) <= there, rule["alert"]
        assert used(rule["expr"]) or "up{" in rule["expr"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        for _, matched in re.findall(r'(outcome|reason|result|fault)[=!]~?"([^"]*)"', rule["expr"]):
            assert set(matched.split("|")) <= words, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert all(used(text) <= families(server) for text in rule["annotations"].values()), rule["alert"]


def test_what_is_documented_is_there(server: Server) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert used(page) == families(server)
    alerts = yaml.safe_load((CONFIG / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert all(f"`{rule['alert']}`" in page for rule in alerts)


def test_the_unit_fits_the_server(tmp_path: Path) -> None:
    unit = CONFIG / "systemd" / "provserver.service"
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(unit)
    service = parsed["Service"]
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > Config().drain_timeout + 10 + 10
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/provserver/provserver.toml"]
    # The user of the unit is made by systemd, and in no group that a file could be given to.
    assert service["DynamicUser"] == "yes"
    assert "install -D -m 0644 config/provserver.toml /etc/provserver/provserver.toml" in unit.read_text()
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    tried = tmp_path / "provserver.service"
    tried.write_text(unit.read_text().replace("/opt/provserver/bin/provserver", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(tried)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
