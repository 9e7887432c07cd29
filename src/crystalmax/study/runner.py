"""Runs cells, several at a time, and keeps what each found; a study that was killed goes on with those not yet there.

A cell writes three files below OUT/cells under its name: `.npz` (its arrays), `.json` (seconds) and, last, `.parquet`
(its rows). Each appears when it is complete, so results can be copied to another machine at any time. A cell of which a
crash, or an interrupted copy, left only a part is run again.
"""

import json
import logging
import subprocess
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from joblib import Parallel, delayed, effective_n_jobs

from crystalmax import __version__
from crystalmax.spread import one_thread
from crystalmax.storage.writing import at_once
from crystalmax.study.cell import COLUMNS, Cell, Result

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a cell ended: after how many seconds, and with which error, if any."""

    name: str
    cost: float
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Forecast:
    """The progress of a study, and the time that the rest may take.

    Attributes:
        done: Number of finished cells, including those of earlier runs.
        total: Number of all cells.
        seconds: Expected time until the end; None if nothing is known yet.
        failed: Number of cells that ended with an error.
    """

    done: int
    total: int
    seconds: float | None
    failed: int

    @property
    def sentence(self) -> str:
        """What is to come, in words."""
        if self.seconds is None:
            return "no forecast yet"
        minutes, seconds = divmod(round(self.seconds), 60)
        rest = f"about {minutes:,} min to go" if minutes else f"about {seconds} s to go"
        return f"{rest}; {self.failed:,} failed" if self.failed else rest


def run(
    cells: Sequence[Cell], folder: Path, *, n_jobs: int = 1, report: Callable[[Forecast], None] = lambda _: None
) -> list[Outcome]:
    """Do every cell that is not done yet, in their order, `n_jobs` at a time; errors are returned, not raised.

    Args:
        cells: The cells; of several with one name, the first is used.
        folder: Folder for the results.
        n_jobs: Processes; -1 for one a core.
        report: Called before the first cell and after each.
    """
    of_name: dict[str, Cell] = {}
    for cell in cells:
        of_name.setdefault(cell.name, cell)
    cells = list(of_name.values())
    outcomes = [Outcome(one.name, one.cost, _seconds(folder, one.name)) for one in cells if _is_whole(folder, one.name)]
    done = {outcome.name for outcome in outcomes}
    waiting = [cell for cell in cells if cell.name not in done]
    report(_forecast(cells, outcomes, effective_n_jobs(n_jobs)))
    running = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    for outcome in running(delayed(_run)(cell, folder) for cell in waiting):
        outcomes.append(outcome)
        if outcome.error:
            log.warning("%s failed: %s", outcome.name, outcome.error.strip().splitlines()[-1])
        report(_forecast(cells, outcomes, effective_n_jobs(n_jobs)))
    return outcomes


def rows_of(folder: Path, *, prefix: str = "") -> pd.DataFrame:
    """The rows of all cells in a folder whose names begin so, sorted."""
    if not (tables := [table for name in names_in(folder, prefix) if len(table := rows_in(folder, name))]):
        return pd.DataFrame(columns=list(COLUMNS))
    # Integers that can be missing, or columns that some parts lack would turn into floats.
    whole = [dict.fromkeys(table.select_dtypes("integer"), "Int64") for table in tables]
    together = pd.concat([table.astype(types) for table, types in zip(tables, whole, strict=True)], ignore_index=True)
    shared = [name for name in COLUMNS if name in together]
    columns = [*shared, *sorted(str(name) for name in together if name not in shared)]
    return together[columns].sort_values(columns, ignore_index=True, kind="stable")


def rows_in(folder: Path, name: str) -> pd.DataFrame:
    """The rows of a finished cell."""
    return pd.read_parquet(_path(folder, name, "parquet"))


def arrays_in(folder: Path, name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a finished cell."""
    with np.load(_path(folder, name, "npz")) as arrays:
        return dict(arrays)


def names_in(folder: Path, prefix: str = "") -> list[str]:
    """Names of all finished cells that begin so, sorted."""
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.parquet"))
    return sorted(name for name in names if name.startswith(prefix))


def times_in(folder: Path) -> pd.DataFrame:
    """Seconds that each finished cell took."""
    rows = [(name, _seconds(folder, name)) for name in names_in(folder)]
    return pd.DataFrame(rows, columns=["cell", "seconds"])


@cache
def commit() -> str:
    """The commit of this package's source, with `-dirty` where it was changed since; its version where installed."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"crystalmax {__version__}"
    return done.stdout.strip()


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f"{name}.{suffix}"


def _run(cell: Cell, folder: Path) -> Outcome:
    began = time.perf_counter()
    n_threads = torch.get_num_threads()
    # One thread a cell: sums in another order would change the last digit with the number of processes.
    torch.set_num_threads(1)
    try:
        with one_thread():
            result = cell.work()
        seconds = time.perf_counter() - began
        _write(result, cell.name, seconds, folder)
        return Outcome(cell.name, cell.cost, seconds)
    except Exception:  # whatever a cell fails with, the others shall still run
        return Outcome(cell.name, cell.cost, time.perf_counter() - began, traceback.format_exc())
    finally:
        torch.set_num_threads(n_threads)


def _write(result: Result, name: str, seconds: float, folder: Path) -> None:
    rows = result.rows.assign(commit=commit()) if len(result.rows) else result.rows
    _path(folder, name, "parquet").parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = dict(result.arrays)
    with at_once(_path(folder, name, "npz")) as file:
        np.savez_compressed(file, **arrays)
    with at_once(_path(folder, name, "json")) as file:
        file.write(json.dumps({"seconds": round(seconds, 3)}).encode())
    with at_once(_path(folder, name, "parquet")) as file:
        rows.to_parquet(file, index=False)


def _is_whole(folder: Path, name: str) -> bool:
    """Whether a cell has left all of its files, each with the end that its format needs."""
    if not _path(folder, name, "parquet").exists():
        return False
    try:
        pq.read_metadata(_path(folder, name, "parquet"))
        _seconds(folder, name)
        if zipfile.is_zipfile(_path(folder, name, "npz")):
            return True
    except (OSError, ValueError, pa.ArrowException):
        pass
    log.warning("what %s left is damaged; it is run again", name)
    return False


def _seconds(folder: Path, name: str) -> float:
    return float(json.loads(_path(folder, name, "json").read_bytes())["seconds"])


def _forecast(cells: Sequence[Cell], outcomes: Sequence[Outcome], n_jobs: int) -> Forecast:
    """The time left, by seconds per unit of cost in each part; cells of new parts take as long as others on average."""
    ended = {outcome.name for outcome in outcomes}
    spent = pd.DataFrame(outcomes, columns=Outcome._fields)
    left = [(cell.name.partition("/")[0], cell.cost) for cell in cells if cell.name not in ended]
    seconds = None
    if len(spent):
        of_part = spent.groupby(spent["name"].str.partition("/")[0])[["seconds", "cost"]].sum()
        rates = (of_part.seconds / of_part.cost).to_dict()
        usual = spent.seconds.mean()
        seconds = sum(cost * rates[part] if part in rates else usual for part, cost in left) / n_jobs
    return Forecast(len(outcomes), len(cells), seconds, sum(bool(each.error) for each in outcomes))
