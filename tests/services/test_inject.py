"""The flow, with a device and a server that do as each test says."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from provserver.core.board import Board, Report, WifiNetwork
from provserver.core.edgent import Settings
from provserver.core.wifisession import WifiState
from provserver.errors import Conflict, Forbidden, Invalid, Refused, Unavailable
from provserver.services.inject import (
    Choice,
    Done,
    Existing,
    NotConnected,
    Patience,
    Standing,
    Token,
    Wanted,
    Work,
    inject,
)

BOARD = Board("Blynk Thermostat-8DCF", "TMPLa", firmware_version="1.2.0")
SEEN = [WifiNetwork("Home", -50, "WPA2"), WifiNetwork("Cafe", -60, "OPEN"), WifiNetwork("Work", -70, "WPA2-EAP")]
HOME = Choice("Home", "correct horse")
TOKEN = "T" * 32
WORK = Work("prov.example.com", 1883)
WAITING = Standing(WifiState.WAITING)
SUCCESS = Standing(WifiState.SUCCESS, device_id="d1", device="Thermostat")
PATIENCE = Patience(whole=60.0, online=60.0, interval=0.001)
THERE = Existing("d1", "Thermostat", "TMPLa", "Blynk Thermostat-8DCF")
SOON = Patience(whole=0.01, online=0.01, interval=0.001)


@dataclass
class Device:
    """reports: what it says came of it; None: nothing, ever."""

    board_: Board = BOARD
    report: Report | None = None
    refuses: bool = False
    absent: int = 0
    configured: list[Settings] = field(default_factory=list)

    async def board(self) -> Board:
        if self.absent:
            self.absent -= 1
            raise Refused("nobody there")
        return self.board_

    async def networks(self) -> Sequence[WifiNetwork]:
        return SEEN

    async def configure(self, settings: Settings) -> None:
        if self.refuses:
            raise Refused("no")
        self.configured.append(settings)

    async def outcome(self) -> Report:
        if self.report is None:
            await asyncio.Event().wait()
        assert self.report is not None
        return self.report


@dataclass
class Server:
    """standings: of its session, each time it is asked; the last one again and again."""

    standings: list[Standing | Unavailable] = field(default_factory=lambda: [WAITING, SUCCESS])
    template: str = ""
    existing: Existing = THERE
    wanted: list[Wanted] = field(default_factory=list)
    done: list[tuple[str, ...]] = field(default_factory=list)
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def template_id(self, profile: str) -> str:
        return {"Thermostat": "TMPLa"}.get(profile, profile)

    async def device(self, reference: str) -> Existing:  # noqa: ARG002
        return self.existing

    async def request(self, wanted: Wanted) -> Token:
        self.wanted.append(wanted)
        return Token("s1", TOKEN, self.template)

    async def standing(self, session: str) -> Standing:  # noqa: ARG002
        found = self.standings.pop(0) if len(self.standings) > 1 else self.standings[0]
        if isinstance(found, Unavailable):
            raise found
        return found

    async def saw(self, session: str, event: str, error: str = "") -> None:  # noqa: ARG002
        self.done.append(("saw", event, error))
        self.seen.set()

    async def fail(self, session: str, error: str) -> None:  # noqa: ARG002
        self.done.append(("fail", error))

    async def cancel(self, session: str) -> None:  # noqa: ARG002
        self.done.append(("cancel",))


async def run(
    device: Device,
    server: Server,
    work: Work = WORK,
    choice: Choice = HOME,
    told: list[str] | None = None,
    patience: Patience = PATIENCE,
) -> Done:
    lines = [] if told is None else told
    return await inject(device, server, work, lambda _board, _networks: choice, lines.append, patience)


async def test_a_device_gets_its_settings_and_comes_online() -> None:
    device, server, told = Device(), Server(), list[str]()
    done = await run(device, server, choice=replace(HOME, name="Hall"), told=told)
    assert done == Done("s1", "d1", "Thermostat", BOARD, "Home")
    assert device.configured == [Settings(TOKEN, "prov.example.com", 1883, "Home", "correct horse")]
    assert server.wanted == [Wanted(template="TMPLa", name="Hall")]
    assert server.done == [("saw", "config_sent", "")]
    assert told == [
        "Found 'Blynk Thermostat-8DCF', template TMPLa, firmware 1.2.0.",
        "It has its settings, and joins 'Home' now.",
    ]
    assert TOKEN not in repr(Token("s1", TOKEN))
    assert "horse" not in repr(HOME)


async def test_what_went_wrong_is_said_in_words_with_what_to_do() -> None:
    device, server = Device(report=Report(online=False, last_error=722)), Server([WAITING])
    with pytest.raises(NotConnected, match=r"did not take that password\. Type it anew") as refused:
        await run(device, server)
    assert refused.value.trouble.code == 722
    assert server.done == [("saw", "config_sent", ""), ("fail", "wifi_wrong_password")]
    assert TOKEN not in str(refused.value)
    assert "horse" not in str(refused.value)


async def test_the_server_knows_better_than_a_device_that_came_back() -> None:
    device = Device(report=Report(online=False, last_error=703))
    assert (await run(device, Server([WAITING, SUCCESS]))).device_id == "d1"
    server = Server([WAITING, Standing(WifiState.FAILED, "wrong_template")])
    with pytest.raises(NotConnected, match="template is another than was said"):
        await run(device, server)
    assert server.done == [("saw", "config_sent", "")]


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (Standing(WifiState.FAILED, "hw_info_tmpl_not_found"), "BLYNK_TEMPLATE_ID"),
        (Standing(WifiState.FAILED, "template_of_another_organization"), "belongs to another organization"),
        (Standing(WifiState.FAILED, "device_quota"), "quota"),
        (Standing(WifiState.FAILED, "odd"), "odd"),
        (Standing(WifiState.CANCELED), "cancelled"),
        (Standing(WifiState.EXPIRED), "ended unused"),
    ],
)
async def test_sessions_that_the_server_ended_are_told(standing: Standing, said: str) -> None:
    with pytest.raises(Refused, match=said):
        await run(Device(), Server([WAITING, standing]))


async def test_a_device_that_says_it_is_online_is_waited_for_at_the_server() -> None:
    told: list[str] = []
    device, server = Device(report=Report(online=True)), Server([WAITING, WAITING, WAITING, SUCCESS])
    assert (await run(device, server, told=told)).device == "Thermostat"
    assert "It says that it is connected." in told
    server = Server([WAITING])
    with pytest.raises(NotConnected, match=r"server at prov\.example\.com:1883 has not heard of it"):
        await run(device, server, patience=replace(PATIENCE, online=0.01))
    assert server.done[-1] == ("saw", "timeout", "timeout")


async def test_there_is_no_end_without_words() -> None:
    with pytest.raises(NotConnected, match=r"neither the device nor the server.*Look at its LED"):
        await run(Device(), Server([WAITING]), patience=SOON)
    with pytest.raises(NotConnected, match=r"has not said which template.*info/mcu"):
        await run(Device(), Server([Standing(WifiState.CONNECTED)]), patience=SOON)
    with pytest.raises(Unavailable, match=r"not known.*Postgres is away.*s1"):
        await run(Device(), Server([Unavailable("Postgres is away.")]), patience=SOON)


async def test_a_server_that_is_away_for_a_while_is_asked_again() -> None:
    told: list[str] = []
    await run(Device(), Server([WAITING, Unavailable("Away."), Unavailable("Away."), SUCCESS]), told=told)
    assert told.count("The server cannot be asked just now: Away.") == 1


async def test_settings_that_are_not_taken_end_the_session() -> None:
    server = Server()
    with pytest.raises(Refused, match="no"):
        await run(Device(refuses=True), server)
    assert server.done == [("fail", "config_invalid")]


@pytest.mark.parametrize(
    ("work", "choice", "said"),
    [
        (Work("h" * 34), HOME, "host must be"),
        (Work("2001:db8::1"), HOME, "host must be"),
        (WORK, Choice("x" * 33, "p"), "SSID must be at most 32 bytes"),
        (WORK, Choice("Home", "p" * 64), "password must be at most 63 bytes"),
        (WORK, Choice("Home", "ü" * 32), "password must be at most 63 bytes"),
        (WORK, Choice("", "p"), "no SSID"),
        (WORK, Choice(""), "No WiFi network was chosen"),
        (WORK, Choice("Home"), "wants a password"),
        (WORK, Choice("Work", "p"), "wants a user name"),
        (WORK, Choice("Caf\N{REPLACEMENT CHARACTER}"), "not text in UTF-8"),
    ],
)
async def test_what_firmware_would_cut_or_cannot_join_is_refused_before_a_token_is_asked_for(
    work: Work, choice: Choice, said: str
) -> None:
    device, server = Device(), Server()
    with pytest.raises(Invalid, match=said):
        await run(device, server, work, choice)
    assert (device.configured, server.wanted) == ([], [])


async def test_odd_choices_are_warned_of() -> None:
    told: list[str] = []
    await run(Device(), Server(), choice=Choice("Hidden", "p"), told=told)
    assert any("does not see 'Hidden'" in each for each in told)
    told.clear()
    await run(Device(), Server(), choice=Choice("Cafe", "p"), told=told)
    assert any("'Cafe' is open" in each for each in told)


async def test_what_went_wrong_before_is_told() -> None:
    told: list[str] = []
    await run(Device(replace(BOARD, last_error=712)), Server(), told=told)
    assert any("log in on a web page" in each for each in told)


async def test_a_device_that_is_there_gets_new_wifi() -> None:
    server = Server(template="TMPLa")
    await run(Device(), server, replace(WORK, wanted=Wanted(device="Thermostat")))
    assert server.wanted == [Wanted(device="d1")]


async def test_the_wrong_device_gets_nothing() -> None:
    wanted = replace(WORK, wanted=Wanted(device="Thermostat"))
    for board, work in (
        (replace(BOARD, template_id="TMPLb"), wanted),
        (replace(BOARD, name="Blynk Thermostat-0W8N"), wanted),
        (replace(BOARD, template_id="TMPLb"), replace(WORK, wanted=Wanted(template="Thermostat"))),
    ):
        device, server = Device(board), Server()
        with pytest.raises(Conflict, match=r"wrong device.*Nothing was sent"):
            await run(device, server, work)
        assert (device.configured, server.wanted) == ([], [])
    await run(Device(replace(BOARD, name="Blynk Thermostat-0W8N")), Server(), replace(wanted, another_unit=True))
    await run(Device(replace(BOARD, name="Blynk Renamed-8DCF")), Server(), wanted)


async def test_who_may_not_see_profiles_learns_of_the_wrong_device_by_the_session() -> None:
    server = Server(template="TMPLb", existing=Existing("d1", "Thermostat"))
    device = Device()
    with pytest.raises(Conflict, match="wrong device"):
        await run(device, server, replace(WORK, wanted=Wanted(device="Thermostat")))
    assert (device.configured, server.done) == ([], [("cancel",)])


async def test_firmware_that_takes_any_template_gets_the_one_that_was_named() -> None:
    for board in (replace(BOARD, template_id="DYNAMIC"), replace(BOARD, firmware_type="DYNAMIC"), Board("x", "")):
        server = Server()
        await run(Device(board), server, replace(WORK, wanted=Wanted(template="TMPLz")))
        await run(Device(board), server)
        assert [each.template for each in server.wanted] == ["TMPLz", None]


async def test_an_access_point_that_is_yet_to_open_is_awaited() -> None:
    await run(Device(absent=3), Server(), replace(WORK, awaited=True))
    for device, work in ((Device(absent=1), WORK), (Device(absent=1_000_000), replace(WORK, awaited=True))):
        with pytest.raises(Refused, match="nobody there"):
            await run(device, Server(), work, patience=SOON)


async def test_who_gives_up_cancels_the_session() -> None:
    device, server = Device(), Server([WAITING])
    running = asyncio.ensure_future(run(device, server))
    await server.seen.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.done[-1] == ("cancel",)


async def test_a_session_of_whose_steps_nobody_is_told_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    async def forbidden(*_: object) -> None:
        raise Forbidden("no")

    monkeypatch.setattr(server, "saw", forbidden)
    assert (await run(Device(), server)).session == "s1"
