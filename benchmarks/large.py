"""What grows with the number of crystals: ingest, disk, opening, and the memory and steps of training.

    python benchmarks/large.py --data mp_cgcnn.parquet --folder large --out benchmarks/results/large.json \
        --figure docs/images/large.svg

Crystals are made from those of a table: each element gives way to one of its group, and the cell follows the radii.
They are written as CIF text into a Parquet table, which is ingested as a user's would be; of more than `--text` they
come as objects in their canonical cells, since reading text costs each crystal the same. Every stage runs in a process
of its own. Memory is what Linux tells of that process every tenth of a second: `resident` counts pages of files, such
as libraries, which the system takes back whenever it needs room, `anonymous` does not. Steps of the smallest and of the
largest data set are compared in turns, without a look at memory, which costs time, since a busy machine moves them by
more. What steps read is in the system's cache, as it would stay on a machine that has room for it.
"""

import json
import os
import re
import shutil
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from machine import about, parser_of, publish
from matplotlib.figure import Figure

from crystalmax import elements
from crystalmax.crystal import Crystal, Occupant
from crystalmax.fingerprint import fingerprint_of
from crystalmax.learning.pretraining import pretrain
from crystalmax.learning.saving import Interrupted
from crystalmax.plots import BLUE, INK, ORANGE, STYLE, style, svg
from crystalmax.reading.duplicates import without_duplicates
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.reading.records import Record
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import CrystalDataset

GROUPS = (
    "Li Na K Rb Cs|Be Mg Ca Sr Ba|Sc Y La Ce Pr Nd Sm Gd Tb Dy Ho Er Tm Yb Lu|Ti Zr Hf|V Nb Ta|Cr Mo W|Mn Tc Re|"
    "Fe Ru Os|Co Rh Ir|Ni Pd Pt|Cu Ag Au|Zn Cd Hg|B Al Ga In Tl|C Si Ge Sn Pb|N P As Sb Bi|O S Se Te|F Cl Br I"
)
GROUP_OF = {symbol: group.split() for group in GROUPS.split("|") for symbol in group.split()}
RADIUS = dict(zip(elements.SYMBOLS, elements.table()[:, elements.FEATURES.index("radius")], strict=True))
ROWS = 10_000  # of the table that are made at once
WARM_UP = 20  # steps that are not timed

Measured = dict[str, Any]


def main() -> None:
    """Every stage at every size; what a file of results holds already is kept."""
    parser = parser_of(__doc__, crystals=8_000)
    parser.add_argument("--folder", type=Path, required=True, help="where tables and data sets go; some gigabytes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--text", type=int, default=100_000, help="largest size that is ingested from CIF text")
    parser.add_argument("--fingerprints", type=int, default=10_000, help="largest size for `ingest --unique`")
    parser.add_argument("--statistics", type=int, default=10_000, help="largest size for which they are not made up")
    parser.add_argument("--turns", type=int, default=5, help="of steps of the smallest and the largest; 0 for none")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    rows, turns = {row["crystals"]: row for row in known.get("sizes", [])}, known.get("turns", {})
    for size in options.sizes:
        row = rows.setdefault(size, {"crystals": size})
        for name, stage in stages(options, size).items():
            if name not in row:
                row[name] = alone(*stage)
                keep(options, rows, turns)
    if options.turns:
        turns = {recipe: in_turns(options, recipe) for recipe in ("infomax", "intrinsic")}
        turns["stages_of"] = known.get("commit")  # those that were kept
        keep(options, rows, turns)
    if options.figure:
        options.figure.write_text(svg(draw(sorted(rows.values(), key=lambda row: row["crystals"])), "large"))


def keep(options: Namespace, rows: dict[int, Measured], turns: Measured) -> None:
    """Print and write everything so far."""
    found = {"data": options.data.stem, "steps": options.steps, "sizes": list(rows.values()), "turns": turns}
    publish({**about(), **found}, options.out)


