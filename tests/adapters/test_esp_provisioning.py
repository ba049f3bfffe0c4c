import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from firmware_sim import esp_prov
from firmware_sim.address import Address
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings as Given
from firmware_sim.wifi_networks import Network
from provserver.adapters.esp_provisioning import EspProvisioning, esp_provisioning
from provserver.core.board import Board, Report, WifiNetwork
from provserver.core.edgent import Settings
from provserver.core.espprov import Possession
from provserver.errors import Invalid, Refused
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
LABEL = Possession("abcd1234", "wifiprov", "PROV_8DCF")
OLDER = Possession("abcd1234")
SETTINGS = Settings(TOKEN, "iot.example.com", 8883, "Home", "secret")


@asynccontextmanager
async def way(
    board: WifiBoard, label: Possession = LABEL, shown: Possession | None = None
) -> AsyncIterator[EspProvisioning]:
    """From a phone to the simulator, over a socket. shown: what the phone has read, if not that."""
    kept = esp_prov.Possession(label.proof, label.username)
    async with (
        esp_prov.served(Address("127.0.0.1", 0), board, SerialLog(None), kept) as address,
        esp_provisioning(str(address), shown or label, poll=0.001) as found,
    ):
        yield found


@pytest.mark.parametrize("label", [LABEL, OLDER], ids=["security 2", "security 1"])
async def test_the_whole_way(label: Possession) -> None:
    board = WifiBoard()
    async with way(board, label) as found:
        assert await found.board() == Board(
            name="Blynk Meter-8DCF",
            template_id="TMPL2feLBENZh",
            template_name="Meter",
            firmware_type="TMPL2feLBENZh",
            firmware_version="1.2.3",
            mac="AA:BB:CC:DD:EE:FF",
        )
        assert await found.networks() == [
            WifiNetwork("Home", -50, "WPA2", 6, "02:00:00:00:00:01"),
            WifiNetwork('a "quoted\\ name', -70, "OPEN", 6, "02:00:00:00:00:02"),
        ]
        await found.configure(SETTINGS)
        assert await found.outcome() == Report(online=True)
    assert board.configured == [Given(ssid="Home", password="secret", token=TOKEN, host="iot.example.com", port=8883)]


@pytest.mark.parametrize("last_error", [701, 702, 720, 722, 723])
async def test_a_network_that_it_cannot_join_and_then_one_that_it_can(last_error: int) -> None:
    board = WifiBoard(outcomes=[failure(last_error), SUCCESS])
    async with way(board) as found:
        await found.configure(SETTINGS)
        assert await found.outcome() == Report(online=False, last_error=last_error)
        await found.configure(SETTINGS)
        assert await found.outcome() == Report(online=True)
    assert len(board.configured) == 2


async def test_another_phone_after_a_failure() -> None:
    board = WifiBoard(outcomes=[failure(722), SUCCESS])
    kept = esp_prov.Possession(LABEL.proof, LABEL.username)
    async with esp_prov.served(Address("127.0.0.1", 0), board, SerialLog(None), kept) as address:
        for report in (Report(online=False, last_error=722), Report(online=True)):
            async with esp_provisioning(str(address), LABEL, poll=0.001) as found:
                await found.configure(SETTINGS)
                assert await found.outcome() == report


async def test_many_networks_and_none() -> None:
    board = WifiBoard(networks=[Network(f"Net {at}", rssi=-30 - at) for at in range(40)])
    async with way(board) as found:
        assert [each.ssid for each in await found.networks()] == [f"Net {at}" for at in range(15)]
        board.networks = ()
        assert await found.networks() == []


async def test_a_wrong_proof_and_too_many_of_them() -> None:
    board = WifiBoard()
    wrong = Possession("abcd1235", "wifiprov")
    kept = esp_prov.Possession(LABEL.proof, LABEL.username)
    async with esp_prov.served(Address("127.0.0.1", 0), board, SerialLog(None), kept) as address:
        for _ in range(esp_prov.MAX_TRIES):
            async with esp_provisioning(str(address), wrong) as found:
                for _ in range(esp_prov.MAX_TRIES):  # of which the board sees one
                    with pytest.raises(Refused, match="did not take the proof of possession") as caught:
                        await found.board()
                    assert "abcd" not in str(caught.value)
        for label in (wrong, LABEL):
            async with esp_provisioning(str(address), label) as found:
                with pytest.raises(Refused, match="switched off and on: do that"):
                    await found.board()
    assert board.did == []


