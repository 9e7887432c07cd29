"""Claim: the cost of pairs, of vectors and of a training step is linear in the number of pairs, from 10^2 to 10^6.

    OMP_NUM_THREADS=1 python benchmarks/cost_of_pairs.py --data mp_cgcnn.parquet --figure docs/images/cost_of_pairs.svg

Times geometry, Site-Net forward and one training step of the paper's recipe on single batches of more and more crystals
with at most 50 sites, in CPU seconds on one thread (median of interleaved repeats), and fits a slope in log-log where a
batch is large enough for fixed costs not to matter. Pairs are counted before equal ones are merged. Expected: slopes of
0.9 to 1.1; below 1 since a larger batch has more pairs in common, above it since page faults come on top where tensors
outgrow what the C library keeps. About three minutes and 3.5 GB.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from machine import about, parser_of, publish
from matplotlib.figure import Figure
from scipy.optimize import nnls

from crystalmax.geometry import AllPairs
from crystalmax.memory import keep_freed_memory
from crystalmax.plots import BLUE, GREEN, INK, ORANGE, STYLE, style, svg
from crystalmax.reading.ingest import canonical_records
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites

SIZES = np.logspace(2, 6, 9)
LARGE = 9_000  # pairs from which on the slope is fitted
REPEATS = 3
COLORS = {"training step": BLUE, "vectors": ORANGE, "pairs": GREEN}


def pairs_of_crystals(data: CrystalDataset) -> Int[np.ndarray, " crystals"]:
    """How many pairs each crystal has, before equal ones are merged."""
    counts = np.zeros(len(data), dtype=np.int64)
    for rows in batches_of_sites(data.n_sites, 1200, np.arange(len(data))):
        batch = AllPairs(merge=False)(data.batch(rows))
        assert batch.pairs is not None
        crystal = batch.crystal_of_site[batch.pairs.center]
        counts[rows] = torch.bincount(crystal, minlength=len(rows)).numpy()
    return counts


def batches_of_pairs(counts: Int[np.ndarray, " crystals"]) -> list[Int[np.ndarray, " _"]]:
    """Random crystals that together have the numbers of pairs in `SIZES`; none has more than half of them."""
    order = np.random.default_rng(0).permutation(len(counts))
    batches = []
    for size in SIZES:
        small = order[counts[order] <= size / 2]
        total = np.cumsum(counts[small])
        if total[-1] < 0.9 * size:
            raise SystemExit(f"{size:.0f} pairs need more crystals than {len(counts)}; raise --crystals")
        batches.append(small[: int(np.searchsorted(total, size)) + 1])
    return batches


def seconds(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one call, the mean of several."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def measure(data: CrystalDataset, batches: list[Int[np.ndarray, " _"]], n_pairs: list[int]) -> dict[str, list[float]]:
    """Median CPU seconds of each stage for each batch."""
    with seeded_weights(0):
        objective = build(read_recipe("paper")["objective"])
    geometry, rng = AllPairs(), torch.Generator().manual_seed(0)

    def step(batch: object) -> None:
        objective.zero_grad()
        sum(objective(batch, rng).values()).backward()

    def vectors(batch: object) -> None:
        with torch.inference_mode():
            objective.encoder(batch)

    took: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in COLORS}
    for repeat in range(REPEATS + 1):
        for number, rows in enumerate(batches):
            batch = data.batch(rows)
            paired = geometry(batch)
            works = {"pairs": (geometry, batch), "vectors": (vectors, paired), "training step": (step, paired)}
            for name, (work, given) in works.items():
                spent = seconds(lambda work=work, given=given: work(given), max(1, 10_000 // n_pairs[number]))
                if repeat:  # the first is for warming up
                    took[name][number].append(spent)
    return {name: [statistics.median(times) for times in stage] for name, stage in took.items()}


def line(n_pairs: Float[np.ndarray, " sizes"], spent: Float[np.ndarray, " sizes"]) -> dict[str, float]:
    """Slope in log-log of the large batches; and the line `fixed + each * pairs` of smallest relative residuals."""
    large = n_pairs > LARGE
    slope = np.polyfit(np.log(n_pairs[large]), np.log(spent[large]), 1)[0]
    (fixed, each), _ = nnls(np.stack([1 / spent, n_pairs / spent], axis=1), np.ones_like(spent))
    return {"slope": round(slope, 3), "fixed_ms": round(fixed * 1e3, 3), "ns_per_pair": round(each * 1e9, 1)}


def draw(n_pairs: list[int], took: Mapping[str, list[float]], lines: Mapping[str, Mapping[str, float]]) -> Figure:
    """CPU time against pairs, with the fitted lines."""
    with style.context(STYLE):
        figure = Figure(figsize=(6.4, 3.9), layout="constrained", facecolor="white")
        panel = figure.subplots()
        grid = np.logspace(np.log10(n_pairs[0]), np.log10(n_pairs[-1]), 60)
        for name, spent in took.items():
            fit = lines[name]
            panel.plot(grid, fit["fixed_ms"] + fit["ns_per_pair"] * grid * 1e-6, color=COLORS[name], linewidth=1.2)
            panel.plot(n_pairs, np.array(spent) * 1e3, "o", color=COLORS[name], markersize=5)
            panel.annotate(
                f"{name}: slope {fit['slope']:.2f}",
                (n_pairs[-1], spent[-1] * 1e3),
                (8, 0),
                textcoords="offset points",
                va="center",
                color=COLORS[name],
            )
        panel.axvline(LARGE, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        panel.text(LARGE * 1.1, 0.02, "slopes are of these", transform=panel.get_xaxis_transform(), fontsize=8)
        panel.set(xscale="log", yscale="log", xlabel="pairs in a batch", ylabel="CPU milliseconds, one thread")
    return figure


def main() -> None:
    """Measure, print, write JSON and a figure."""
    parser = parser_of(__doc__, crystals=3000)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = pd.read_parquet(options.data)
    small = table[table.n_sites <= 50]
    small = small.sample(min(options.crystals, len(small)), random_state=0)
    data = CrystalDataset.from_crystals([r.crystal for r in canonical_records(small) if r.crystal is not None])
    counts = pairs_of_crystals(data)
    batches = batches_of_pairs(counts)
    n_pairs = [int(counts[rows].sum()) for rows in batches]
    took = measure(data, batches, n_pairs)
    lines = {name: line(np.array(n_pairs, dtype=float), np.array(spent)) for name, spent in took.items()}
    result = {
        "data": options.data.name,
        "pairs": n_pairs,
        "crystals": [len(rows) for rows in batches],
        "cpu_ms": {name: [round(one * 1e3, 3) for one in spent] for name, spent in took.items()},
        "lines": lines,
        **about(),
    }
    if options.figure:
        options.figure.write_text(svg(draw(n_pairs, took, lines), "cost of pairs"))
    publish(result, options.out)


if __name__ == "__main__":
    main()
