from tests.cli.conftest import Cli
from tests.cli.test_examples import commands


def test_a_session_from_its_request_to_its_end(everywhere: Cli, profile: str) -> None:
    cli = everywhere
    made = cli.json("wifi-session", "request", "--template", profile, "--name", f"Lamp of {profile}")
    assert (made["state"], made["client"], made["profile"]) == ("WAITING", "cli", profile)
    assert len(made["token"]) == 32
    id_ = made["id"]
    assert "token" not in cli.json("wifi-session", "show", id_)
    assert id_ in [each["id"] for each in cli.json("wifi-session", "list", "--state", "WAITING", "--limit", "500")]
    total = cli.json("wifi-session", "summary", "--since", "2026-01-01")["total"]
    assert total >= 1
    assert cli.json("wifi-session", "summary")["total"] >= total
    assert cli.json("wifi-session", "cancel", id_)["state"] == "CANCELED"
    assert "is over" in cli.refused("wifi-session", "cancel", id_)
    assert "CANCELED" in cli.run("wifi-session", "list", "--state", "CANCELED", "--limit", "500").out


def test_what_it_says_to_people(cli: Cli, profile: str) -> None:
    done = cli.run("wifi-session", "request", "--template", profile)
    assert "shown this once" in done.err
    assert "WAITING" in done.out
    assert "no template" in cli.refused("wifi-session", "request", "--template", "nowhere")


def test_a_device_is_reconfigured(everywhere: Cli, profile: str) -> None:
    name = f"lamp-{profile}"
    everywhere.json("device", "create", name, "--profile", profile)
    assert everywhere.json("device", "reconfigure", name) == {"deviceIsOffline": True}
    assert "by its button" in everywhere.run("device", "reconfigure", name).err
    made = everywhere.json("wifi-session", "request", "--device", name)
    assert made["reprovisioning"]
    everywhere.json("wifi-session", "cancel", made["id"])


def test_the_examples_of_the_page_run(cli: Cli) -> None:
    shown = [words for _, *words in commands("wifi.md") if words[0] in ("profile", "wifi-session", "device")]
    assert len(shown) >= 6
    for words in shown:
        if "SESSION" in words:
            (newest,) = cli.json("wifi-session", "list", "--limit", "1")
            words = [{"SESSION": newest["id"]}.get(word, word) for word in words]
        if "--device" in words:
            cli.json("device", "create", "Kitchen", "--profile", "Lamp")
        done = cli.run(*words)
        assert done.code == 0, (words, done.err)
