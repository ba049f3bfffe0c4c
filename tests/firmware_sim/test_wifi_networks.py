from pathlib import Path

import pytest

from firmware_sim.errors import WrongUsage
from firmware_sim.wifi_networks import Fault, LastError, Network, Networks, home


def test_reads_networks_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    file = tmp_path / "networks.toml"
    file.write_text(
        '[[network]]\nssid = "Home"\npassword = "p"\n[[network]]\nssid = "Café"\nrssi = -40\nfault = "no-ip"\n'
    )
    networks = Networks.load(file)
    assert [network.ssid for network in networks.by_strength()] == ["Café", "Home"]
    assert networks.all[1].fault is Fault.NO_IP


@pytest.mark.parametrize("content", ["[[network]]\nrssi = 1", 'network = "x"', "[", '[[network]]\nssid="x"\nfault="y"'])
def test_a_wrong_file_is_told_with_what_it_should_be(tmp_path: Path, content: str) -> None:
    file = tmp_path / "networks.toml"
    file.write_text(content)
    with pytest.raises(WrongUsage, match=r"\[\[network\]\]"):
        Networks.load(file)
    with pytest.raises(WrongUsage, match="cannot read"):
        Networks.load(tmp_path / "none.toml")


def test_what_becomes_of_a_try() -> None:
    broken = Network("Broken", password="p", fault=Fault.NO_IP)
    networks = Networks([*home().all, broken])
    assert networks.join("Home", "correct horse") == home().all[0]
    assert networks.join("Home", "wrong") is LastError.WRONG_PASSWORD
    assert networks.join("Broken", "p") is LastError.NO_ADDRESS
    assert networks.join("Nowhere", "") is LastError.NOT_FOUND


def test_why_no_server_is_reached() -> None:
    troubles = {fault: Network("x", fault=fault).cloud_trouble for fault in Fault}
    assert troubles == {
        Fault.NONE: None,
        Fault.NO_IP: None,
        Fault.NO_INTERNET: LastError.CLOUD,
        Fault.CAPTIVE_PORTAL: LastError.CAPTIVE_PORTAL,
        Fault.BAD_CERTIFICATE: LastError.CERTIFICATE,
        Fault.WRONG_CLOCK: LastError.CERTIFICATE,
    }
