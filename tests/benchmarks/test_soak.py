"""What a soak says of its worst interval, and what it draws."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks.intervals import Figures
from benchmarks.sections import soak

_SVG = "{http://www.w3.org/2000/svg}"

WATCHED = {
    "server_cores": 0.5,
    "postgres_cores": 0.25,
    "busy": 1.5,
    "steal": 0.0,
    "server_waited": 0.1,
    "io_stalled": 0.02,
    "loop_ms": 0.5,
    "fdatasync_ms": 1.0,
    "fdatasync_max_ms": 4.0,
    "late_max_ms": 2.0,
    "group_ms": 1.5,
    "server_mib": 100.0,
    "postgres_mib": 200.0,
    "pg_checkpoints": 0.0,
    "pg_wal_files": 0.0,
    "vacuums": 0.0,
}


def line(p99: float, cpu_seconds: float, backlog: float = 1.0) -> Figures:
    return {
        "at": 0.0,
        "done": 10.0,
        "failed": 0.0,
        "p50": 1.0,
        "p99": p99,
        "max": p99,
        "backlog": backlog,
        "waiting": 0.0,
        "cpu_seconds": cpu_seconds,
    }


@pytest.fixture
def intervals() -> list[Figures]:
    """Of 11 to 15; in 14 CoAP waited."""
    watched = {number: {"minutes": number / 12} | WATCHED for number in range(10, 16)}
    slow = {
        "loop_ms": 0.85,
        "fdatasync_ms": 3.0,
        "fdatasync_max_ms": 1400.0,
        "group_ms": 40.0,
        "steal": 0.5,
        "pg_checkpoints": 1.0,
    }
    watched[14] |= slow | {"server_cores": 0.9, "late_max_ms": 700.0, "io_stalled": 0.4, "server_waited": 0.3}
    told = {
        transport: {number: line(5.0, number * 0.5) for number in range(10, 17)}
        for transport in ("http", "mqtt", "coap")
    }
    told["coap"][14] = line(1234.5, 7.0, 500.0)
    return soak.joined(watched, told)


def test_intervals_that_all_tell_of_are_joined_but_for_the_first(intervals: list[Figures]) -> None:
    assert [round(each["minutes"] * 12) for each in intervals] == [11, 12, 13, 14, 15]
    assert intervals[0]["http_p99"] == 5.0
    assert intervals[3]["coap_backlog"] == 500.0
    assert intervals[0]["load_cores"] == pytest.approx(0.3)
    assert intervals[0]["other_cores"] == pytest.approx(1.5 - 0.5 - 0.25 - 0.3)


def test_an_interval_that_a_generator_does_not_tell_of_is_left_out() -> None:
    watched = {number: {"minutes": 0.0} | WATCHED for number in (1, 2, 3)}
    told = {"http": {number: line(1.0, 0.0) for number in (1, 2, 3)}, "mqtt": {1: line(1.0, 0.0), 3: line(1.0, 0.0)}}
    (only,) = soak.joined(watched, told)
    assert only["mqtt_p99"] == 1.0


def test_the_worst_interval_is_told_of_in_figures(intervals: list[Figures]) -> None:
    told = soak.told_of_worst(intervals)
    assert told == (
        "worst 5 s, at 1.2 min: CoAP p99 1,234 ms (usually 5.0), backlog 502; "
        "cores: server 0.90, postgres 0.25, load 0.30, other 0.05, stolen 0.50; "
        "the server waited for one 30% of the time; "
        "reference: loop 1.7 ×, fdatasync 3.0 × its median; "
        "the longest fdatasync 1,400 ms (usually 4.0); a sleeper woken 700 ms late; "
        "a group 40.0 ms (usually 1.5); disk waited for 40% of the time (usually 2%); 1 checkpoints"
    )
    assert soak.told_of_worst([]) == "too short for intervals"


def test_without_pressure_nothing_is_said_of_the_disk(intervals: list[Figures]) -> None:
    for each in intervals:
        del each["io_stalled"]
    assert "disk" not in soak.told_of_worst(intervals)


def test_what_is_drawn(intervals: list[Figures]) -> None:
    drawn = ET.fromstring(soak.plot(intervals))
    assert len(list(drawn.iter(f"{_SVG}polyline"))) == 3 + 5 + 2 + 2
    (mark,) = [each for each in drawn.iter(f"{_SVG}line") if "stroke-dasharray" in each.attrib]
    assert mark.attrib["x1"] == mark.attrib["x2"]
    assert {"1.25 minutes", "— stolen", "— CoAP"} <= {each.text for each in drawn.iter(f"{_SVG}text")}
    ET.fromstring(soak.plot([]))
