"""Claim: featurising and training take milliseconds a crystal on one core.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data matbench_phonons.parquet --crystals 1000

Prints crystals per CPU second (process time, one thread, median of interleaved repeats) from CIF text to raw arrays,
raw to canonical arrays, arrays to pairs, a training step with exact losses (recipe `paper`) and with shortcuts that
keep their expectation (recipe `fast`), each with pairs, gradients and optimiser, an epoch by the trainer, and a vector
by the frozen encoder. Memory is the peak of a process that does nothing but train. About a minute.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish

from crystalmax.cells import canonical
from crystalmax.geometry import AllPairs
from crystalmax.learning.vectors import encode
from crystalmax.memory import keep_freed_memory
from crystalmax.reading.cif import read_cif
from crystalmax.reading.structures import Reading
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter, batches_of_sites

REPEATS = 7
GEOMETRY = AllPairs()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def trainer(recipe: str, data: CrystalDataset, batches: Sequence[np.ndarray]) -> Callable[[], None]:
    """A pass over these batches with a recipe."""
    with seeded_weights(0):
        objective = build(read_recipe(recipe)["objective"])
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, amsgrad=True, fused=True)

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad()
            torch.stack(list(objective(GEOMETRY(data.batch(batch)), rng).values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()

    return epoch


def trained_alone(path: Path, epochs: int) -> dict[str, float]:
    """What `training_alone.py` prints."""
    script = Path(__file__).with_name("training_alone.py")
    done = subprocess.run([sys.executable, script, path, f"--epochs={epochs}"], capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write JSON."""
    options = parser_of(__doc__, crystals=1000).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = pd.read_parquet(options.data)
    texts = table[table.n_sites <= 50].cif.sample(options.crystals, random_state=0).tolist()
    raw = [reading.crystal for text in texts for reading in read_cif(text) if isinstance(reading, Reading)]
    with tempfile.TemporaryDirectory() as folder:
        with DatasetWriter(Path(folder) / "set", provenance={}) as writer:
            for crystal in raw:
                writer.add(canonical(crystal))
        few, many = (trained_alone(Path(folder) / "set", epochs) for epochs in (1, 6))
        data = CrystalDataset.open(Path(folder) / "set")
        rates = stages(texts, raw, data)
    rates["an epoch by the trainer, losses exact"] = round(5 * few["crystals"] / (many["cpu_s"] - few["cpu_s"]), 1)
    result = {"data": options.data.name, "seed": 0, "crystals_per_cpu_second": rates, "peak_GB": many["peak_GB"]}
    result |= about()
    publish(result, options.out)


def stages(texts: Sequence[str], raw: Sequence[object], data: CrystalDataset) -> dict[str, float]:
    """Crystals per CPU second of each stage."""
    batches = batches_of_sites(data.n_sites, 1200, np.random.default_rng(0).permutation(len(data)))[:-1]
    n_batched = sum(map(len, batches))
    paper, fast = (trainer(recipe, data, batches) for recipe in ("paper", "fast"))
    with seeded_weights(0):
        encoder = build(read_recipe("paper")["objective"]).encoder
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "CIF text to raw arrays": (len(texts), lambda: [read_cif(text) for text in texts]),
        "raw to canonical arrays": (len(raw), lambda: [canonical(crystal) for crystal in raw]),
        "arrays to pairs": (n_batched, lambda: [GEOMETRY(data.batch(batch)) for batch in batches]),
        "training, losses exact": (n_batched, paper),
        "training, unbiased shortcuts": (n_batched, fast),
        "data set to vectors": (len(data), lambda: encode(encoder, GEOMETRY, data)),
    }
    took: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, (_, work) in works.items():
            passed = seconds(work)
            took[name] += [passed] if repeat else []  # the first round warms up
    return {name: round(count / float(np.median(took[name])), 1) for name, (count, _) in works.items()}


if __name__ == "__main__":
    main()
