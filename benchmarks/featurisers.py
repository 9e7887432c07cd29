"""Claim: from CIF text to a vector, no peer is as fast, and the orbital field matrix takes a hundred times as long.

    OMP_NUM_THREADS=1 python benchmarks/featurisers.py --data matbench_phonons.parquet \
        --python chgnet=PEERS/bin/python --python matminer=MATMINER/bin/python

Times featurisers that live in environments of their own (docs/peers.md tells how to make them) beside ours. There is
one process for each, which gets the same CIF texts batch by batch, in turns, and tells the CPU seconds that reading and
encoding took on one thread. Imports, loading of weights and a first batch do not count. Also doubles the cells of three
crystals and compares the vectors. About two minutes with all peers, most of them imports.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import about, parser_of, publish
from pymatgen.core import Structure

SCRIPTS = Path(__file__).parent / "peers"
OURS = "crystalmax"
# What is measured in the environment of each name: a script and the kind of vector.
PEERS = {
    OURS: {"crystalmax": ("crystalmax_vectors.py", "crystalmax")},
    "chgnet": {"CHGNet": ("chgnet_vectors.py", "chgnet")},
    "sevennet": {"SevenNet-0": ("sevennet_vectors.py", "sevennet")},
    "cgcnn": {"CGCNN": ("cgcnn_vectors.py", "cgcnn_formation_energy")},
    "matminer": {
        "orbital field matrix": ("matminer_vectors.py", "ofm"),
        "X-ray powder pattern": ("matminer_vectors.py", "xrd"),
        "Magpie": ("matminer_vectors.py", "magpie"),
    },
    "dscribe": {"SOAP": ("dscribe_vectors.py", "soap")},
}
REPEATS = 3
BATCH = 30
DOUBLED = 3


class Worker:
    """A process of another environment that featurises, see `peers/exchange.py`."""

    def __init__(self, python: str, script: str, kind: str) -> None:
        command = [python, str(SCRIPTS / script), "--serve", "--kind", kind]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.versions: dict[str, str] = self._answer()["versions"]
        self.seconds: list[dict[str, float]] = []

    def ask(self, cifs: Sequence[str]) -> dict[str, Any]:
        """Vectors of these crystals, and the CPU seconds of reading and encoding them."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(cifs)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} stopped; run it alone to see why")  # type: ignore[arg-type]
        return dict(json.loads(line))

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


def environments(options: argparse.Namespace) -> dict[str, str]:
    """The interpreter for each name in `PEERS`; ours is this one."""
    found = {OURS: sys.executable}
    for given in options.python:
        name, _, python = given.partition("=")
        if name not in PEERS or not Path(python).exists():
            raise SystemExit(f"--python {given}: expected NAME=PYTHON with a name of {', '.join(PEERS)} and a program")
        found[name] = python
    return found


def chosen(options: argparse.Namespace) -> tuple[list[str], list[Structure]]:
    """Random ordered crystals with at most 50 sites, since most peers cannot say disorder."""
    table = pd.read_parquet(options.data)
    texts = table[table.n_sites <= 50].cif.sample(options.crystals, random_state=0)
    parsed = [(text, Structure.from_str(text, fmt="cif")) for text in texts]
    return [text for text, one in parsed if one.is_ordered], [one for _, one in parsed if one.is_ordered]


def change_with_cell(worker: Worker, structures: Sequence[Structure]) -> float:
    """How far doubling the cell moves a vector at most, as a fraction of its largest number."""
    cells = [(one * repeats).to(fmt="cif") for one in structures for repeats in ((1, 1, 1), (2, 1, 1))]
    rows = np.array(worker.ask(cells)["rows"])
    one, two = rows[::2], rows[1::2]
    return float((np.abs(one - two).max(axis=1) / np.abs(one).max(axis=1)).max())


def row_of(worker: Worker, texts: Sequence[str], structures: Sequence[Structure]) -> dict[str, Any]:
    """What is published of one featuriser."""
    passes = pd.DataFrame(worker.seconds).groupby("repeat")[["reading", "encoding"]].sum() / len(texts) * 1000
    return {
        "width": len(worker.ask(texts[:1])["rows"][0]),
        "reading_ms": round(float(passes.reading.median()), 3),
        "encoding_ms": round(float(passes.encoding.median()), 3),
        "change_with_cell": change_with_cell(worker, structures[:DOUBLED]),
        "versions": worker.versions,
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=60)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON", help="an environment")
    options = parser.parse_args()
    found = environments(options)
    warnings.simplefilter("ignore")  # of the parser, about rounded coordinates
    texts, structures = chosen(options)
    workers = {
        name: Worker(python, *script)
        for environment, python in found.items()
        for name, script in PEERS[environment].items()
    }
    for worker in workers.values():
        worker.ask(texts[:BATCH])
    for repeat in range(REPEATS):
        for start in range(0, len(texts), BATCH):
            for worker in workers.values():
                answer = worker.ask(texts[start : start + BATCH])
                worker.seconds.append({"repeat": repeat, **{name: answer[name] for name in ("reading", "encoding")}})
    rows = {name: row_of(worker, texts, structures) for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    sites = float(np.mean([len(one) for one in structures]))
    result = {"data": options.data.name, "crystals": len(texts), "mean_sites": round(sites, 1), "featurisers": rows}
    publish({**result, **about(), "threads": 1}, options.out)


if __name__ == "__main__":
    main()
