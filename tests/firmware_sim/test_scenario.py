import itertools
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.errors import WrongUsage
from firmware_sim.proxy import Conditions
from firmware_sim.scenario import SPEEDS, Attack, Group, Limits, NetworkCut, PowerCut, Scenario

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config" / "scenarios").glob("*.toml"))

PLAIN = """
name = "plain"
[[group]]
name = "sensors"
count = 10
"""


def test_the_least_scenario() -> None:
    scenario = Scenario.parse(PLAIN)
    (group,) = scenario.group
    assert (group.transports, group.credentials, group.connects) == (("http",), "generated", False)
    assert (scenario.limits.failures, scenario.limits.p99_ms) == (0, None)
    assert scenario.transports == {"http"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN + "colour = 'red'", ["colour", "group[0]"]),
        (PLAIN + "[limits]\nfailure = 0", ["failure", "limits"]),
        (PLAIN + "[network]\nlos = 0.1", ["los", "network"]),
        (PLAIN + "[[attack]]\nkind = 'guess'\ncount = 1\nsecond = 1", ["second", "attack[0]"]),
        (PLAIN + "[[power_cut]]\nat = 1\nseconds = 1\nrest = 1", ["rest", "power_cut[0]"]),
        ("nam = 'x'\n" + PLAIN, ["nam"]),
        ("name = 'x'", ["group"]),
        (PLAIN + "transports = ['pigeon']", ["pigeon", "group[0].transports[0]"]),
        (PLAIN + "transports = []", ["length", "transports"]),
        (PLAIN + "transports = ['blynk']", ["blynk", "connect"]),
        (PLAIN + "rate = -1", [">= 0", "rate"]),
        (PLAIN + "ramp = 1", ["ramp goes with a rate"]),
        (PLAIN + "connect = 'mqtt'", ["telemetry"]),
        (PLAIN + "credentials = 'x509'\ntelemetry = 1", ["certificate", "mqtts, https or coaps"]),
        (PLAIN + "credentials = 'basic'\ntelemetry = 1", ["basic", "mqtt or mqtts"]),
        (PLAIN + "credentials = 'wifi'\ntransports = ['coaps']", ["coaps", "mqtt, "]),
        (PLAIN + "mistakes = 0.5", ["mistakes", "wifi"]),
        (PLAIN + "credentials = 'chain'\ntransports = ['mqtts']\ntelemetry = 1\nconnect = 'mqtts'", ["connects once"]),
        (PLAIN + "clock_skew = [2, 1]", ["clock_skew"]),
        (PLAIN + "address = 'localhost'", ["address"]),
        (PLAIN + "[network]\nloss = 1.5", ["<= 1", "loss"]),
        (PLAIN + "[network]\ndelay = [2, 1]", ["at least, at most"]),
        (PLAIN + "[[group]]\nname = 'sensors'\ncount = 1", ["name of its own"]),
        (PLAIN + "[[power_cut]]\nat = 1\nseconds = 1\ngroups = ['others']", ["'others'", "sensors"]),
        (PLAIN + "[[attack]]\nkind = 'clone'\ncount = 1", ["victims"]),
        (PLAIN + "[[attack]]\nkind = 'guess'\ncount = 1\nvictims = 'sensors'", ["victims"]),
        (PLAIN + "[[attack]]\nkind = 'clone'\ncount = 1\nvictims = 'others'", ["'others'"]),
        (PLAIN + "[[attack]]\nkind = 'slow-loris'\ncount = 1\ntransports = ['coap']", ["coap has none"]),
        (PLAIN + "[[attack]]\nkind = 'guess'\ncount = 1\ntransports = ['coap+oscore']", ["attacks use"]),
        (PLAIN + "[[attack]]\nkind = 'guess'\ncount = 1\n" + "[[attack]]\nkind = 'guess'\ncount = 1", ["names"]),
        ("name = \n", ["line 1"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are looked at
        Scenario.parse(text)
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for name, content, words in (
        ("missing.toml", None, "cannot read"),
        ("binary.toml", b"\xff\xfe", "UTF-8"),
        ("wrong.toml", b"name = 1", "wrong.toml"),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(WrongUsage, match=words):
            Scenario.read(file)


def test_those_that_are_shipped_are_read() -> None:
    assert [file.stem for file in SHIPPED] == ["city-power-cut", "factory-line", "leaked-key", "phone-onboarding"]
    for file in SHIPPED:
        assert Scenario.read(file).about


@given(
    st.sampled_from([Scenario.read(file) for file in SHIPPED]),
    st.floats(0.001, 10),
    st.floats(0.001, 10),
)
def test_a_scale_keeps_the_shape(scenario: Scenario, scale: float, time_scale: float) -> None:
    scaled = scenario.at_scale(scale, time_scale)
    before: tuple[Group | Attack, ...] = (*scenario.group, *scenario.attack)
    after: tuple[Group | Attack, ...] = (*scaled.group, *scaled.attack)
    for unscaled, table in zip(before, after, strict=True):
        assert table.count == max(1, round(unscaled.count * scale))
        assert table.rate == pytest.approx(unscaled.rate * scale / time_scale)
        assert table.at == pytest.approx(unscaled.at * time_scale)
    for one, other in zip((*scenario.power_cut,), (*scaled.power_cut,), strict=True):
        assert (other.at, other.seconds) == pytest.approx((one.at * time_scale, one.seconds * time_scale))
        assert other.share == one.share
    assert (scaled.limits.failures, scaled.limits.duplicates) == (0, 0)
    if (scale, time_scale) != (1, 1):
        assert all(getattr(scaled.limits, name) is None for name in SPEEDS)
    if scenario.limits.messages_min is not None:
        assert scaled.limits.messages_min == int(scenario.limits.messages_min * scale)


def test_without_a_scale_all_limits_hold() -> None:
    scenario = Scenario.read(SHIPPED[0])
    assert scenario.at_scale(1, 1) is scenario


@given(
    st.dictionaries(
        st.sampled_from(["name", "count", "transports", "rate", "credentials", "x", "telemetry", "clock_skew"]),
        st.one_of(
            st.integers(-3, 9),
            st.text(max_size=5),
            st.lists(st.sampled_from(["http", "mqtt", "q", 1]), max_size=3),
            st.none(),
        ),
    )
)
def test_anything_is_a_scenario_or_an_error_with_a_place(members: dict[str, object]) -> None:
    text = msgspec.json.encode({"name": "any", "group": [members]}).decode()
    try:
        scenario = msgspec.json.decode(text, type=Scenario)
    except msgspec.ValidationError as error:
        assert "$.group[0]" in str(error) or "missing" in str(error)  # noqa: PT017 - either is right
    else:
        assert scenario.group[0].count >= 1


def test_limits_are_named_as_they_are_judged() -> None:
    """At least for …_min, at most for the rest."""
    named = {field.name for field in msgspec.structs.fields(Limits)}
    assert set(SPEEDS) <= named
    assert all(a == b or not a.startswith(b) for a, b in itertools.permutations(named, 2))


def test_the_page_explains_every_key_and_its_example_is_one() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    Scenario.parse(example)
    keys = {key for key, _ in re.findall(r"^(\w+)( = )", example, re.MULTILINE)}
    tables = (Scenario, Group, Attack, PowerCut, NetworkCut, Limits, Conditions)
    fields = {field.name for table in tables for field in msgspec.structs.fields(table)}
    assert fields - keys == {"group", "attack", "power_cut", "network_cut", "network", "limits"}  # the tables
