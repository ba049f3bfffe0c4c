"""What becomes of a job."""

from enum import StrEnum


class JobState(StrEnum):
    """How a job stands. waiting: for its turn, or to be tried again. cancelled: by somebody, and undone."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({JobState.WAITING, JobState.RUNNING})
"""Of jobs that have not ended."""
