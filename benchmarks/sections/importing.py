"""CSV import of devices with tokens, by the command that an operator uses."""

import time
from pathlib import Path

from benchmarks.bench import Bench, Stage, middle
from benchmarks.load import PROFILE
from benchmarks.machine import EndedLap, Lap
from benchmarks.product import Product
from benchmarks.results import Series, result

ROWS = 100_000
LIMIT = 600.0
KEPT_TOKENS = 20_000


def measure(bench: Bench, stage: Stage, product: Product, rows: int = ROWS, rounds: int | None = None) -> None:
    """Rows a second, from the start of the command to its end. What the command takes counts as the server's."""
    took: list[float] = []
    cpu: list[dict[str, float]] = []
    for number in range(rounds or bench.rounds):
        file = bench.folder / "import.csv"
        write(file, rows, f"import-{rows}-{number}")
        begun, laps = time.monotonic(), (EndedLap(), Lap(stage.cluster.pid))
        imported = run(product, file)
        took.append(imported / (time.monotonic() - begun))
        cpu.append({"server": laps[0].cores(), "postgres": laps[1].cores()})
        file.unlink()
        bench.say(f"CSV import: {rows:,} devices, {took[-1]:,.0f} rows/s")
    name = "csv_import" if rows == ROWS else f"csv_import_{rows // 1_000_000}m"
    what = f"CSV import of {rows:,} devices with tokens"
    bench.results.append(result(name, what, Series.of(took), "rows/s", cpu=middle(cpu)))


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
