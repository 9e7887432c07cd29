"""Claim: featurising and training take milliseconds a crystal on one core.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data matbench_phonons.parquet --crystals 1000

Prints crystals per CPU second (process time, one thread, median of interleaved repeats) from CIF text to raw arrays,
raw to canonical arrays, arrays to pairs, one training step of the paper recipe, and a vector by the frozen encoder.
About a minute.
"""

import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish

from crystalmax.cells import canonical
from crystalmax.cif import read_cif
from crystalmax.dataset import CrystalDataset, batches_of_sites
from crystalmax.featurizer import encode
from crystalmax.geometry import AllPairs
from crystalmax.memory import keep_freed_memory
from crystalmax.spec import build, read_recipe
from crystalmax.structures import Reading

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure, print, write JSON."""
    options = parser_of(__doc__, crystals=1000).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = pd.read_parquet(options.data)
    texts = table[table.n_sites <= 50].cif.sample(options.crystals, random_state=0).tolist()
    raw = [reading.crystal for text in texts for reading in read_cif(text) if isinstance(reading, Reading)]
    data = CrystalDataset.from_crystals([canonical(crystal) for crystal in raw])
    batches = batches_of_sites(data.n_sites, 1200, np.random.default_rng(0).permutation(len(data)))[:-1]
    geometry, objective = AllPairs(), build(read_recipe("paper")["objective"])
    rng = torch.Generator().manual_seed(0)

    def step() -> None:
        for batch in batches:
            sum(objective(geometry(data.batch(batch)), rng).values()).backward()

    stages: dict[str, tuple[int, Callable[[], object]]] = {
        "CIF text to raw arrays": (len(texts), lambda: [read_cif(text) for text in texts]),
        "raw to canonical arrays": (len(raw), lambda: [canonical(crystal) for crystal in raw]),
        "arrays to pairs": (sum(map(len, batches)), lambda: [geometry(data.batch(batch)) for batch in batches]),
        "training step, paper recipe": (sum(map(len, batches)), step),
        "data set to vectors": (len(data), lambda: encode(objective.encoder, geometry, data)),
    }
    took: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(REPEATS):
        for name, (_, work) in stages.items():
            took[name].append(seconds(work))
    rates = {name: round(count / float(np.median(took[name])), 1) for name, (count, _) in stages.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"data": options.data.name, "crystals_per_cpu_second": rates, "peak_GB": round(peak, 2), **about()}
    publish(result, options.out)


if __name__ == "__main__":
    main()