def stages(options: Namespace, size: int) -> dict[str, tuple[object, ...]]:
    """What is measured at this size, in order: a function and its arguments."""
    table, data, run = (options.folder / f"{size}{suffix}" for suffix in (".parquet", "", "_run"))
    found: dict[str, tuple[object, ...]] = {}
    if size <= options.text:
        found["table"] = (write_table, options.data, options.crystals, size, table)
        found["ingest"] = (ingested, table, data, False)
    else:
        found["ingest_objects"] = (ingested_objects, options.data, options.crystals, size, data)
    found |= {"open": (opened, data), "infomax": (trained, data, run, "infomax", options.steps)}
    if size <= options.fingerprints:
        found["ingest_unique"] = (ingested, table, options.folder / f"{size}_unique", True)
    if size <= options.statistics:
        found["intrinsic"] = (trained, data, run, "intrinsic", options.steps)
    else:
        found["intrinsic_made_up"] = (trained_on_made_up_numbers, data, run, options.steps)
    return found


def in_turns(options: Namespace, recipe: str) -> Measured:
    """CPU time of a step from the smallest and the largest data set in turns; numbers to tell are made up in both."""
    train = trained_on_made_up_numbers if recipe == "intrinsic" else partial(trained, recipe=recipe)
    sizes = min(options.sizes), max(options.sizes)
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(options.turns):
        for size in sizes:
            data, run = options.folder / f"{size}", options.folder / f"{size}_turn"
            found[size].append(apart(train, data, run, steps=options.steps)["step_cpu_ms"])
    small, large = (float(np.median(each)) for each in found.values())
    return {"step_cpu_ms": found, "ratio": round(large / small, 3)}


def into_cache(folder: Path) -> None:
    """Read all files once, since the system forgets what nobody has read for a while."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass


def draw(rows: list[Measured]) -> Figure:
    """Memory and throughput against the number of crystals."""
    sizes = [row["crystals"] for row in rows]
    with style.context(STYLE):
        figure = Figure(figsize=(7.4, 3.0), layout="constrained", facecolor="white")
        memory, rates = figure.subplots(1, 2)
        stores = [row.get("ingest") or row["ingest_objects"] for row in rows]
        memory.loglog(sizes, [store["bytes"] / 2**20 for store in stores], "s--", color=INK, label="data set on disk")
        runs = {"training": ([row["infomax"] for row in rows], BLUE), "ingest": (stores, ORANGE)}
        for name, (found, color) in runs.items():
            for kind, line in (("resident", "o-"), ("anonymous", "o:")):
                values = [one["MiB_most"][kind] for one in found]
                memory.loglog(sizes, values, line, color=color, label=f"{name}, {kind}", markersize=4)
        memory.set(xlabel="crystals", ylabel="MiB", title="memory")
        memory.legend(fontsize=7)
        for name, stage, color in (("ingest of CIF text", "ingest", ORANGE), ("training", "infomax", BLUE)):
            found = [(row["crystals"], row[stage]["crystals_per_cpu_second"]) for row in rows if stage in row]
            rates.semilogx(*zip(*found, strict=True), "o-", color=color, label=name, markersize=4)
        rates.set(xlabel="crystals", ylabel="crystals per CPU second", title="throughput", ylim=(0, None))
        rates.legend(fontsize=7)
    return figure


def alone(stage: Callable[..., Measured], *arguments: object) -> Measured:
    """What a stage gives, run in a process of its own, with the memory that it took."""
    return apart(watched, stage, arguments)


def apart(stage: Callable[..., Measured], *arguments: object, **options: object) -> Measured:
    """What a stage gives, run in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(stage, *arguments, **options).result()


