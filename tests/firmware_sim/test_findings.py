import io
from collections import Counter
from xml.etree import ElementTree

import pytest
from rich.console import Console

from firmware_sim.device import Provisioned
from firmware_sim.errors import NoAnswer, Refused
from firmware_sim.findings import Findings, Verdict
from firmware_sim.flash import Credentials
from firmware_sim.report import Report
from firmware_sim.scenario import Scenario

SCENARIO = """
name = "two groups"
[[group]]
name = "one"
count = 2
[[group]]
name = "other"
count = 2
[[attack]]
kind = "guess"
count = 5
[[attack]]
name = "thieves"
kind = "impersonate"
count = 2
victims = "one"
[[attack]]
kind = "clone"
count = 1
victims = "one"
[[attack]]
kind = "slow-loris"
count = 3
[limits]
"""


def played(limits: str = "") -> Findings:
    """All devices provisioned, within 10 to 40 ms, and connected; all attacks met."""
    findings = Findings(Scenario.parse(SCENARIO + limits), seconds=2.0)
    number = 0
    for name in ("one", "other"):
        report = findings.groups[name] = Report("run", 2)
        for _ in range(2):
            number += 1
            report.started("http")
            credentials = Credentials("ACCESS_TOKEN", f"token-{number}", "name")
            report.succeeded("http", Provisioned(credentials, None, 1), number / 100)
            report.let_in("mqtt", 0.005)
            report.done("mqtt", 1, 3)
    findings.attacks |= {
        "guess": Counter({"refused": 2, "turned away": 3}),
        "thieves": Counter({"refused": 2}),
        "clone": Counter({"let in": 1}),
        "slow-loris": Counter({"closed by the server": 3}),
    }
    findings.network = Counter({"datagrams lost": 7})
    findings.power_cuts = 3
    return findings


def printed(findings: Findings) -> str:
    output = io.StringIO()
    Console(file=output, width=120).print(findings.to_table())
    return output.getvalue()


def test_all_is_well() -> None:
    findings = played("held = 0")
    assert (findings.exit_code, findings.count, findings.finished, findings.linked) == (0, 4, 4, 4)
    assert [(each.name, each.met) for each in findings.verdicts()] == [
        ("failures", True),
        ("duplicates", True),
        ("breaches", True),
        ("held", True),
    ]


@pytest.mark.parametrize(
    ("limit", "measured", "met"),
    [
        ("failures = 1", 0, True),
        ("p50_ms = 20", 20, True),
        ("p50_ms = 19.9", 20, False),
        ("p90_ms = 40", 40, True),
        ("p99_ms = 39", 40, False),
        ("max_ms = 40", 40, True),
        ("connect_p99_ms = 4", 5, False),
        ("provisioned_min = 4", 4, True),
        ("provisioned_min = 5", 4, False),
        ("messages_min = 13", 12, False),
        ("connections_min = 4", 4, True),
        ("power_cuts_min = 4", 3, False),
        ("refused_guesses_min = 5", 5, True),
        ("refused_guesses_min = 6", 5, False),
        ("rate_min = 2", 2, True),
        ("held = 0", 0, True),
    ],
)
def test_a_limit_decides_the_exit_code(limit: str, measured: float, met: bool) -> None:
    findings = played(limit)
    name = limit.split(" ", 1)[0]
    (verdict,) = (each for each in findings.verdicts() if each.name == name)
    assert (verdict.measured, verdict.met) == (measured, met)
    assert findings.exit_code == (0 if met else 8)
    assert ("does not hold" in printed(findings)) is not met


def test_what_was_not_measured_meets_no_limit() -> None:
    assert not Verdict("p50_ms", 1000, None).met
    findings = Findings(Scenario.parse(SCENARIO + "p50_ms = 1"))
    assert findings.exit_code == 8
    assert findings.measured()["failures"] == 4  # who never came


def test_an_attacker_who_is_let_in_is_a_breach_unless_he_has_the_victim_s_credentials() -> None:
    for attack, breaches in (("guess", 1), ("thieves", 1), ("clone", 0), ("slow-loris", 0)):
        findings = played()
        findings.attacks[attack]["let in"] += 1
        assert findings.measured()["breaches"] == breaches


def test_sockets_that_are_held_to_the_end() -> None:
    findings = played("held = 1")
    findings.attacks["slow-loris"]["held to the end"] = 2
    assert findings.exit_code == 8


def test_failures_are_told_by_group_and_counted() -> None:
    findings = played("failures = 2")
    findings.groups["one"].failed("http", Refused("NOT_FOUND: no"))
    findings.groups["other"].done("mqtt", 3, 0, NoAnswer("silence"))
    assert findings.measured()["failures"] == 2
    assert "http: refused: NOT_FOUND: no" in printed(findings)
    assert "mqtt connection: unreachable: silence" in printed(findings)
    del findings.groups["other"]  # of which the two never came
    assert findings.measured()["failures"] == 3


def test_a_device_that_is_never_heard_of_again_is_a_failure() -> None:
    findings = Findings(Scenario.parse(SCENARIO.replace('name = "one"', 'name = "one"\ntelemetry = 1')))
    for name in ("one", "other"):
        report = findings.groups[name] = Report("run", 2)
        for number in range(2):
            report.started("http")
            report.succeeded("http", Provisioned(Credentials("ACCESS_TOKEN", f"{name}-{number}"), None, 1), 0.1)
    findings.groups["one"].done("http", 1, 1)
    assert findings.measured()["failures"] == 1


def test_the_report_for_people() -> None:
    text = printed(played())
    for words in ("two groups: 4/4 provisioned in 2.00 s", "thieves", "7 datagrams lost", "3 devices without power"):
        assert words in text
    assert "30–50 ms" in text  # a line of the histogram


def test_the_report_for_programs() -> None:
    members = played("messages_min = 12").to_json()
    assert members["groups"]["one"]["transports"]["http"]["provisioned"] == 2
    assert "exitCode" not in members["groups"]["one"]
    assert members["attacks"]["guess"] == {"refused": 2, "turned away": 3}
    assert (members["network"], members["powerCuts"], members["exitCode"]) == ({"datagrams lost": 7}, 3, 0)
    assert members["limits"][-1] == {"name": "messages_min", "limit": 12, "measured": 12, "met": True}
    assert sum(bucket["count"] for bucket in members["histogram"]["provisioning"]) == 4


def test_the_picture_has_both_histograms() -> None:
    root = ElementTree.fromstring(played().to_svg())
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"two groups", "provisioning", "connections"} <= set(texts)
