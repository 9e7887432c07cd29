"""Claim: two processes have the losses of one, to 1e-6 over 20 steps, in little more than half the time.

    python benchmarks/processes.py --data mp_cgcnn.parquet --out benchmarks/results/processes.json

Trains the recipe `paper` for 20 steps of two batches of 1,200 sites: in one process that does both, and in two that do
one each. One thread each. The runs take turns, and the fastest counts, as others may use the cores too. Says

- the largest difference of the loss of a batch;
- the throughput, two processes over one, in wall seconds, which means something on an idle machine only;
- the same of two processes that train apart, each on everything, with nothing to exchange: what the machine allows;
- the same in CPU seconds, where a step takes as long as the slower process computes;
- how much longer the slower process of a step computes than both do on average, as their batches differ.

Ten minutes.
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

from crystalmax.geometry import AllPairs
from crystalmax.learning.processes import Processes
from crystalmax.learning.training import Split, Training, train
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites

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


def train_here(folder: Path, devices: int, name: str) -> None:
    """What each process does; its notes go to a file with its name and number."""
    data = CrystalDataset.open(folder / "data")
    with seeded_weights(0):
        objective = Watched(build(read_recipe("paper")["objective"]))
    how = Training(epochs=1, sites_per_batch=SITES, batches_per_step=2)
    rows = np.arange(len(data))
    train(objective, data, Split(rows, rows[:0]), how, geometry=AllPairs(), processes=Processes(devices))
    number = os.environ.get("RANK", "0")
    (folder / f"{name}{number}.json").write_text(json.dumps(objective.noted))


def started(folder: Path, devices: int, name: str = "") -> subprocess.Popen[bytes]:
    """A training by so many processes that share its steps."""
    here = [__file__, "--data", str(folder), "--devices", str(devices), "--name", name]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)] if devices > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([sys.executable, *start, *here], env=environment, stderr=subprocess.DEVNULL)


def notes(folder: Path, *files: str) -> np.ndarray:
    """What processes noted, as processes x their batches x (wall, CPU, loss)."""
    return np.array([json.loads((folder / f"{file}.json").read_text()) for file in files])


def run(folder: Path, devices: int) -> np.ndarray:
    """Notes of one training."""
    ended(started(folder, devices))
    return notes(folder, *map(str, range(devices)))


def apart(folder: Path) -> np.ndarray:
    """Notes of two trainings at the same time that know nothing of each other."""
    ended(started(folder, 1, "left"), started(folder, 1, "right"))
    return notes(folder, "left0", "right0")


def ended(*trainings: subprocess.Popen[bytes]) -> None:
    """Wait for all of them."""
    if any([training.wait() for training in trainings]):
        raise RuntimeError("a training failed; call this script with --devices to see why")


def steps(notes: np.ndarray, batches: int) -> np.ndarray:
    """Seconds of each timed step and process, wall and CPU: processes x steps x 2; each does so many batches a step."""
    each = notes[:, ::batches, :2]
    return np.diff(each[:, WARM:STEPS], axis=1)


def main() -> None:
    """Measure in turns, print, write JSON."""
    parser = parser_of(__doc__, crystals=100_000)
    parser.add_argument("--devices", type=int, help="train here, as one of so many processes")
    parser.add_argument("--name", default="", help="of the notes of such a process")
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    if options.devices:
        train_here(options.data, options.devices, options.name)
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
        found = [(run(folder, 1), run(folder, 2), apart(folder)) for _ in range(options.repeats)]
    differences = [np.abs(one[0, : 2 * STEPS, 2] - two[:, :STEPS, 2].T.ravel()).max() for one, two, _ in found]
    alone = [steps(one, 2)[0] for one, _, _ in found]
    shared = [steps(two, 1) for _, two, _ in found]
    freely = [steps(both, 2) for _, _, both in found]
    wall_one, cpu_one = np.min([each.sum(0) for each in alone], axis=0)
    # Processes wait for each other in every step, so a step takes what the slower one takes.
    wall_two, cpu_two = np.min([each.max(0).sum(0) for each in shared], axis=0)
    wall_apart = min(each[..., 0].sum(1).max() for each in freely)
    result = {
        "data": options.data.name,
        "crystals": len(data),
        "steps": STEPS,
        "repeats": options.repeats,
        "largest_difference_of_a_loss": float(max(differences)),
        "losses": [round(float(loss), 6) for loss in found[0][0][0, [0, 2 * STEPS - 1], 2]],
        "wall_seconds_of_a_step": {"one": wall_one / (STEPS - WARM - 1), "two": wall_two / (STEPS - WARM - 1)},
        "throughput_two_over_one_wall": wall_one / wall_two,
        "throughput_two_apart_over_one_wall": 2 * wall_one / wall_apart,
        "throughput_two_over_one_cpu": cpu_one / cpu_two,
        "cpu_seconds_two_over_one": min(each[..., 1].sum() for each in shared) / cpu_one,
        "cpu_seconds_two_apart_over_one": min(each[..., 1].sum() for each in freely) / (2 * cpu_one),
        "slower_process_over_mean": min(each[..., 1].max(0).sum() / each[..., 1].mean(0).sum() for each in shared),
        "load_average": os.getloadavg()[0],
        **about(),
    }
    publish(result, options.out)


if __name__ == "__main__":
    main()
