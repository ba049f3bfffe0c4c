import asyncio
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.cli.conftest import Cli
from tests.cli.test_integration import made


async def _sight(url: str, integration: str, *names: str) -> None:
    """A network tells of devices of these ids."""
    connection = await asyncpg.connect(url)
    await connection.executemany(
        "INSERT INTO network_sighting (id, integration_id, network_device_id, dev_eui)"
        " VALUES (gen_random_uuid(), $1, $2, upper(right(md5($2), 16)))",
        [(UUID(integration), name) for name in names],
    )
    await connection.close()


def test_devices_of_a_network_become_ours(everywhere: Cli, url: str, tmp_path: Path) -> None:
    cli = everywhere
    key_file = tmp_path / "key"
    key_file.write_text("NNSXS.PL4NTED\n")
    key_file.chmod(0o600)
    integration = made(cli, str(key_file))
    id_, profile = integration["id"], integration["profile"]
    first, second = f"{profile}-1", f"{profile}-2"
    asyncio.run(_sight(url, id_, first, second))

    assert {each["networkDeviceId"] for each in cli.json("sighting", "list", id_)} == {first, second}
    assert cli.json("sighting", "import", id_, first)["name"] == first
    cli.json("device", "create", f"{profile}-pump", "--profile", profile)
    assert cli.json("sighting", "merge", second, f"{profile}-pump")["networkDeviceId"] == second
    assert "--yes" in cli.refused("sighting", "merge", first, f"{profile}-pump")
    assert cli.json("sighting", "merge", first, f"{profile}-pump", "--yes")["state"] == "imported"
    assert cli.json("sighting", "list", id_) == []
    assert "No device" in cli.refused("sighting", "import", id_, second)