def watched(stage: Callable[..., Measured], arguments: tuple[object, ...]) -> Measured:
    """A stage, and its memory in MiB: before it began, and the most until it ended."""
    before, most, ended = memory(), memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for name, value in memory().items():
                most[name] = max(most[name], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found = stage(*arguments)
    ended.set()
    watcher.join()
    return {**found, "MiB_before": before, "MiB_most": most}


def memory() -> dict[str, int]:
    """Of this process, in MiB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = {name: int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) for name in ("Rss", "Anonymous")}
    return {"resident": kilobytes["Rss"] >> 10, "anonymous": kilobytes["Anonymous"] >> 10}


def few(source: Path, count: int) -> pd.DataFrame:
    """Some real crystals, drawn from those with at most 50 sites."""
    table = pd.read_parquet(source, columns=["cif", "n_sites"])
    return table[table.n_sites <= 50][["cif"]].sample(count, random_state=0)


def write_table(source: Path, n_base: int, size: int, path: Path) -> Measured:
    """Crystals as CIF text in Parquet, with a name and a label."""
    base = [parsed(cif) for cif in few(source, n_base).cif]
    rng = Random(0)
    schema = pa.schema({"material_id": pa.string(), "cif": pa.string(), "label": pa.float64()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, size, ROWS):
            numbers = range(begin, min(begin + ROWS, size))
            texts = [substituted(*base[number % len(base)], rng) for number in numbers]
            columns = [[f"made-{number}" for number in numbers], texts, [rng.gauss() for _ in numbers]]
            writer.write_table(pa.table(columns, schema=schema))
    return {"bytes": path.stat().st_size}


def parsed(cif: str) -> tuple[str, list[float], list[tuple[str, str]]]:
    """Lines that stay as they are, lengths of the cell, and symbol and place of each site."""
    lines = [line for line in cif.splitlines() if not line.startswith(("#", "_chemical", "_cell_volume"))]
    lengths = [float(line.split()[1]) for line in lines if line.startswith("_cell_length")]
    begin = max(number for number, line in enumerate(lines) if line.startswith(" _atom_site")) + 1
    head = [line for line in lines[:begin] if not line.startswith("_cell_length")]
    sites = [line.split() for line in lines[begin:] if line.strip()]
    return "\n".join(head), lengths, [(symbol, " ".join(rest)) for symbol, _, *rest in sites]


def exchanged(symbols: Iterable[str], rng: Random) -> dict[str, str]:
    """For each of these elements one of its group."""
    others = {symbol: rng.choice(GROUP_OF.get(symbol, [symbol])) for symbol in symbols}
    return others if len(set(others.values())) == len(others) else dict(zip(others, others, strict=True))


def made(base: list[Crystal], size: int) -> Iterator[Record]:
    """Crystals with other elements of the same groups."""
    rng = Random(0)
    for number in range(size):
        crystal = base[number % len(base)]
        symbols = [elements.SYMBOLS[kind[0].atomic_number - 1] for kind in crystal.kinds]
        others = exchanged(symbols, rng)
        radii = [[RADIUS[name] for name in names] for names in (symbols, others.values())]
        before, after = (np.take(each, crystal.species).sum() for each in radii)
        kinds = tuple((Occupant(elements.ATOMIC_NUMBERS[name], 1.0),) for name in others.values())
        lattice = crystal.lattice * (after / before * rng.uniform(0.97, 1.03))
        key = f"made-{number}"
        yield Record(
            key, "made", replace(crystal, lattice=lattice, kinds=kinds, key=key, targets={"label": rng.gauss()})
        )


def ingested_objects(source: Path, n_base: int, size: int, out: Path) -> Measured:
    """Crystals are made and stored in one process, those that they are made from read first."""
    shutil.rmtree(out, ignore_errors=True)
    records = canonical_records(few(source, n_base), n_jobs=1)
    base = [record.crystal for record in records if record.crystal is not None]
    began, cpu = time.perf_counter(), time.process_time()
    data, _, _ = ingest(made(base, size), out, made_from=["made"])
    return stored(data, size, out, time.perf_counter() - began, time.process_time() - cpu)


def substituted(head: str, lengths: list[float], sites: list[tuple[str, str]], rng: Random) -> str:
    """The crystal with other elements of the same groups, as CIF text."""
    others = exchanged(dict(sites), rng)
    scale = sum(RADIUS[others[symbol]] for symbol, _ in sites) / sum(RADIUS[symbol] for symbol, _ in sites)
    scale *= rng.uniform(0.97, 1.03)
    cell = [f"_cell_length_{axis}   {length * scale:.8f}" for axis, length in zip("abc", lengths, strict=True)]
    rows = [f"  {others[symbol]}  {others[symbol]}{n}  {rest}" for n, (symbol, rest) in enumerate(sites)]
    first, rest = head.split("\n", 1)
    return "\n".join([first, *cell, rest, *rows, ""])


def ingested(table: Path, out: Path, unique: bool) -> Measured:
    """One process reads the table into a data set."""
    shutil.rmtree(out, ignore_errors=True)
    began, cpu = time.perf_counter(), time.process_time()
    records = canonical_records(table, mark=fingerprint_of if unique else None, n_jobs=1)
    data, n_skipped, _ = ingest(without_duplicates(records) if unique else records, out, made_from=[table.name])
    return stored(data, len(data) + n_skipped, out, time.perf_counter() - began, time.process_time() - cpu)


def stored(data: CrystalDataset, n_given: int, out: Path, seconds: float, cpu: float) -> Measured:
    """Size and rate of an ingested data set."""
    return {
        "kept": len(data),
        "sites": len(data.species),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "crystals_per_cpu_second": round(n_given / cpu),
    }


def opened(path: Path) -> Measured:
    """Opening, and the first batch."""
    began = time.perf_counter()
    data = CrystalDataset.open(path)
    seconds = time.perf_counter() - began
    data.batch(np.arange(0, len(data), len(data) // 64))
    return {"seconds": round(seconds, 4), "seconds_with_a_batch": round(time.perf_counter() - began, 4)}


def trained_on_made_up_numbers(path: Path, run: Path, steps: int) -> Measured:
    """The recipe `intrinsic` with random numbers in the place of statistics: memory and steps are the same."""
    baselines.statistics = made_up
    return trained(path, run, "intrinsic", steps)


def made_up(crystals: Sequence[Crystal], blocks: Collection[str]) -> baselines.Features:
    """As many numbers as there are statistics in these blocks."""
    width = sum(len(baselines.BLOCKS[name]([])[1]) for name in blocks)
    return np.random.default_rng(len(crystals[0].species)).normal(size=(len(crystals), width)), ()


def trained(path: Path, run: Path, recipe: str, steps: int) -> Measured:
    """Training as a user begins it, interrupted after some steps."""
    shutil.rmtree(run, ignore_errors=True)
    times: list[tuple[float, float, int]] = []
    batch = CrystalDataset.batch

    def timed(data: CrystalDataset, rows: np.ndarray) -> object:
        if not times:
            into_cache(path)
            into_cache(run)
        times.append((time.perf_counter(), time.process_time(), len(rows)))
        if len(times) == WARM_UP + steps:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(data, rows)

    CrystalDataset.batch = timed
    began = time.perf_counter(), time.process_time()
    with suppress(Interrupted):
        pretrain(CrystalDataset.open(path), run, recipe=recipe, epochs=1000)
    shutil.rmtree(run)
    wall, cpu, crystals = (np.array(column) for column in zip(*times[WARM_UP:], strict=True))
    return {
        "step_ms": round(float(np.median(np.diff(wall))) * 1e3, 1),
        "step_cpu_ms": round(float(np.median(np.diff(cpu))) * 1e3, 1),
        "crystals_a_step": round(float(crystals.mean()), 1),
        "crystals_per_cpu_second": round(float(crystals[:-1].sum() / (cpu[-1] - cpu[0]))),
        "seconds_until_the_first": round(times[0][0] - began[0], 1),
        "cpu_seconds_until_the_first": round(times[0][1] - began[1], 1),
    }


if __name__ == "__main__":
    main()
