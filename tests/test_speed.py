"""What makes a step fast, as counts and as ratios within one run; absolute times belong to benchmarks/speed.py."""

import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crystalmax import native
from crystalmax.crystal import CrystalBatch
from crystalmax.encoders.pair_network import distinct_triples
from crystalmax.geometry import AllPairs
from crystalmax.spec import build, read_recipe, seeded_weights
from crystals import crystal, perovskite, pure

ELEMENTS = ("O", "S", "Na", "Mg", "Ti", "Fe", "Cu", "Zr")


def random_batch(n_crystals, seed=0):
    """Crystals of six sites in distorted cubes, as many supercells of fifty sites."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n_crystals):
        kinds = pure(*rng.choice(ELEMENTS, 3, replace=False))
        cell = 5.0 * np.eye(3) + rng.normal(scale=0.3, size=(3, 3))
        made.append(crystal(f"c{number}", cell, rng.random((6, 3)), [0, 1, 1, 2, 2, 2], kinds))
    return CrystalBatch.collate(made)


@pytest.fixture
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def least_seconds(ways, repeats):
    """CPU seconds of each way, interleaved, so that whatever else runs slows all."""
    took = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            took[name].append(time.process_time() - began)
    return {name: min(seconds) for name, seconds in took.items()}


def stepper(recipe="paper"):
    with seeded_weights(0):
        objective = build(read_recipe(recipe)["objective"])

    def step(batch):
        sum(objective(AllPairs()(batch), torch.Generator().manual_seed(0)).values()).backward()

    return step


class Counted(TorchDispatchMode):
    """Counts the operations of torch, forward and backward."""

    number = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.number += 1
        return operation(*arguments, **(options or {}))


def operations(batch, recipe):
    step = stepper(recipe)
    with Counted() as counted:
        step(batch)
    return counted.number


@pytest.mark.parametrize("recipe", ["paper", "infomax"])
def test_a_step_has_no_loop_over_crystals(recipe):
    few, many = (operations(random_batch(n), recipe) for n in (40, 80))
    assert many == pytest.approx(few, rel=0.02)
    assert many < 2000


def test_shortcuts_save_operations():
    batch = random_batch(8)
    assert operations(batch, "fast") < 0.8 * operations(batch, "paper")


def test_the_pair_network_sees_each_triple_once():
    batch = AllPairs()(CrystalBatch.collate([perovskite(3.8 + 0.02 * i) for i in range(10)]))
    triples = distinct_triples(batch.species, len(batch.kinds), batch.pairs)
    assert len(triples.center) < 0.2 * batch.pairs.count.sum()


@pytest.mark.skipif(not native.usable(), reason="the loops were not compiled")
@pytest.mark.parametrize(("wide", "out"), [(64, 64), (128, 64), (64, 128), (96, 48)])
def test_a_product_takes_no_longer_than_that_of_a_tuned_library(one_thread, wide, out):
    x, weight, bias, y = torch.randn(5000, wide), torch.randn(wide, out), torch.randn(out), torch.empty(5000, out)
    ways = {
        "loops": lambda: native.run("dense_forward", x, weight, bias, None, None, y, None, *x.shape, out),
        "torch": lambda: torch.addmm(bias, x, weight),
    }
    took = least_seconds(ways, repeats=10)
    # About as long; where sums do not stay in registers, which depends on the processor, twenty times as long.
    assert took["loops"] < 4 * took["torch"]


@pytest.mark.skipif(not native.usable(), reason="the loops were not compiled")
def test_native_loops_are_several_times_faster(one_thread, monkeypatch):
    step, batch = stepper(), random_batch(64)

    def without_loops():
        with monkeypatch.context() as context:
            context.setattr(native, "_library", None)
            step(batch)

    took = least_seconds({"loops": lambda: step(batch), "torch": without_loops}, repeats=4)
    assert took["loops"] < took["torch"] / 1.5
