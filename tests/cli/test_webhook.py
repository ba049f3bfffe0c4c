import pytest

from tests.cli.conftest import Cli

URL = "https://webhook.example/in"


def test_a_webhook_from_its_making_to_its_end(everywhere: Cli) -> None:
    cli = everywhere
    made = cli.json("webhook", "create", URL, "--type", "device.claimed", "--type", "credentials.revoked")
    assert made["types"] == ["credentials.revoked", "device.claimed"]
    id_ = made["id"]
    assert "secret" not in cli.json("webhook", "show", id_)
    assert id_ in [each["id"] for each in cli.json("webhook", "list")]
    assert cli.json("webhook", "update", id_, "--all-types", "--disable")["types"] == []
    assert cli.json("webhook", "update", id_, "--type", "device.claimed", "--enable")["enabled"] is True
    assert cli.json("webhook", "deliveries", id_, "--state", "dead") == []
    assert cli.json("webhook", "replay", id_, "--since", "2026-01-01", "--until", "2026-01-02") == {"replayed": 0}
    assert cli.json("webhook", "replay", id_, "--dead") == {"replayed": 0}
    assert "Name one event" in cli.refused("webhook", "replay", id_)
    assert cli.run("webhook", "delete", id_).err == f"Deleted the webhook to {URL}.\n"
    assert "no webhook" in cli.refused("webhook", "show", id_)


def test_the_secret_is_shown_this_once(cli: Cli) -> None:
    done = cli.run("webhook", "create", URL)
    assert "whsec_" in done.out
    assert "shown this once" in done.err


def test_a_test_that_fails_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVSERVER_OUTGOING_PRIVATE", "127.0.0.1")
    made = cli.json("webhook", "create", "http://127.0.0.1/")
    monkeypatch.delenv("PROVSERVER_OUTGOING_PRIVATE")
    done = cli.run("webhook", "test", made["id"])
    assert done.code == 1
    assert "outgoing_private" in done.out
