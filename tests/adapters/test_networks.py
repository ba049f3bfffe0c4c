from provserver.adapters import networks
from provserver.adapters.chirpstack import ChirpStack
from provserver.adapters.outgoing import Outgoing
from provserver.adapters.things_stack import ThingsStack
from provserver.core.integration import ChirpStackSettings, Settings, ThingsStackSettings
from provserver.core.lorawan import LorawanVersion, PhyVersion

VERSION = LorawanVersion.V1_0_3
SERVER = "stack.example.com"
THINGS_STACK = ThingsStackSettings(VERSION, PhyVersion.RP002_V1_0_3, "EU_863_870", SERVER, SERVER, SERVER, SERVER)
CHIRPSTACK = ChirpStackSettings(VERSION, "chirpstack.example.com", "00000000-0000-0000-0000-000000000001")


def test_each_kind_of_settings_has_its_network() -> None:
    kinds: tuple[tuple[Settings, type], ...] = ((THINGS_STACK, ThingsStack), (CHIRPSTACK, ChirpStack))
    for settings, kind in kinds:
        assert type(networks.connect("application", settings, "key", Outgoing())) is kind
