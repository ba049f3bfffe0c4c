import asyncio
import itertools
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.cli.conftest import Cli

_numbers = itertools.count(1)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    file = tmp_path / "key"
    file.write_text("NNSXS.PL4NTED\n")
    file.chmod(0o600)
    return str(file)


@pytest.fixture
def unserved(own_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands on a database that no server of the run is on, which would do the jobs that wait there."""
    monkeypatch.setenv("COLUMNS", "200")
    return Cli("--data-dir", str(tmp_path / "data"), "--database-url", own_database_url)


def made(cli: Cli, key_file: str, *more: str) -> dict[str, str]:
    """An integration of a profile and an application of their own."""
    name = f"lora-{next(_numbers)}-{'server' if '--server' in cli.options else 'database'}"
    cli.json("profile", "create", name)
    integration: dict[str, str] = cli.json(
        *("integration", "create", "--profile", name, "--application", name, "--key-file", key_file),
        *("--lorawan-version", "MAC_V1_0_3", "--frequency-plan", "EU_863_870_TTN", "--address", "stack.invalid"),
        *more,
    )
    return integration | {"profile": name}


def verified(cli: Cli, url: str, integration: dict[str, str]) -> dict[str, str]:
    """The same one, which onboards, as if its API key had been tested."""
    query = "UPDATE integration SET verified = true, onboarding = true WHERE id = $1"
    asyncio.run(execute(url, query, UUID(integration["id"])))
    cli.json("integration", "update", integration["id"], "--onboarding")  # which makes the fields
    return integration


def onboarding(cli: Cli, url: str, key_file: str, *more: str) -> dict[str, str]:
    """An integration that onboards."""
    return verified(cli, url, made(cli, key_file, *more))


async def execute(url: str, query: str, *values: object) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(query, *values)
    await connection.close()


def test_an_integration_from_its_making_to_its_end(everywhere: Cli, url: str, key_file: str) -> None:
    cli = everywhere
    integration = onboarding(cli, url, key_file, "--lorawan-profile-id", "000af8be", "--class-c")
    id_ = integration["id"]
    shown = cli.json("integration", "show", id_)
    assert (shown["onboarding"], shown["lorawanProfileId"], shown["settings"]["classC"]) == (True, "000AF8BE", True)
    assert id_ in [each["id"] for each in cli.json("integration", "list")]
    changed = cli.json("integration", "update", id_, "--no-class-c", "--claim-proof", "owner_token", "--no-onboarding")
    assert (changed["settings"]["classC"], changed["claimProof"], changed["onboarding"]) == (
        False,
        "owner_token",
        False,
    )
    assert "give it again" in cli.refused("integration", "update", id_, "--join-server", "other.invalid")
    assert (
        cli.json("integration", "update", id_, "--join-server", "other.invalid", "--key-file", key_file)["revision"]
        == 4
    )
    assert cli.json("integration", "devices", id_, "--state", "failed") == []
    assert cli.json("integration", "webhook", id_)["path"] == f"/external/lorawan/{id_}"
    assert cli.run("integration", "delete", id_).err == f"Deleted the integration of {integration['profile']}.\n"
    assert "no integration" in cli.refused("integration", "show", id_)


def test_a_test_that_fails_says_so(cli: Cli, key_file: str) -> None:
    id_ = made(cli, key_file)["id"]
    done = cli.run("integration", "test", id_)
    assert done.code == 1
    assert "joinServer" in done.out
    assert "broken" in done.err
    assert "PL4NTED" not in done.out + done.err


def test_what_a_person_sees(cli: Cli, url: str, key_file: str) -> None:
    done = cli.run("integration", "show", onboarding(cli, url, key_file)["id"])
    assert "EU_863_870_TTN" in done.out
    assert "warning: Without a LoRaWAN Profile ID" in done.err
    assert "PL4NTED" not in done.out + done.err


def test_a_pair_that_does_not_exist_is_refused(cli: Cli, key_file: str) -> None:
    id_ = made(cli, key_file)["id"]
    told = cli.refused("integration", "update", id_, "--regional-parameters", "PHY_V1_1_REV_B")
    assert "PHY_V1_0_3_REV_A" in told


def test_how_a_device_stands(cli: Cli, key_file: str) -> None:
    profile = made(cli, key_file)["profile"]
    cli.json("device", "create", f"{profile}-1", "--profile", profile)
    assert "in no network" in cli.refused("device", "network", f"{profile}-1")


def test_onboarding_is_for_a_key_that_was_tested(cli: Cli, key_file: str) -> None:
    id_ = made(cli, key_file)["id"]
    assert "not switched on" in cli.refused("integration", "update", id_, "--onboarding")
    assert "--onboarding" in cli.refused("integration", "onboard", id_)


def test_an_api_key_that_others_can_read_is_not_taken(cli: Cli, key_file: str) -> None:
    id_ = made(cli, key_file)["id"]
    Path(key_file).chmod(0o640)
    told = cli.refused("integration", "update", id_, "--key-file", key_file, code=3)
    assert "chmod 600" in told
    assert "PL4NTED" not in told


def test_all_devices_are_onboarded_that_are_there(everywhere: Cli, url: str, key_file: str) -> None:
    cli = everywhere
    integration = made(cli, key_file)
    names = [f"{integration['profile']}-{number}" for number in range(2)]
    for name in names:
        cli.json("device", "create", name, "--profile", integration["profile"])
    query = (  # as it was before there was an integration
        "INSERT INTO attribute (device_id, scope, key, value)"
        " SELECT d.id, 'SERVER', 'meta.' || v.key, to_jsonb(v.value)"
        " FROM device d CROSS JOIN LATERAL (VALUES ('Device EUI', '00' || upper(right(md5(d.name), 14))),"
        " ('Join EUI', '70B3D57ED0000010'), ('Application Key', repeat('0', 32))) AS v(key, value)"
        " WHERE d.profile_id = $1"
    )
    asyncio.run(execute(url, query, UUID(integration["profileId"])))
    id_ = verified(cli, url, integration)["id"]
    assert "Queued 2 devices." in cli.run("integration", "onboard", id_).err
    assert cli.json("integration", "onboard", id_) == {"queued": 0, "examined": 0}
    assert {cli.json("device", "network", name)["integrationId"] for name in names} == {id_}


def test_a_device_is_onboarded_replaced_and_removed(
    unserved: Cli, own_database_url: str, key_file: str, tmp_path: Path
) -> None:
    cli = unserved
    profile = onboarding(cli, own_database_url, key_file)["profile"]
    name = f"{profile}-1"
    cli.json("device", "create", name, "--profile", profile)
    assert "Device EUI" in cli.refused("device", "onboard", name)
    root_keys = tmp_path / "root-keys"
    root_keys.write_text("2B7E151628AED2A6ABF7158809CF4F3C\n")
    root_keys.chmod(0o644)
    more = ("--join-eui", "70B3D57ED0000010", "--key-file", str(root_keys))
    told = cli.refused("device", "replace-hardware", name, "--device-eui", "0018B20000000101", *more, code=3)
    assert "chmod 600" in told
    root_keys.chmod(0o600)
    replaced = cli.json("device", "replace-hardware", name, "--device-eui", "0018B20000000101", *more)
    assert (replaced["state"], replaced["networkDeviceId"]) == ("waiting", "eui-0018b20000000101")
    done = cli.run("device", "onboard", name)
    assert "provserver job watch" in done.err
    assert "2B7E" not in done.out + done.err
    assert cli.json("device", "network", name)["deviceEui"] == "0018B20000000101"
    assert cli.json("device", "leave-network", name)["state"] == "removed"


def test_who_deletes_is_told_what_stays_in_the_network(everywhere: Cli, url: str, key_file: str) -> None:
    cli = everywhere
    integration = onboarding(cli, url, key_file)
    profile = integration["profile"]
    cli.json("token", "create", "--profile", profile)
    (token,) = cli.json("token", "list", "--profile", profile)
    device = cli.json("device", "create", profile, "--profile", profile)
    for number, (kind, id_) in enumerate((("device", device["id"]), ("token", token["id"]))):
        name = f"eui-{number}"
        query = (
            "INSERT INTO network_device (device_id, integration_id, network_device_id, dev_eui, state, made)"
            " VALUES ($1, $2, $3, $4, 'onboarded', '[\"is\"]')"
        )
        asyncio.run(execute(url, query, UUID(id_), UUID(integration["id"]), name, f"0018B2000000030{number}"))
        told = cli.run(kind, "delete", id_).err
        assert f"It stays in its network as {name}." in told
        assert f"provserver device leave-network {id_}" in told
