"""A process that devices come to, and that dies at a point: `-m tests.faults.killed DSN KEYS`.

Reads commands from stdin, a JSON object a line: rounds (lists of asks, as `Desk.answer` takes them; a round is asked at
once, when the one before has its answers), point and moment to die at, or none. Runs each in a fork of its own: so a
start costs nothing. Writes to stdout, a JSON array a line: ["answer", the ask's place, outcome, body] as a device would
hear it, ["passed", point, moment] when it is to survive, and at the end ["over", status].
"""

import asyncio
import base64
import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.points import Root, install, reached

if TYPE_CHECKING:
    from provserver.core.authentication import Denial
    from provserver.core.model import Authenticated, Peer, Transport
    from provserver.core.secrets import ServerKeys
    from provserver.store.database import Database

ROOTS = (
    Root("provserver.services.provisioning", "Provisioning"),
    Root("provserver.services.enrollment", "Enrollment"),
    Root("provserver.services.access", "Access"),
    Root("provserver.services.placeholders", "Placeholders"),
)
"""Whose awaits these are."""

NOT_ON_THE_WAY = (
    "services.clones:Clones._watch",
    "services.clones:Clones._judge",
    "store.organizations:count_tokens",
)
"""What is named on the way, and not come to: the first two are for sessions, the last for who makes static tokens."""

NEVER_PASSED = (
    "services.organizations:check_quota#2",
    "services.organizations:check_quota#5",
    *(f"store.wifi_sessions:end#{number}" for number in range(1, 5)),
    "services.attempts:Attempts._record#4",
    "services.signals:Signals._record#4",
)
"""Single awaits of what is come to, that are for others: who gives devices away or makes static tokens, and who ends a
session of a device that is there: people, the upkeep. The last two write row by row what Postgres has refused as a
group, which no device can bring about.
"""


class Death:
    """What kills the process."""

    def __init__(self) -> None:
        self.at: tuple[str, str] | None = None
        self._told: set[tuple[str, str]] = set()

    def passed(self, point: str, moment: str) -> None:
        if self.at == (point, moment):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.at is None and (point, moment) not in self._told:
            self._told.add((point, moment))
            tell("passed", point, moment)


class Desk:
    """What devices come to, as a server has it. Nothing of it is imported before it is there: see `points.install`."""

    def __init__(self, database: "Database", keys: "ServerKeys", transport: "Transport", address: str) -> None:
        from provserver.core.secrets import ServerKeys
        from provserver.services.access import Access
        from provserver.services.data import Data
        from provserver.services.datastreams import Datastreams
        from provserver.services.enrollment import Enrollment
        from provserver.services.placeholders import Placeholders
        from provserver.services.provisioning import Provisioning

        self._transport, self._address = transport, address
        self._provisioning = Provisioning(database, keys)
        self._enrollment = Enrollment(database, keys)
        self._access = Access(database, keys, self._enrollment)
        self._unaided = Access(database, keys)
        self._data = Data(database, keys)
        self._placeholders = Placeholders(database, keys, self._access, Datastreams(database, self._data))
        digest, sealing = (dict(versions) | {2: bytes(32)} for versions in (keys.digest_keys, keys.sealing_keys))
        self._rotating = Access(database, ServerKeys(digest, sealing, current=1))

    async def answer(self, ask: dict[str, Any]) -> tuple[str, str]:
        """The outcome, and what a device hears.

        ask: one of request (a provision request), chain (certificates in base64; by connect: in a CONNECT), certificate
        (one that nobody is to verify), token (by connect: in a CONNECT; rotating: while the server's keys are rotated;
        template: it says of which it is, once it is let in), identity (of a pre-shared key).
        """
        match ask:
            case {"request": request}:
                answer = await self._provisioning.answer(request.encode(), self._peer())
                return answer.outcome.value, answer.body.decode()
            case {"chain": chain}:
                peer = self._peer(certificates=tuple(map(base64.b64decode, chain)))
                if "connect" in ask:
                    return await _verdict(self._access.with_mqtt("", None, None, peer))
                return await _verdict(self._access.with_channel(peer))
            case {"certificate": der}:
                peer = self._peer(certificates=(base64.b64decode(der),))
                return await _verdict(self._unaided.with_channel(peer))
            case {"token": token, "template": template_id}:
                return await _verdict(self._report(token, template_id))
            case {"token": token}:
                access = self._rotating if "rotating" in ask else self._access
                if "connect" in ask:
                    return await _verdict(access.with_mqtt("client", token, None, self._peer()))
                return await _verdict(access.with_token(token, self._peer()))
            case {"identity": identity}:
                return await _verdict(
                    self._access.with_channel(self._peer(psk=await self._access.shared_key(identity)))
                )
        raise AssertionError(ask)

    async def drain(self) -> None:
        for part in (self._provisioning, self._access, self._unaided, self._rotating, self._enrollment, self._data):
            await part.drain()

    async def _report(self, token: str, template_id: str) -> "Authenticated | Denial":
        from provserver.core.authentication import Denial
        from provserver.core.telemetry import InvalidData

        found = await self._access.with_token(token, self._peer())
        if isinstance(found, Denial) and found is not Denial.UNBOUND:
            return found
        try:
            return await self._placeholders.report(token, template_id, {}, self._peer())
        except InvalidData:
            return Denial.CREDENTIALS

    def _peer(self, **proved: Any) -> "Peer":
        from provserver.core.model import Peer

        return Peer(self._transport, self._address, **proved)


async def _verdict(coming: Any) -> tuple[str, str]:
    from provserver.core.authentication import Denial
    from provserver.errors import Outcome, Unavailable

    try:
        found = await coming
    except Unavailable:
        return Outcome.UNAVAILABLE.value, ""
    if isinstance(found, Denial):
        return Outcome.FAILURE.value, found.name
    return Outcome.SUCCESS.value, str(found.device_id)


def tell(*what: object) -> None:
    """In one write: what was told before death was told."""
    os.write(1, json.dumps(what).encode() + b"\n")


async def run(dsn: str, keys: str, rounds: list[list[dict[str, Any]]]) -> None:
    """As a server does it."""
    from provserver.core.model import Transport
    from provserver.store import keyfile
    from provserver.store.database import Database

    database = Database(dsn, size=2, serving=True)
    await database.open()
    desk = Desk(database, keyfile.load_or_create(Path(keys)), Transport.HTTP, "192.0.2.7")

    async def come(place: list[int], ask: dict[str, Any]) -> None:
        tell("answer", place, *await desk.answer(ask))

    for number, round_ in enumerate(rounds):
        asks = [come([number, each], ask) for each, ask in enumerate(round_)]
        await asyncio.gather(*asks, desk.drain())  # as a server that ends while devices ask
    await desk.drain()
    await database.close()


def main(dsn: str, keys: str) -> None:
    """Fork for each command."""
    death = Death()
    install(reached(*ROOTS, without=NOT_ON_THE_WAY), death.passed)
    import provserver.services.access
    import provserver.services.data
    import provserver.services.datastreams
    import provserver.services.enrollment
    import provserver.services.placeholders
    import provserver.services.provisioning
    import provserver.store.keyfile  # noqa: F401 - before the forks

    gc.collect()
    gc.freeze()  # else each fork copies what its collector looks at
    while line := sys.stdin.readline():
        command = json.loads(line)
        if not (child := os.fork()):
            if "point" in command:
                death.at = (command["point"], command["moment"])
            status = 1
            try:
                asyncio.run(run(dsn, keys, command["rounds"]))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        tell("over", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
