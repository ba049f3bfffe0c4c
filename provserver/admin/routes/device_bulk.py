"""The same done to many devices."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from provserver.admin import problem
from provserver.admin.fields import PRINTABLE, Answer, Body, Reference
from provserver.admin.route import Call, Reply, route
from provserver.core.authorization import Permission
from provserver.core.model import CredentialsType
from provserver.services.device_bulk import MAX_DEVICES, Act, Deed
from provserver.services.device_bulk import Outcome as Came
from provserver.services.devices import MAX_REASON


class BulkAct(Body, frozen=True):
    """What to do to which devices, by their ids.

    reason: of a quarantine. overlap: seconds for which credentials stay good that are rotated. rotate: release with new
    tokens. user, organization: who gets them; keepData: with what they have sent. fromNetwork: delete also what was
    made of them in their network, where something was.
    """

    act: Act
    devices: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=MAX_DEVICES)]
    reason: Annotated[str, Meta(max_length=MAX_REASON, pattern=PRINTABLE)] = ""
    overlap: Annotated[int, Meta(ge=0, le=31_557_600)] | UnsetType = UNSET
    rotate: bool = False
    user: Reference | UnsetType = UNSET
    organization: Reference | UnsetType = UNSET
    keep_data: bool = False
    from_network: bool = False


class BulkProblem(Answer, frozen=True):
    """Why a device was left as it is. code, detail: as of a problem of its own."""

    code: str
    detail: str


class BulkOutcome(Answer, frozen=True):
    """What came of it for one device. name: null where there is no such device. problem: null where it was done.

    accessToken: a new one, shown this once.
    """

    id: UUID
    name: str | None
    problem: BulkProblem | None
    access_token: str | None


class BulkAnswer(Answer, frozen=True):
    """What came of it, device by device, in the order in which they were named. done: for how many it was done."""

    done: int
    outcomes: Sequence[BulkOutcome]


async def act_on_devices(call: Call[None, BulkAct]) -> Reply[BulkAnswer]:
    """Do the same to up to 500 devices, each on its own: what one refuses is told of that one, and stops no other."""
    body = call.body
    deed = Deed(
        body.act,
        body.reason,
        None if body.overlap is UNSET else timedelta(seconds=body.overlap),
        body.rotate,
        body.user or None,
        body.organization or None,
        body.keep_data,
        body.from_network,
    )
    came = await call.services.device_bulk.do(call.principal, deed, body.devices)
    return Reply(BulkAnswer(sum(each.problem is None for each in came), [_outcome(each) for each in came]))


def _outcome(came: Came) -> BulkOutcome:
    fault, token = came.problem, came.token
    shown = token.id if token is not None and token.type is CredentialsType.ACCESS_TOKEN else None
    why = None if fault is None else BulkProblem(problem.code_of(fault), str(fault))
    return BulkOutcome(came.device_id, came.name, why, shown)


ROUTES = [
    route(
        "POST",
        "/devices/bulk",
        Permission.DEVICES_MANAGE,
        act_on_devices,
        status=200,
        creates=True,
        problems=("invalid",),
        example={"act": "revoke", "devices": ["01a20420-f623-7673-b1db-d45e88739428"]},
    ),
]
