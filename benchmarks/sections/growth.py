"""Whether provisioning slows down as devices accumulate: 10 thousand, 1 million, 5 million."""

from functools import partial

from benchmarks import load, svg
from benchmarks.bench import Bench, Stage, cores, rates
from benchmarks.load import Measurement
from benchmarks.results import result

SIZES = {"10k": 10_000, "1m": 1_000_000, "5m": 5_000_000}
_CHUNK = 250_000

# What provisioning them would have left, names and digests scattered as theirs are.
_FILL = (
    """
    CREATE TEMP TABLE made AS SELECT uuidv7() AS id, p.organization_id, p.id AS profile_id,
        'fill-' || encode(substr(sha256(int8send(n)), 1, 8), 'hex') AS name
    FROM generate_series({first}::bigint, {last}::bigint) AS n, device_profile p WHERE p.name = 'bench'
    """,
    """
    INSERT INTO device (id, organization_id, profile_id, name) SELECT id, organization_id, profile_id, name FROM made
    """,
    """
    INSERT INTO credentials (id_digest, device_id, type, origin, sealed)
    SELECT sha256(uuid_send(id)), id, 'ACCESS_TOKEN', 'generated', decode(repeat('5a', 100), 'hex') FROM made
    """,
    """
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT id, 'SERVER', 'provisionState', '"provisioned"' FROM made
    """,
    """
    INSERT INTO attempt (id, transport, address, outcome, profile_id, device_id, device_name)
    SELECT uuidv7(), 'HTTP', '127.0.0.1', 'success', profile_id, id, name FROM made
    """,
    """
    INSERT INTO outbox (id, device_id, type, payload)
    SELECT uuidv7(), id, 'device.provisioned', jsonb_build_object('deviceId', id::text, 'deviceName', name,
        'profileId', profile_id::text, 'credentialsType', 'ACCESS_TOKEN', 'transport', 'HTTP') FROM made
    """,
    "DROP TABLE made",
)


def measure(bench: Bench) -> None:
    """A database of each size in one Postgres; they take turns, each time with a server that has just started."""
    with bench.cluster("growth") as stage:
        for name, size in SIZES.items():
            stage.database(f"devices_{name}")
            fill(bench, stage, f"devices_{name}", size)
        stage.cluster.execute("ALTER DATABASE devices_10k RENAME TO few")  # its copies are used up one by one
        rounds = bench.take_turns("growth", {name: partial(_turn, bench, stage, name) for name in SIZES})
    reference = rates(rounds["10k"])
    for name in ("1m", "5m"):
        bench.results.append(
            result(
                f"growth_{name}",
                f"HTTP provisions with {SIZES[name]:,} devices there",
                rates(rounds[name]),
                "provisions/s",
                reference=reference,
                reference_name=f"with {SIZES['10k']:,}",
                cpu=cores(rounds[name]),
            )
        )
    bench.plots["growth"] = svg.bars(
        "HTTP provisions per second by devices that exist",
        {name: {"provisions/s": rates(each).median} for name, each in rounds.items()},
    )


def fill(bench: Bench, stage: Stage, database: str, size: int) -> None:
    """Put devices into a database."""
    for first in range(1, size + 1, _CHUNK):
        last = min(first + _CHUNK - 1, size)
        stage.cluster.execute(*(each.format(first=first, last=last) for each in _FILL), database=database)
        if last % 1_000_000 == 0:
            bench.say(f"growth: {last:,} of {size:,} devices")
    stage.cluster.settle(database)


def _turn(bench: Bench, stage: Stage, name: str) -> Measurement:
    database = f"devices_{name}"
    if name == "10k":
        stage.cluster.create(database, "few")
    with stage.product(database) as product:
        asked = load.http(product.port("http"))
        measured = asked.run(server=product.pid, postgres=stage.cluster.pid, seconds=bench.seconds, warmup=1)
    if name == "10k":
        stage.cluster.drop(database)
    return measured
