import io
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from firmware_sim.device import Provisioned
from firmware_sim.errors import NoAnswer, Refused, Unauthorized
from firmware_sim.flash import Credentials
from firmware_sim.report import Report, percentiles


def provisioned(value: Any = "token", device_id: str | None = None, attempts: int = 1) -> Provisioned:
    kind = "ACCESS_TOKEN" if isinstance(value, str) else "MQTT_BASIC"
    return Provisioned(Credentials(kind, value, "name", device_id), None, attempts)


def test_percentiles_of_nothing() -> None:
    assert percentiles([]) is None


def test_percentiles_are_latencies_that_occurred() -> None:
    assert percentiles([seconds / 1000 for seconds in range(100, 0, -1)]) == {
        "p50": 50.0,
        "p90": 90.0,
        "p99": 99.0,
        "max": 100.0,
    }


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_percentiles_are_ordered(latencies: list[float]) -> None:
    values = list((percentiles(latencies) or {}).values())
    assert values == sorted(values)
    assert values[-1] == round(max(latencies) * 1000, 3)


def test_all_provisioned() -> None:
    report = Report("run", 3, seconds=2.0)
    for number, (transport, attempts) in enumerate([("http", 1), ("http", 3), ("coap", 0)]):
        report.started(transport)
        report.succeeded(transport, provisioned(f"token-{number}", f"id-{number}", attempts), 0.25)
    assert report.exit_code == 0
    assert report.to_json() == {
        "run": "run",
        "count": 3,
        "provisioned": 3,
        "fromFlash": 1,
        "failed": 0,
        "duplicates": 0,
        "seconds": 2.0,
        "rate": 1.5,
        "transports": {
            "coap": {"count": 1, "provisioned": 1, "retries": 0, "latencyMs": None},
            "http": {
                "count": 2,
                "provisioned": 2,
                "retries": 2,
                "latencyMs": {"p50": 250.0, "p90": 250.0, "p99": 250.0, "max": 250.0},
            },
        },
        "failures": {},
        "exitCode": 0,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (provisioned("token", "id-1"), provisioned("token", "id-2")),
        (provisioned("token-1", "id"), provisioned("token-2", "id")),
        (provisioned({"clientId": "c"}), provisioned({"clientId": "c"})),
    ],
)
def test_nothing_may_be_handed_out_twice(one: Provisioned, other: Provisioned) -> None:
    report = Report("run", 2)
    report.started("http")
    report.succeeded("http", one, 0.1)
    report.started("mqtt")
    report.succeeded("mqtt", other, 0.1)
    assert (report.provisioned, report.duplicates, report.finished) == (1, 1, 2)
    assert report.failures == {"handed out twice": 1}
    assert report.exit_code == 4


def test_failures_are_grouped_by_reason_and_the_least_code_is_the_exit_code() -> None:
    report = Report("run", 3)
    for error in (NoAnswer("silence"), Refused("NOT_FOUND: no"), NoAnswer("silence")):
        report.started("mqtt")
        report.failed("mqtt", error)
    assert report.to_json()["failures"] == {
        "mqtt: unreachable: silence": 2,
        "mqtt: refused: NOT_FOUND: no": 1,
    }
    assert report.exit_code == 1


def test_a_fleet_that_was_interrupted_did_not_succeed() -> None:
    report = Report("run", 2)
    report.started("http")
    report.succeeded("http", provisioned(), 0.1)
    assert report.exit_code == 130


def test_the_table_says_what_the_json_says() -> None:
    report = Report("run", 2, seconds=1.0)
    report.started("http")
    report.succeeded("http", provisioned(), 0.0123)
    report.started("http")
    report.failed("http", Refused("FAILURE: no"))
    output = io.StringIO()
    Console(file=output, width=120).print(report.to_table())
    assert "1/2 provisioned in 1.00 s" in output.getvalue()
    assert "12.3" in output.getvalue()
    assert "http: refused: FAILURE: no" in output.getvalue()


def test_credentials_are_not_in_the_repr() -> None:
    report = Report("run", 1)
    report.started("http")
    report.succeeded("http", provisioned("s3cret-token"), 0.1)
    assert "s3cret-token" not in repr(report)


def connected() -> Report:
    report = Report("run", 3, seconds=1.0)
    for number in range(3):
        report.started("http")
        report.succeeded("http", provisioned(f"token-{number}"), 0.1)
    report.let_in("mqtts", 0.25)
    report.done("mqtts", 1, 5)
    report.let_in("mqtts", 0.5)
    report.let_in("mqtts", 0.75)
    report.done("mqtts", 4, 5)
    return report


def test_connections_are_counted_by_device() -> None:
    report = connected()
    report.done("mqtts", 1, 0)
    assert report.exit_code == 0
    assert report.to_json()["links"] == {
        "mqtts": {
            "devices": 3,
            "connections": 6,
            "connectionsPerDevice": {"1": 2, "4": 1},
            "messages": 10,
            "latencyMs": {"p50": 500.0, "p90": 750.0, "p99": 750.0, "max": 750.0},
            "failures": {},
        }
    }


def test_a_device_that_was_provisioned_and_did_not_get_in_is_a_failure_of_its_own() -> None:
    report = connected()
    report.done("mqtts", 3, 0, Unauthorized("MQTT 0x87"))
    assert (report.provisioned, report.finished, report.linked, report.link_failures) == (3, 3, 3, 1)
    assert report.exit_code == 6
    assert report.to_json()["links"]["mqtts"]["failures"] == {"credentials refused: MQTT 0x87": 1}
    output = io.StringIO()
    Console(file=output, width=120).print(report.to_table())
    assert "mqtts connection: credentials refused: MQTT 0x87" in output.getvalue()
    assert "250.0" not in output.getvalue()
    assert "500.0" in output.getvalue()


def test_the_picture_shows_both_histograms() -> None:
    root = ElementTree.fromstring(connected().to_svg())
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {
        "3 devices",
        "provisioning",
        "connections",
        "p50 500.0 ms, p90 750.0 ms, p99 750.0 ms, max 750.0 ms",
    } <= set(texts)
