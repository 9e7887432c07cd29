"""What the scripts in this folder share: crystals in as CIF, vectors out as `crystalmax represent` writes them.

Needs pandas, pyarrow and pymatgen only, so that each peer can live in an environment without crystalmax.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from tqdm import tqdm  # which pymatgen brings

Read = Callable[[str], Any]
"""From CIF text to what a featuriser takes."""
Vectors = Callable[[Sequence[Any]], np.ndarray]
"""From many of these to one row each."""
Make = Callable[[int | None], Vectors]
"""From nothing to the featuriser with its published weights, from a seed to one with random weights."""

BATCH = 16


def ordered_structure(cif: str) -> Structure:
    """A pymatgen structure; disorder is refused, since most peers would read another material in silence."""
    structure = Structure.from_str(cif, fmt="cif")
    if not structure.is_ordered:
        raise ValueError("it is disordered, which this featuriser cannot say")
    return structure


def main(
    description: str | None,
    kinds: Mapping[str, Make],
    *,
    packages: Sequence[str],
    has_weights: bool = True,
    read: Read = ordered_structure,
) -> None:
    """Write the vectors of a table, or answer `benchmarks/featurisers.py` over standard input and output.

    Args:
        description: The script's docstring.
        kinds: What the script can make, by name; the first unless asked otherwise.
        packages: Whose versions tell what was measured.
        has_weights: Whether an untrained twin exists.
        read: How CIF text is read.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", help=".parquet or .csv with the columns material_id and cif")
    parser.add_argument("--out", type=Path, help="the .parquet to write")
    parser.add_argument("--key", default="material_id", help="the column that names crystals")
    parser.add_argument("--kind", choices=list(kinds), default=next(iter(kinds)))
    parser.add_argument("--max-sites", type=int, help="larger cells get no vector")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--serve", action="store_true", help="answer benchmarks/featurisers.py")
    if has_weights:
        parser.add_argument("--seed", type=int, help="random weights of this seed: the untrained twin")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of parsers and neighbor searches, thousands of them
    if options.serve:
        # Some packages greet on standard output, which here belongs to the answers.
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        serve(kinds[options.kind](vars(options).get("seed")), read, packages, answers)
    elif options.table is None or options.out is None:
        parser.error("a table to read and an --out to write are needed")
    else:
        write(options, lambda: kinds[options.kind](vars(options).get("seed")), read)


def represented(
    texts: Sequence[str], vectors: Vectors, read: Read, max_sites: int | None = None
) -> tuple[list[np.ndarray | None], list[str]]:
    """A vector for each CIF text, and in the second list the reason where there is none."""
    rows: list[np.ndarray | None] = [None] * len(texts)
    reasons = [""] * len(texts)
    structures = {}
    for row, text in enumerate(texts):
        try:
            structure = structures[row] = read(text)
            n_sites = getattr(structure, "n_sites", None) or len(structure)  # ours, or pymatgen's
            if max_sites is not None and n_sites > max_sites:
                raise ValueError(f"its cell has {n_sites} sites, more than --max-sites")
        except Exception as error:  # whatever a parser raises means the same
            structures.pop(row, None)
            reasons[row] = _reason(error)
    try:
        rows_found = vectors(list(structures.values())) if structures else []
        for row, vector in zip(structures, rows_found, strict=True):
            rows[row] = vector
    except Exception:  # one crystal must not take the others with it
        for row, structure in structures.items():
            try:
                rows[row] = vectors([structure])[0]
            except Exception as error:
                reasons[row] = _reason(error)
    for row, vector in enumerate(rows):
        if vector is not None and not np.isfinite(vector).all():
            rows[row], reasons[row] = None, "its vector is not finite"
    return rows, reasons


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def write(options: argparse.Namespace, make: Callable[[], Vectors], read: Read) -> None:
    """Read a table, write a row for each of its crystals: `key`, the vector, `refusal`."""
    table = pd.read_csv(options.table) if options.table.suffix == ".csv" else pd.read_parquet(options.table)
    keys = table[options.key].astype(str)
    if not keys.is_unique:
        raise SystemExit(
            f"{keys[keys.duplicated()].iloc[0]!r} stands twice in the column {options.key}; name them apart"
        )
    began = time.perf_counter()
    chunks = [table.cif.iloc[start : start + BATCH].tolist() for start in range(0, len(table), BATCH)]
    # Forked before any weights are loaded: each process makes its own.
    how = (make, read, options.max_sites)
    with ProcessPoolExecutor(options.jobs, get_context("fork"), _prepare, how) as pool:
        found = list(tqdm(pool.map(_represented, chunks), total=len(chunks), unit="batch", disable=None))
    rows = [row for some, _ in found for row in some]
    reasons = [reason for _, some in found for reason in some]
    width = max((len(row) for row in rows if row is not None), default=0)
    values = np.full((len(rows), width), np.nan)
    for place, row in zip(values, rows, strict=True):
        place[:] = np.nan if row is None else row
    columns = [f"{options.kind}_{i:03d}" for i in range(width)]
    result = pd.concat([keys.rename("key").reset_index(drop=True), pd.DataFrame(values, columns=columns)], axis=1)
    result.assign(refusal=reasons).to_parquet(options.out, index=False)
    n_refused = sum(map(bool, reasons))
    spent = (time.perf_counter() - began) / max(len(table), 1)
    print(
        f"{len(rows) - n_refused:,} rows in {options.out}; {n_refused:,} more without a vector, the reason beside them"
    )
    print(f"{spent * 1000:.1f} ms a crystal")


def _prepare(make: Callable[[], Vectors], *how: Any) -> None:
    _state.update(vectors=make(), how=how)


def _represented(texts: Sequence[str]) -> tuple[list[np.ndarray | None], list[str]]:
    return represented(texts, _state["vectors"], *_state["how"])


_state: dict[str, Any] = {}
"""What a process of `write` works with."""


def serve(vectors: Vectors, read: Read, packages: Sequence[str], answers: TextIO) -> None:
    """Answer each line of standard input, a JSON list of CIF texts, with vectors and the CPU seconds they took."""
    print(json.dumps({"versions": {name: version(name) for name in packages}}), file=answers, flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.process_time()
        structures = [read(text) for text in texts]
        parsed = time.process_time()
        found = vectors(structures)
        ended = time.process_time()
        answer = {"reading": parsed - began, "encoding": ended - parsed, "rows": np.asarray(found, float).tolist()}
        print(json.dumps(answer), file=answers, flush=True)
