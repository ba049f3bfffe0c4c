"""A process that provisions, and dies at a point: `-m tests.faults.killed DSN KEYS`.

Reads commands from stdin, a JSON object a line: rounds (lists of requests; a round is asked at once, when the one
before has its answers), point and moment to die at, or none. Runs each in a fork of its own: so a start costs nothing.
Writes to stdout, a JSON array a line: ["answer", the request's place, outcome, body] as a device would hear it,
["passed", point, moment] when it is to survive, and at the end ["over", status].
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tests.faults.points import Root, install, reached

ROOTS = (Root("provserver.services.provisioning", "Provisioning"),)
"""Whose awaits these are."""

NOT_ON_THE_WAY = (
    *("services.clones:Clones._watch", "services.clones:Clones._judge"),  # for sessions
    "store.database:Database.transaction",  # it is a connection's own that is asked for
)
"""What is named on the way, and not come to."""


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


def tell(*what: object) -> None:
    """In one write: what was told before death was told."""
    os.write(1, json.dumps(what).encode() + b"\n")


async def run(dsn: str, keys: str, rounds: list[list[str]]) -> None:
    """As a server does it."""
    from provserver.core.model import Peer, Transport
    from provserver.services.provisioning import Provisioning
    from provserver.store import keyfile
    from provserver.store.database import Database

    database = Database(dsn, size=2, serving=True)
    await database.open()
    provisioning = Provisioning(database, keyfile.load_or_create(Path(keys)))
    peer = Peer(Transport.HTTP, "192.0.2.7")

    async def ask(place: list[int], request: str) -> None:
        answer = await provisioning.answer(request.encode(), peer)
        tell("answer", place, answer.outcome.value, answer.body.decode())

    for number, round_ in enumerate(rounds):
        asks = [ask([number, each], request) for each, request in enumerate(round_)]
        await asyncio.gather(*asks, provisioning.drain())  # as a server that ends while devices ask
    await provisioning.drain()
    await database.close()


def main(dsn: str, keys: str) -> None:
    """Fork for each command."""
    death = Death()
    install(reached(*ROOTS, without=NOT_ON_THE_WAY), death.passed)
    import provserver.services.provisioning
    import provserver.store.keyfile  # noqa: F401 - before the forks

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
