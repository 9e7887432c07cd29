"""Makes the data sets of a study from labelled data: filtered, sampled, with fingerprints, and saved."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from joblib import Parallel, delayed

from crystalmax import __version__
from crystalmax.crystal import Crystal
from crystalmax.fingerprint import Fingerprint
from crystalmax.reading.ingest import canonical_records
from crystalmax.reading.listing import skipped
from crystalmax.reading.records import Record
from crystalmax.reading.tables import identifier_of, read_csv
from crystalmax.spec import build, read_toml
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter
from crystalmax.storage.manifest import MANIFEST, is_dataset
from crystalmax.storage.writing import checksum, stays
from crystalmax.study.matbench import FOLDS, matbench
from crystalmax.study.material import FINGERPRINTS, Material, Property
from crystalmax.study.settings import Budget

log = logging.getLogger(__name__)

Data = pd.DataFrame | CrystalDataset

MATBENCH = "matbench:"
"""Prefix of names of data that are downloaded from Matbench."""

WHOLE_SITES = 50
"""Largest cell for a data set that is taken `whole`, unless the budget allows larger; the limit of supercells."""


@dataclass(frozen=True)
class Source:
    """A data set as settings describe it; `paper.toml` says what the entries mean."""

    name: str
    properties: Mapping[str, str]
    donor: str = ""
    keep: str = ""
    folds: str = ""
    whole: bool = False
    optional: bool = False


def matbench_source(data: str) -> tuple[Source]:
    """The data set of Matbench with this name."""
    name = data.removeprefix(MATBENCH)
    target = next(str(column) for column in matbench(name) if column not in ("structure", "key", FOLDS))
    return (Source(name, {target: ""}, folds=FOLDS),)


def sources_of(settings: str) -> tuple[Source, ...]:
    """The data sets of settings that ship with this package, or of a TOML file."""
    shipped = {path.stem: path for path in Path(__file__).parent.glob("*.toml")}
    path = shipped.get(settings, Path(settings))
    if not path.is_file():
        raise FileNotFoundError(f"no file is called {settings}; give `paper`, or a TOML file like the one it names")
    tables = read_toml(path)
    if not tables:
        raise ValueError(f"{path} names no data set; write them like the settings `paper`")
    found = []
    for name, table in tables.items():
        if not isinstance(table, dict) or not isinstance(table.get("properties"), dict):
            raise ValueError(f'{path}: the data set {name} needs properties = {{ column = "unit" }}')
        if table.get("donor", name) not in tables:
            raise ValueError(f"{path}: the donor {table['donor']!r} of [{name}] is no data set of these settings")
        try:
            source = build({**table, "name": name, "use": f"{__name__}.Source"})
        except ValueError as error:
            raise ValueError(f"{path}: [{name}] cannot be read: {error}") from None
        assert isinstance(source, Source)  # the spec says so
        found.append(source)
    return tuple(found)


def prepare(
    sources: Iterable[Source], data: str, folder: Path, budget: Budget, *, seed: int = 0, n_jobs: int = 1
) -> tuple[Material, ...]:
    """The data sets below `folder`, made from `data` where they are not there yet.

    Raises:
        FileNotFoundError: Data are missing that are not optional.
        ImportError: Data of Matbench are asked for, and matminer is not installed.
        ValueError: A column is missing, no crystal is left, or data are others than those that the study began with.
    """
    found = []
    for source in sources:
        if not stays(source.name):
            raise ValueError(
                f"the data set {source.name!r} cannot be a folder of this name; choose one without / and \\"
            )
        path = folder / source.name
        place = None if data.startswith(MATBENCH) else _place(data, source)
        file = place / MANIFEST if place is not None and place.is_dir() else place
        found_sum = "" if file is None else str(checksum(file)["sha256"])  # tells whether the data are still the same
        if not path.exists():
            if (table := _find(data, source, place)) is None:
                log.info("%s holds no %s; the study goes on without these data", data, source.name)
                continue
            made_from = {"source": source.name, "sha256": found_sum, "crystalmax": __version__}
            _store(table, source, path, budget, seed, n_jobs, made_from)
        elif place is not None and CrystalDataset.open(path).provenance.get("sha256", found_sum) != found_sum:
            raise ValueError(f"{place} is not what {path} was made from; give it as it was, or choose another folder")
        properties = tuple(Property(name, unit) for name, unit in source.properties.items())
        found.append(Material(source.name, path, properties, source.donor or source.name, source.folds))
    return tuple(found)


def _place(data: str, source: Source) -> Path | None:
    """The path of the data set or table, if there is one."""
    path = Path(data) / source.name
    if is_dataset(path):
        return path
    tables = (path.with_name(f"{source.name}{suffix}") for suffix in (".parquet", ".csv"))
    return next((table for table in tables if table.is_file()), None)


def _find(data: str, source: Source, place: Path | None) -> Data | None:
    if data.startswith(MATBENCH):
        return matbench(source.name)
    if place is not None:
        if place.is_dir():
            return CrystalDataset.open(place)
        return read_csv(place) if place.suffix == ".csv" else pd.read_parquet(place)
    if source.optional:
        return None
    name = source.name
    raise FileNotFoundError(f"{data} holds no {name}.parquet, no {name}.csv and no data set {name}")


def _store(
    table: Data, source: Source, path: Path, budget: Budget, seed: int, n_jobs: int, made_from: Mapping[str, str]
) -> None:
    """Write the crystals that settings and budget select, in the order of the source."""
    numbers = _numbers(table)
    rows = _wanted(numbers, source)
    if not isinstance(table, CrystalDataset) and not {"cif", "structure"} & {*table}:
        raise ValueError(f"{source.name} has no column 'cif' among {', '.join(map(str, table))}; add it, with CIF text")
    limit = max(budget.max_sites, WHOLE_SITES) if source.whole else budget.max_sites
    most = None if source.whole else budget.max_crystals
    if most is not None:
        rows = np.random.default_rng(seed).permutation(rows)
    refused: list[Record] = []
    taken = _taken(table, rows, limit, len(rows) if most is None else most, refused, n_jobs)
    if not taken:
        found = f"no crystal of {source.name} with a known property can be read and has at most {limit} sites"
        first = f", such as {refused[0].refusal}" if refused else ""
        raise ValueError(f"{found}; give others, or a larger budget; {len(refused)} of {len(rows)} are refused{first}")
    names = [str(name) for name in numbers]
    crystals = [replace(crystal, targets=dict(zip(names, numbers.iloc[row], strict=True))) for row, crystal in taken]
    fingerprints = Parallel(n_jobs=n_jobs)(delayed(Fingerprint.of)(crystal) for crystal in crystals)
    with DatasetWriter(path, provenance=made_from) as writer:
        for crystal in crystals:
            writer.add(crystal)
        pd.DataFrame([vars(each) for each in fingerprints]).to_parquet(writer.folder / FINGERPRINTS)
        with skipped(writer.folder / "skipped.csv") as add:
            for record in refused:
                add(record)
    log.info("%s: %d crystals with at most %d sites", source.name, len(crystals), limit)


def _numbers(table: Data) -> pd.DataFrame:
    """All columns of numbers, and of true and false, as numbers, NaN where unknown."""
    if isinstance(table, CrystalDataset):
        return pd.DataFrame(table.target[:], columns=list(table.target_names))
    # Of true and false with cells missing, pandas makes objects.
    columns = table.drop(columns=["cif", "structure"], errors="ignore").convert_dtypes()
    return columns.select_dtypes(["number", "boolean"]).astype("Float64").astype(float)


def _wanted(numbers: pd.DataFrame, source: Source) -> Int[np.ndarray, " rows"]:
    """Rows that are to be kept and have at least one property."""
    for name in (*source.properties, source.keep, source.folds):
        if name and name not in numbers:
            there = ", ".join(map(str, numbers))
            raise ValueError(f"{source.name} has no column {name!r} of numbers; there are {there}")
    wanted = numbers[list(source.properties)].notna().any(axis=1)
    if source.keep:
        wanted &= numbers[source.keep] == 1
    if source.folds and not (folds := numbers.loc[wanted, source.folds]).isin(range(len(folds))).all():
        found = folds[~folds.isin(range(len(folds)))].iloc[0]
        raise ValueError(f"{source.name} has {found:g} in {source.folds!r}; give each row the number of its test fold")
    return np.flatnonzero(wanted)


def _records(table: Data, rows: Int[np.ndarray, " rows"], n_jobs: int) -> Iterator[tuple[int, Record]]:
    """Number and canonical record of each of these rows, lazily and in order."""
    if isinstance(table, CrystalDataset):
        crystals = table.crystals(rows)
        yield from ((row, Record(each.key, "", each)) for row, each in zip(rows.tolist(), crystals, strict=True))
        return
    identifier = identifier_of([str(name) for name in table])
    names = list(map(str, (table.index if identifier is None else table[identifier].array)[rows]))
    if "structure" in table:
        found = canonical_records([table.structure.iloc[row] for row in rows], n_jobs=n_jobs)
        numbered: Iterable[tuple[int, Record]] = zip(range(len(rows)), found, strict=True)
    else:
        keys = [str(place) for place in range(len(rows))]
        cells = pd.DataFrame({"key": keys, "cif": table["cif"].iloc[rows].to_numpy()})
        read = groupby(canonical_records(cells, n_jobs=n_jobs), key=lambda record: record.key.partition(":")[0])
        numbered = ((int(place), next(records)) for place, records in read)  # of several in a row the first counts
    for place, record in numbered:
        yield int(rows[place]), record.renamed(names[place])


def _taken(
    table: Data, rows: Int[np.ndarray, " rows"], limit: int, most: int, refused: list[Record], n_jobs: int
) -> list[tuple[int, Crystal]]:
    """The first `most` crystals that are not too large, by row; refused records are appended to `refused`."""
    taken: list[tuple[int, Crystal]] = []
    begin = 0
    while begin < len(rows) and len(taken) < most:
        # Twice what is missing, since about every other crystal of a usual data set is too large.
        end = begin + 2 * (most - len(taken))
        for row, record in _records(table, rows[begin:end], n_jobs):
            if record.crystal is None:
                refused.append(record)
            elif record.crystal.n_sites <= limit:
                taken.append((row, record.crystal))
        begin = end
    return sorted(taken[:most], key=itemgetter(0))
