"""What generators and pgbench print is read as it is meant."""

import pytest

from benchmarks.load import measurement, pgbench_rate
from benchmarks.machine import Broken

LINE = (
    '{"done": 10, "failed": 1, "retried": 2, "lost": 3, "seconds": 2.0, "rate": 5.0, "cpu": 0.25, "p50": 1.5, '
    '"p90": 2.0, "p99": 3.0, "p999": 4.0, "max": 5.0}\n'
)

SUMMARY = """number of transactions actually processed: 3000
tps = 1000.000000 (without initial connection time)
"""


def test_a_generators_line() -> None:
    measured = measurement(LINE, 0.5, 0.75)
    assert (measured.done, measured.failed, measured.retried, measured.lost) == (10, 1, 2, 3)
    assert (measured.rate, measured.p50, measured.p99, measured.max) == (5.0, 1.5, 3.0, 5.0)
    assert (measured.load_cpu, measured.server_cpu, measured.postgres_cpu) == (0.25, 0.5, 0.75)


def test_the_first_second_of_pgbench_does_not_count() -> None:
    progress = "progress: 1.0 s, 500.0 tps, lat 1.0 ms stddev 0.1, 0 failed\nprogress: 2.0 s, 9.0 tps\n"
    assert pgbench_rate(SUMMARY, progress) == pytest.approx(1250)


@pytest.mark.parametrize(("summary", "progress"), [("", "progress: 1.0 s, 5.0 tps"), (SUMMARY, "")])
def test_a_pgbench_that_says_nothing_is_broken(summary: str, progress: str) -> None:
    with pytest.raises(Broken):
        pgbench_rate(summary, progress)
