import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from firmware_sim.credentials import Kind, strip_pem
from firmware_sim.device import Device, Firmware, Step
from firmware_sim.errors import BadReply, FlashError, NoAnswer, Refused, SimulatorError, Unauthorized
from firmware_sim.flash import FileFlash, VolatileFlash
from firmware_sim.log import SerialLog
from firmware_sim.retry import Retry
from tests.requests import signed

KEY, SECRET = "key-of-the-profile", "secret-of-the-profile"


class FakeServer:
    """A transport whose server keeps DESIGN's promise: the same nonce gets the same answer."""

    name = "fake"
    url = "fake://server"

    def __init__(self, *failures: SimulatorError) -> None:
        self.failures = list(failures)
        self.bodies: list[bytes] = []
        self.granted: dict[str, bytes] = {}
        self.before_answer: Callable[[], None] = lambda: None

    async def provision(self, body: bytes, timeout: float) -> bytes:
        assert timeout > 0
        self.bodies.append(body)
        self.before_answer()
        if self.failures:
            raise self.failures.pop(0)
        asked = json.loads(body)
        answer = self._grant(asked)
        return self.granted.setdefault(asked["requestNonce"], json.dumps(answer).encode())

    def _grant(self, asked: dict[str, Any]) -> dict[str, Any]:
        number = len(self.granted) + 1
        value: object = asked.get("token", f"generated-token-{number}")
        if asked.get("credentialsType") == "MQTT_BASIC":
            value = {
                "clientId": asked["clientId"],
                "userName": asked["username"],
                "password": asked["password"],
            }
        elif "csr" in asked:
            value = signed(asked["csr"])
        elif asked.get("credentialsType") == "X509_CERTIFICATE":
            value = strip_pem(asked["hash"])
        return {
            "status": "SUCCESS",
            "credentialsType": asked.get("credentialsType", "ACCESS_TOKEN"),
            "credentialsValue": value,
            "deviceName": asked.get("deviceName", f"named-{number}"),
            "deviceId": f"id-{number}",
        }


async def no_sleep(_: float) -> None:
    return


def device(server: FakeServer, flash: FileFlash | VolatileFlash, name: str | None = "sensor-1", **image: Any) -> Device:
    retry = Retry(attempts=3, sleep=no_sleep)
    return Device(Firmware(KEY, SECRET, name, **image), flash, server, SerialLog(None), retry)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def flash(tmp_path: Path) -> FileFlash:
    return FileFlash(tmp_path / "flash.json")


@pytest.mark.parametrize("kind", Kind)
async def test_first_boot_asks_and_second_boot_remembers(server: FakeServer, flash: FileFlash, kind: Kind) -> None:
    first = await device(server, flash, kind=kind).boot()
    second = await device(server, flash, kind=kind).boot()
    assert (first.attempts, second.attempts) == (1, 0)
    assert second.credentials == first.credentials
    assert second.private_key == first.private_key
    assert (first.private_key is not None) is (kind in (Kind.X509, Kind.CSR))
    assert first.credentials.device_name == "sensor-1"
    assert len(server.bodies) == 1


async def test_the_request_is_in_flash_before_it_is_sent(server: FakeServer, flash: FileFlash) -> None:
    seen: list[dict[str, Any]] = []
    server.before_answer = lambda: seen.append(json.loads(flash.path.read_bytes()))
    await device(server, flash, kind=Kind.X509).boot()
    asked = json.loads(server.bodies[0])
    assert seen[0]["request"]["requestNonce"] == asked["requestNonce"]
    assert seen[0]["request"]["hash"] == asked["hash"]
    assert "PRIVATE KEY" in seen[0]["privateKey"]


async def test_key_and_secret_are_in_the_firmware_not_in_the_flash(server: FakeServer, flash: FileFlash) -> None:
    await device(server, flash).boot()
    assert KEY not in flash.path.read_text()
    assert SECRET not in flash.path.read_text()
    assert json.loads(server.bodies[0])["provisionDeviceSecret"] == SECRET


