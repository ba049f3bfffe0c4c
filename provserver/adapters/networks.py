"""The networks that devices can be onboarded into, by their kinds."""

from provserver.adapters.chirpstack import ChirpStack
from provserver.adapters.outgoing import Outgoing
from provserver.adapters.things_stack import ThingsStack
from provserver.core.integration import Settings, ThingsStackSettings
from provserver.core.onboarding import Network


def connect(application_id: str, settings: Settings, api_key: str, outgoing: Outgoing) -> Network:
    """The API of the network that the settings are for."""
    if isinstance(settings, ThingsStackSettings):
        return ThingsStack(application_id, settings, api_key, outgoing)
    return ChirpStack(application_id, settings, api_key, outgoing)
