import logging
from pathlib import Path

import pytest

from provserver.admin import set_up
from provserver.config import Config
from provserver.workspace import furnish
from tests.conftest import Space


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("::", "localhost"), ("::1", "[::1]")]
)
async def test_the_link_leads_to_where_operators_are_served(
    space: Space, tmp_path: Path, host: str, shown: str
) -> None:
    config = Config(data_dir=tmp_path / "data", keys_file=str(tmp_path / "keys.json"))
    await set_up.offer(await furnish(space.database, config), config, host, 8081)
    link = config.set_up_path.read_text()
    assert link.startswith(f"http://{shown}:8081/set-up#")


async def test_devices_are_served_although_it_cannot_be_written(
    space: Space, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("a file")
    with caplog.at_level(logging.WARNING):
        config = Config(data_dir=tmp_path / "data", keys_file=str(tmp_path / "keys.json"))
        await set_up.offer(await furnish(space.database, config), config, "127.0.0.1", 8081)
    assert "the first user cannot be made" in caplog.text
