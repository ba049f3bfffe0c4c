"""CSV import of devices with tokens, by the command that an operator uses."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench, Stage, middle
from benchmarks.load import PROFILE
from benchmarks.machine import EndedLap, Lap
from benchmarks.product import Product
from benchmarks.results import Series, result

ROWS = 100_000
MILLION = 1_000_000
LIMIT = 600.0
KEPT_TOKENS = 20_000


def measure(bench: Bench, stage: Stage, product: Product) -> None:
    """Rows a second, from the start of the command to its end; each round adds to what is there."""
    _report(bench, "csv_import", ROWS, [_round(bench, stage, product, ROWS, number) for number in range(bench.rounds)])


def million(bench: Bench, stage: Stage) -> None:
    """A million rows at once, each round into a database of its own that has none."""
    rounds = []
    for number in range(bench.rounds):
        name = f"import_{number}"
        stage.database(name)
        rounds.append(_round(bench, stage, stage.product(name), MILLION, number))
        stage.cluster.drop(name)
    _report(bench, "csv_import_1m", MILLION, rounds)


def _round(bench: Bench, stage: Stage, product: Product, rows: int, number: int) -> tuple[float, dict[str, float]]:
    """Rows a second, and cores. What the command takes counts as the server's."""
    file = bench.folder / "import.csv"
    write(file, rows, f"import-{rows}-{number}")
    begun, laps = time.monotonic(), (EndedLap(), Lap(stage.cluster.pid))
    imported = run(product, file)
    rate = imported / (time.monotonic() - begun)
    cpu = {"server": laps[0].cores(), "postgres": laps[1].cores()}
    file.unlink()
    bench.say(f"CSV import: {rows:,} devices, {rate:,.0f} rows/s")
    return rate, cpu


def _report(bench: Bench, name: str, rows: int, rounds: Sequence[tuple[float, dict[str, float]]]) -> None:
    what = f"CSV import of {rows:,} devices with tokens"
    took = Series.of(rate for rate, _ in rounds)
    bench.results.append(result(name, what, took, "rows/s", cpu=middle([cpu for _, cpu in rounds])))


def devices_with_tokens(bench: Bench, *products: Product) -> Path:
    """Devices for the sections that come back; a file with their tokens, one a line."""
    file, tokens = bench.folder / "known.csv", bench.folder / "tokens"
    write(file, KEPT_TOKENS, "known")
    for product in products:
        run(product, file)
    tokens.write_text("".join(line.split(",")[1] for line in file.read_text().splitlines(keepends=True)[1:]))
    return tokens


def write(file: Path, rows: int, prefix: str) -> None:
    """Names and tokens of devices that no other file has."""
    with file.open("w") as lines:
        lines.write("name,token\n")
        lines.writelines(f"{prefix}-{number:08},{prefix:->20}{number:012}\n" for number in range(rows))


def run(product: Product, file: Path) -> int:
    """Import a file; how many devices it had."""
    imported: int = product.cli("device", "import", file, "--profile", PROFILE, limit=LIMIT)["imported"]
    return imported
