"""How things are: how far devices have come, what becomes of their requests, which provision keys end."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from provserver.admin.fields import Answer, Query
from provserver.admin.route import Call, route
from provserver.core import explanation
from provserver.core.authorization import Permission
from provserver.services.overview import BudgetRow, Funnel, Series

MAX_REASONS = 12

Hours = Annotated[Literal[1, 24, 168, 720], Meta(description="How many hours to look back.")]


class OverviewQuery(Query, frozen=True):
    """How far back attempts are counted."""

    hours: Hours = 24


class FunnelAnswer(Answer, frozen=True):
    """How many devices have come how far.

    made: devices, and static tokens whose devices are not there yet. devices: those of them that are there.
    provisioned: devices that have been provisioned, or come of a static token. connected: devices that have connected
    at least once. online: that are connected now. claimed: that a user owns, that another organization than their
    maker holds, or whose static token is claimed. at: when they were counted.
    """

    at: datetime
    made: int
    devices: int
    provisioned: int
    connected: int
    online: int
    claimed: int


class OutcomeAnswer(Answer, frozen=True):
    """How many attempts had an outcome. counts: in each part of the time."""

    outcome: str
    total: int
    counts: Sequence[int]


class ReasonAnswer(Answer, frozen=True):
    """How many attempts were refused for a reason. text, advice: in words; null for a reason of another version."""

    reason: str
    text: str | None
    advice: str | None
    total: int
    counts: Sequence[int]


class SeriesAnswer(Answer, frozen=True):
    """What became of attempts. times: when each part begins, in seconds since the epoch; step: how long it lasts.

    The last part is not over. refused: the reasons, the most frequent first; other: how many had yet others. at: when
    they were counted.
    """

    at: datetime
    hours: int
    step: int
    times: Sequence[int]
    total: int
    outcomes: Sequence[OutcomeAnswer]
    refused: Sequence[ReasonAnswer]
    other: int


class BudgetAnswer(Answer, frozen=True):
    """A provision key with bounds. uses: counted while maxUses bounds them.

    state: `ending` within two weeks, or with 80 % of its uses used; `expired`, `used_up`, `not_yet_valid` or `valid`.
    """

    key: str
    profile_id: UUID
    profile: str
    organization_id: UUID
    uses: int
    max_uses: int | None
    per_minute: int | None
    not_before: datetime | None
    not_after: datetime | None
    state: Literal["ending", "expired", "used_up", "not_yet_valid", "valid"]


class OverviewAnswer(Answer, frozen=True):
    """How things are. counting: some figures are null, as they are being counted for the first time: ask again.

    attempts, keys: null for who may not see profiles. keys: those with bounds, the ten that end next.
    """

    funnel: FunnelAnswer | None
    attempts: SeriesAnswer | None
    keys: Sequence[BudgetAnswer] | None
    counting: bool


async def show_overview(call: Call[OverviewQuery, None]) -> OverviewAnswer:
    """Show how far devices have come, what becomes of attempts, and which provision keys end next.

    Counts are up to a few seconds old, with millions of devices up to a few minutes; `at` says when they were made.
    """
    found = await call.services.overview.show(call.principal, call.query.hours)
    sees = Permission.PROFILES_VIEW in call.principal.permissions
    return OverviewAnswer(
        None if found.funnel is None else _funnel(found.funnel),
        None if found.attempts is None else _series(found.attempts),
        None if found.keys is None else [_budget(each) for each in found.keys],
        found.funnel is None or (sees and found.attempts is None),
    )


def _funnel(funnel: Funnel) -> FunnelAnswer:
    return FunnelAnswer.of(funnel)


def _budget(row: BudgetRow) -> BudgetAnswer:
    return BudgetAnswer.of(row)


def _series(series: Series) -> SeriesAnswer:
    outcomes = [OutcomeAnswer(name, sum(counts), counts) for name, counts in _ordered(series.outcomes)]
    reasons = [ReasonAnswer(name, *_words(name), sum(counts), counts) for name, counts in _ordered(series.reasons)]
    times = [series.begin + series.step * place for place in range(series.hours * 3_600 // series.step)]
    return SeriesAnswer(
        series.at,
        series.hours,
        series.step,
        times,
        sum(each.total for each in outcomes),
        outcomes,
        reasons[:MAX_REASONS],
        sum(each.total for each in reasons[MAX_REASONS:]),
    )


def _ordered(counts: Mapping[str, Sequence[int]]) -> list[tuple[str, Sequence[int]]]:
    """The most frequent first."""
    return sorted(counts.items(), key=lambda each: (-sum(each[1]), each[0]))


def _words(name: str) -> tuple[str | None, str | None]:
    """What a reason says, and what an operator can do."""
    try:
        reason = explanation.read(name)
    except KeyError:
        return None, None
    text = reason.value if isinstance(reason, explanation.Word) else reason.text
    return text, explanation.ADVICE[reason].text


ROUTES = [route("GET", "/overview", Permission.DEVICES_VIEW, show_overview)]
