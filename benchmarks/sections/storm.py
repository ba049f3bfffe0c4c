"""A power cut in a city: 10,000 devices with client certificates come at once, over TLS; first new, then known."""

from statistics import median

from benchmarks import certificates
from benchmarks.bench import Bench, Stage, cores
from benchmarks.certificates import Certificates
from benchmarks.load import Measurement
from benchmarks.results import Series, result
from benchmarks.sections.sessions import held

DEVICES = 10_000
PATIENCE = 110


def measure(bench: Bench, stage: Stage) -> None:
    """Until everybody has a session; who fails comes again two seconds after it began.

    Each round has a database and a server of its own, so that devices are new again.
    """
    devices = certificates.make(bench.folder, "storm", DEVICES, issued=True)
    rounds = [_round(bench, stage, devices, f"storm_{number}") for number in range(bench.rounds)]
    for name, known, opened in (
        ("storm_new", "not known yet", [each[0] for each in rounds]),
        ("storm_known", "known", [each[1] for each in rounds]),
    ):
        each_second, p50, came_again = (
            median(getattr(each, figure) for each in opened) for figure in ("rate", "p50", "retried")
        )
        note = f"{each_second:,.0f} devices/s; p50 {p50 / 1000:.1f} s; {came_again:,.0f} came again; one key for all"
        what = f"{DEVICES:,} TLS devices with client certificates at once, {known}: until the last has its session"
        took = Series.of(each.seconds for each in opened)
        bench.results.append(result(name, what, took, "s", note=note, cpu=cores(opened)))


def _round(bench: Bench, stage: Stage, devices: Certificates, name: str) -> tuple[Measurement, Measurement]:
    """They come for the first time, and once more."""
    stage.database(name)
    product = stage.product(name, tls=True)
    product.make_certificates()
    options = ("--tls", "--again", "--username", "", "--certificates", devices.der, "--private-key", devices.key)
    limits = ("--patience", PATIENCE)
    times = []
    with product:
        product.cli("profile", "create", "storm", "--strategy", "x509-chain", "--ca", devices.trusted)
        for known in (False, True):
            with held(
                *(bench, stage, product, product.port("mqtts"), DEVICES), *options, *limits, at_once=DEVICES
            ) as opened:
                times.append(opened)
            what = "known" if known else "not known yet"
            bench.say(f"storm: {DEVICES:,} TLS devices, {what}: {opened.seconds:.1f} s, {opened.retried} came again")
    stage.cluster.drop(name)
    return times[0], times[1]
