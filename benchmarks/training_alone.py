"""Trains the recipe `paper` on a data set and prints what that took as JSON; a process with nothing else in it.

    OMP_NUM_THREADS=1 python benchmarks/training_alone.py DATASET --epochs 6

`speed.py` calls it, so that the memory of reading tables is not counted.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from crystalmax.geometry import AllPairs
from crystalmax.learning.training import Split, Training, train
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset


def main() -> None:
    """Train and print CPU seconds and the peak memory of this process in GB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = CrystalDataset.open(options.dataset)
    with seeded_weights(0):
        objective = build(read_recipe("paper")["objective"])
    rows = np.flatnonzero(data.n_sites <= 50)
    began = time.process_time()
    train(objective, data, Split(rows, rows[:0]), Training(epochs=options.epochs), geometry=AllPairs())
    took = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"crystals": len(rows), "cpu_s": took, "peak_GB": round(peak, 3)}))


if __name__ == "__main__":
    main()
