import os

import pytest

from provserver.core import credentials as building
from provserver.core.ids import uuid7
from provserver.core.model import CredentialsType
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.services.credentials import open_credentials, seal_credentials


def test_sealed_credentials_open_for_their_device_and_type_only() -> None:
    keys, others = (ServerKeys({1: os.urandom(32)}, {1: os.urandom(32)}) for _ in range(2))
    device, stranger = (uuid7(0, os.urandom) for _ in range(2))
    for credentials in (
        building.access_token("secret"),
        building.mqtt_basic("client", "user", "secret"),
        building.certificate("c2VjcmV0"),
    ):
        sealed = seal_credentials(keys, device, credentials, os.urandom)

        assert b"secret" not in sealed
        assert open_credentials(keys, device, credentials.type, sealed) == credentials
        assert sealed != seal_credentials(keys, device, credentials, os.urandom)
        wrong = next(type_ for type_ in CredentialsType if type_ is not credentials.type)
        for args in (
            (keys, stranger, credentials.type, sealed),
            (keys, device, wrong, sealed),
            (others, device, credentials.type, sealed),
            (keys, device, credentials.type, sealed[:-1]),
        ):
            with pytest.raises(Unsealable):
                open_credentials(*args)
