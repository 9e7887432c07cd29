"""Claim: where others use the cores too, one thread trains fastest, and waiting threads must not spin.

    python benchmarks/threads.py --data matbench_phonons.parquet --busy 2

Runs a few training steps of the paper's recipe (1,200 sites each) in processes that differ in `OMP_NUM_THREADS` and
`OMP_WAIT_POLICY` only, in turns, beside as many other busy processes as asked for. Says wall seconds a step. Spinning
is what OpenMP does where nothing is set. Two to four minutes.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish

from crystalmax.geometry import AllPairs
from crystalmax.memory import keep_freed_memory
from crystalmax.reading.ingest import canonical_records
from crystalmax.spec import build, read_recipe
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites

SETTINGS = {"one thread": ("1", "passive"), "two, asleep": ("2", "passive"), "two, spinning": ("2", "active")}
REPEATS = 3
STEPS = 4


def wall_seconds_of_a_step(data: CrystalDataset) -> float:
    """Mean over a few steps, after one to warm up."""
    keep_freed_memory()
    objective = build(read_recipe("paper")["objective"])
    rng = torch.Generator().manual_seed(0)
    batches = batches_of_sites(data.n_sites, 1200, np.arange(len(data)))
    began = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            began = time.perf_counter()
        batch = AllPairs()(data.batch(batches[step % len(batches)]))
        sum(objective(batch, rng).values()).backward()
    return (time.perf_counter() - began) / STEPS


def main() -> None:
    """Measure in this process, or in one process for each setting; print, write JSON."""
    parser = parser_of(__doc__, crystals=1000)
    parser.add_argument("--busy", type=int, default=0, help="other processes that use a core each")
    parser.add_argument("--here", action="store_true", help="measure in this process, as it was set up")
    options = parser.parse_args()
    if options.here:
        table = pd.read_parquet(options.data)
        chosen = table[table.n_sites <= 50].sample(options.crystals, random_state=0)
        crystals = [record.crystal for record in canonical_records(chosen) if record.crystal is not None]
        print(wall_seconds_of_a_step(CrystalDataset.from_crystals(crystals)))
        return
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    took: dict[str, list[float]] = {name: [] for name in SETTINGS}
    try:
        for _ in range(REPEATS):
            for name, (threads, policy) in SETTINGS.items():
                environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": policy}
                command = [sys.executable, *sys.argv, "--here"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                took[name].append(float(done.stdout))
    finally:
        for process in busy:
            process.kill()
    seconds = {
        name: {"median": round(statistics.median(all_), 2), "worst": round(max(all_), 2)} for name, all_ in took.items()
    }
    load = {"busy": options.busy, "load_average": os.getloadavg()[0]}
    publish({"data": options.data.name, "wall_seconds_of_a_step": seconds, **load, **about()}, options.out)


if __name__ == "__main__":
    main()