@pytest.mark.parametrize(("label", "shown", "why"), [(OLDER, LABEL, "another board"), (LABEL, OLDER, "user name")])
async def test_a_label_of_the_other_scheme(label: Possession, shown: Possession, why: str) -> None:
    async with way(WifiBoard(), label, shown) as found:
        with pytest.raises(Refused, match=why):
            await found.board()


async def test_nobody_there() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        async with esp_provisioning(f"127.0.0.1:{silent.getsockname()[1]}", LABEL) as found:
            with pytest.raises(Refused, match="Join its access point 'PROV_8DCF'"):
                await found.board()


@pytest.mark.parametrize("address", ["", "user@host", "host:0", "host/path"])
async def test_an_address_that_cannot_be(address: str) -> None:
    with pytest.raises(Invalid):
        async with esp_provisioning(address or "?", LABEL):
            pass


async def test_a_session_that_has_ended_on_the_way() -> None:
    board = WifiBoard(outcomes=[()])
    kept = esp_prov.Possession(LABEL.proof, LABEL.username)
    async with (
        esp_prov.served(Address("127.0.0.1", 0), board, SerialLog(None), kept) as address,
        esp_provisioning(str(address), LABEL, poll=0.001) as found,
    ):
        await found.configure(SETTINGS)
        async with esp_provisioning(str(address), LABEL) as other:  # whose session ends the first one
            await other.board()
        outcome = asyncio.create_task(found.outcome())
        board.become("CONNECTING_NET")
        board.become("RUNNING")
        assert await outcome == Report(online=True)


async def test_what_came_of_it_is_told_by_a_board_that_has_started_anew() -> None:
    board = WifiBoard(outcomes=[()], last_error=702)
    async with way(board) as found:
        assert await found.outcome() == Report(online=False, last_error=702)


@asynccontextmanager
async def answering(answers: dict[str, web.Response | str]) -> AsyncIterator[EspProvisioning]:
    """To something that answers as it likes: text, or a response; to what is not named with 404."""

    async def handle(request: web.Request) -> web.Response:
        found = answers.get(request.path.removeprefix("/"))
        if found is None:
            raise web.HTTPNotFound
        return found if isinstance(found, web.Response) else web.Response(text=found)

    application = web.Application()
    application.router.add_post("/{endpoint}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with esp_provisioning(f"127.0.0.1:{port}", LABEL) as found:
            yield found
    finally:
        await runner.cleanup()


VERSION = json.dumps({"prov": {"ver": "v1.1", "sec_ver": 2, "sec_patch_ver": 1, "cap": []}})


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({}, "lacks one of ESP-IDF's endpoints"),
        ({"proto-ver": "<html>"}, "newer firmware"),
        ({"proto-ver": '{"prov":{"ver":"v1.1","sec_ver":0}}'}, "without protection"),
        ({"proto-ver": '{"prov":{"ver":"v1.1","sec_ver":2}}'}, "one nonce"),
        ({"proto-ver": "{"}, "not JSON"),
        ({"proto-ver": "x" * 70_000}, "without an end"),
        ({"proto-ver": VERSION, "prov-session": "strange"}, "cannot be"),
        ({"proto-ver": VERSION, "prov-session": ""}, "another security scheme"),
    ],
    ids=["no board", "a web page", "security 0", "before patch 1", "no JSON", "too much", "no session", "nothing"],
)
async def test_what_is_no_such_board(answers: dict[str, web.Response | str], why: str) -> None:
    async with answering(answers) as found:
        with pytest.raises(Refused, match=why):
            await found.board()


async def test_a_redirect_is_not_followed() -> None:
    async with answering({}) as other:
        moved = {"Location": f"http://{other._address}/proto-ver"}
        response = web.Response(status=307, headers=moved)
        async with answering({"proto-ver": response}) as found:
            with pytest.raises(Refused, match="does not answer"):
                await found.board()
