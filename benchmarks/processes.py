"""Claim: two processes have the losses of one, to 1e-6 over 20 steps, in little more than half the time.

    python benchmarks/processes.py --data mp_cgcnn.parquet --out benchmarks/results/processes.json

Trains the recipe `paper` for 20 steps of two batches of 1,200 sites: in one process that does both, and in two that do
one each. One thread each. The runs take turns, and the fastest counts, as others may use the cores too. Says

- the largest difference of the loss of a batch;
- the throughput, two processes over one, in wall seconds, which means something on an idle machine only;
- the same in CPU seconds, where a step takes as long as the slower process computes: what two cores that have nothing
  else to do would give, but for what both take from each other's caches.

Five minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish
from torch import nn

from crystalmax.dataset import CrystalDataset, batches_of_sites
from crystalmax.geometry import AllPairs
from crystalmax.ingest import canonical_records, ingest
from crystalmax.spec import build, read_recipe
from crystalmax.training import Split, Training, seeded_weights, train

SITES = 1200
STEPS = 20
WARM = 2  # steps that are not timed


class Watched(nn.Module):
    """An objective that notes the loss of each batch, and what time it was before."""

    chance = None

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.encoder = inner, inner.encoder
        self.noted: list[tuple[float, float, float]] = []

    def forward(self, batch: Any, rng: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The terms of the objective."""
        wall, cpu = time.perf_counter(), time.process_time()
        terms = self.inner(batch, rng)
        self.noted.append((wall, cpu, sum(value.item() for value in terms.values())))
        return terms


def train_here(folder: Path, devices: int) -> None:
    """What each process does; its notes go to a file with its number."""
    data = CrystalDataset.open(folder / "data")
    with seeded_weights(0):
        objective = Watched(build(read_recipe("paper")["objective"]))
    how = Training(epochs=1, sites_per_batch=SITES, batches_per_step=2)
    rows = np.arange(len(data))
    train(objective, data, Split(rows, rows[:0]), how, geometry=AllPairs(), devices=devices)
    number = os.environ.get("RANK", "0")
    (folder / f"{number}.json").write_text(json.dumps(objective.noted))


def run(folder: Path, devices: int) -> np.ndarray:
    """Notes as processes x their batches x (wall, CPU, loss)."""
    here = [__file__, "--data", str(folder), "--devices", str(devices)]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)] if devices > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    subprocess.run([sys.executable, *start, *here], env=environment, check=True, stderr=subprocess.DEVNULL)
    return np.array([json.loads((folder / f"{number}.json").read_text()) for number in range(devices)])


def steps(notes: np.ndarray) -> np.ndarray:
    """Seconds of each timed step and process, wall and CPU: processes x steps x 2."""
    each = notes[:, :: 2 // len(notes), :2]
    return np.diff(each[:, WARM:STEPS], axis=1)


def main() -> None:
    """Measure in turns, print, write JSON."""
    parser = parser_of(__doc__, crystals=100_000)
    parser.add_argument("--devices", type=int, help="train here, as one of so many processes")
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    if options.devices:
        train_here(options.data, options.devices)
        return
    table = pd.read_parquet(options.data)
    table = table[table.n_sites <= 50]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        order = table.sample(min(options.crystals, len(table)), random_state=0)
        # As many as fill the steps, and a little more, so that the last step is no other than those before.
        enough = order[order.n_sites.cumsum() <= (2 * STEPS + 3) * SITES]
        data, *_ = ingest(canonical_records(enough), folder / "data", made_from=[options.data])
        n_batches = len(batches_of_sites(data.n_sites, SITES, np.random.default_rng([0, 0]).permutation(len(data))))
        if n_batches < 2 * STEPS:
            raise ValueError(f"{options.data} fills {n_batches} batches, not {2 * STEPS}; take a larger table")
        found = [(run(folder, 1), run(folder, 2)) for _ in range(options.repeats)]
    differences = [np.abs(one[0, : 2 * STEPS, 2] - two[:, :STEPS, 2].T.ravel()).max() for one, two in found]
    wall_one, cpu_one = np.min([steps(one)[0].sum(0) for one, _ in found], axis=0)
    # Processes wait for each other in every step, so a step takes what the slower one takes.
    wall_two, cpu_two = np.min([steps(two).max(0).sum(0) for _, two in found], axis=0)
    work_two = min(steps(two)[..., 1].sum() for _, two in found)
    pairs = [steps(one)[0, :, 0].sum() / steps(two).max(0)[:, 0].sum() for one, two in found]
    result = {
        "data": options.data.name,
        "crystals": len(data),
        "steps": STEPS,
        "largest_difference_of_a_loss": float(max(differences)),
        "losses": [round(float(loss), 6) for loss in found[0][0][0, [0, 2 * STEPS - 1], 2]],
        "wall_seconds_of_a_step": {"one": wall_one / (STEPS - WARM - 1), "two": wall_two / (STEPS - WARM - 1)},
        "throughput_two_over_one_wall": wall_one / wall_two,
        "throughput_two_over_one_wall_each_turn": [round(float(ratio), 3) for ratio in pairs],
        "throughput_two_over_one_cpu": cpu_one / cpu_two,
        "cpu_seconds_two_over_one": work_two / cpu_one,
        "load_average": os.getloadavg()[0],
        **about(),
    }
    publish(result, options.out)


if __name__ == "__main__":
    main()