async def test_steps_come_in_order(server: FakeServer) -> None:
    steps: list[Step] = []
    flash = VolatileFlash()
    for _ in range(2):
        booted = device(server, flash)
        booted.reached = steps.append
        await booted.boot()
    assert steps == [*Step, Step.READ_FLASH]


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("cut_after", Step)
async def test_a_cut_after_any_step_changes_nothing(
    server: FakeServer, flash: FileFlash, cut_after: Step, kind: Kind
) -> None:
    def cut(step: Step) -> None:
        if step is cut_after:
            raise PowerCutError

    booted = device(server, flash, kind=kind)
    booted.reached = cut
    with pytest.raises(PowerCutError):
        await booted.boot()
    outcome = await device(server, flash, kind=kind).boot()
    assert outcome.credentials.device_id == "id-1"
    assert len(set(server.bodies)) == 1
    assert (await flash.read()).credentials == outcome.credentials


async def test_asks_again_with_the_same_bytes_when_no_answer_came() -> None:
    server = FakeServer(NoAnswer("silence"), NoAnswer("busy", 1))
    outcome = await device(server, VolatileFlash()).boot()
    assert outcome.attempts == 3
    assert len(server.bodies) == 3
    assert len(set(server.bodies)) == 1


@pytest.mark.parametrize("failure", [Refused("FAILURE"), BadReply("?"), NoAnswer("silence")])
async def test_a_failure_keeps_the_nonce_and_nothing_else(failure: SimulatorError) -> None:
    server, flash = FakeServer(failure, failure, failure), VolatileFlash()
    with pytest.raises(type(failure)):
        await device(server, flash).boot()
    memory = await flash.read()
    assert memory.request
    assert memory.credentials is None


async def test_a_refusal_at_the_door_is_one_of_key_and_secret() -> None:
    with pytest.raises(Refused) as caught:
        await device(FakeServer(Unauthorized("MQTT 0x87")), VolatileFlash()).boot()
    assert caught.value.exit_code == 1


async def test_a_reply_for_someone_else_is_not_saved(server: FakeServer) -> None:
    flash = VolatileFlash()
    booted = device(server, flash)

    async def crossed(body: bytes, timeout: float) -> bytes:
        return await FakeServer().provision(body.replace(b"sensor-1", b"sensor-2"), timeout)

    server.provision = crossed  # type: ignore[method-assign]
    with pytest.raises(BadReply):
        await booted.boot()
    assert (await flash.read()).credentials is None


async def test_a_name_given_by_the_server_is_remembered(server: FakeServer) -> None:
    flash = VolatileFlash()
    assert (await device(server, flash, None).boot()).credentials.device_name == "named-1"
    assert (await device(server, flash, None).boot()).credentials.device_name == "named-1"


@pytest.mark.parametrize("image", [{"name": "sensor-2"}, {"kind": Kind.TOKEN}])
async def test_the_flash_of_another_device_is_left_alone(server: FakeServer, image: dict[str, Any]) -> None:
    flash = VolatileFlash()
    await device(server, flash).boot()
    before = await flash.read()
    with pytest.raises(FlashError, match="--erase"):
        await device(server, flash, **image).boot()
    assert await flash.read() == before


async def test_a_flash_that_cannot_be_written_stops_the_boot_before_asking(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(FlashError):
        await device(server, FileFlash(tmp_path / "missing" / "flash.json")).boot()
    assert server.bodies == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.CSR])  # certificates are no secrets
@pytest.mark.parametrize("show", [False, True])
async def test_the_log_shows_secrets_only_on_demand(kind: Kind, show: bool) -> None:
    server, flash, output = FakeServer(NoAnswer("silence")), VolatileFlash(), io.StringIO()
    for _ in range(2):
        booted = device(server, flash, kind=kind)
        booted.log = SerialLog(Console(file=output), show=show)
        await booted.boot()
    memory = await flash.read()
    assert memory.credentials
    assert memory.request
    value = memory.credentials.credentials_value
    secrets = [value] if isinstance(value, str) else [part or "" for part in value.values()]
    secrets.append(memory.request.request_nonce)
    assert all((secret in output.getvalue()) is show for secret in secrets)
    assert SECRET not in output.getvalue()
    assert "PRIVATE" not in output.getvalue()


def test_secrets_are_not_in_the_repr() -> None:
    assert SECRET not in repr(Firmware(KEY, SECRET))
