"""A power cut in a city: 10,000 devices with client certificates come at once, over TLS; first new, then known."""

from benchmarks import certificates
from benchmarks.bench import Bench, Stage, cores
from benchmarks.load import Measurement
from benchmarks.results import Series, result
from benchmarks.sections.sessions import held

DEVICES = 10_000
PATIENCE = 110


def measure(bench: Bench, stage: Stage) -> None:
    """Until everybody has a session; who fails comes again two seconds after it began."""
    devices = certificates.make(bench.folder, "storm", DEVICES, issued=True)
    stage.database("storm")
    product = stage.product("storm", tls=True)
    product.make_certificates()
    options = ("--tls", "--again", "--username", "", "--certificates", devices.der, "--private-key", devices.key)
    with product:
        product.cli("profile", "create", "storm", "--strategy", "x509-chain", "--ca", devices.trusted)
        for name, what in (
            ("storm_new", f"{DEVICES:,} TLS devices with client certificates at once, not known yet"),
            ("storm_known", f"{DEVICES:,} TLS devices with client certificates at once, known"),
        ):
            limits = ("--patience", PATIENCE)
            with held(
                *(bench, stage, product, product.port("mqtts"), DEVICES), *options, *limits, at_once=DEVICES
            ) as opened:
                _report(bench, name, what, opened)


def _report(bench: Bench, name: str, what: str, opened: Measurement) -> None:
    bench.say(f"storm: {what}: {opened.seconds:.1f} s, {opened.retried} came again")
    note = f"{opened.rate:,.0f} devices/s; p50 {opened.p50 / 1000:.1f} s; {opened.retried} came again; one key for all"
    what = f"{what}: until the last has its session"
    bench.results.append(result(name, what, Series.of([opened.seconds]), "s", note=note, cpu=cores([opened])))
