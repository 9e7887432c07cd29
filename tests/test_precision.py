"""Float32, float64 and bfloat16 agree, and GPUs with CPUs, for every encoder, objective and recipe that ships."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.cells import canonical
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.learning.training import Split, Training, train
from crystalmax.objectives import Contrastive, DeepInfoMax, Mixture, Reconstruction, Regression
from crystalmax.objectives.contrasts import BarlowTwins, NTXent, VICReg
from crystalmax.objectives.estimators import NWJ, DonskerVaradhan, InfoNCE, JensenShannon, Smile
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.augmentations import ThermalDisplacement
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.statistics.intrinsic import Prepares
from crystalmax.storage.dataset import CrystalDataset
from crystals import perovskite, pure, random_crystals, rock_salt, some_crystals
from encoders import in_double

RECIPES = ("infomax", "paper", "fast", "intrinsic", "cgcnn", "megnet", "alignn")
LOSSES = 1e-5  # of a loss, or of 1 where that is larger
VECTORS = 1e-5  # of numbers of order 1
BFLOAT16 = 5e-3  # of a loss, or of 1 where that is larger; the most that was seen is 1.7e-3


def salts():
    """Twenty crystals with elements enough to learn something."""
    rng = np.random.default_rng(0)
    pairs = [(cation, anion) for cation in ("Na", "K", "Mg", "Li") for anion in ("Cl", "O", "F")]
    oxides = [(cation, anion) for cation in ("Ca", "Sr", "Ba", "La") for anion in ("O", "F")]
    found = [rock_salt(a, kinds) for a, kinds in zip(rng.uniform(4, 6.5, 12), pairs, strict=True)]
    edges = zip(rng.uniform(3.7, 4.3, 8), oxides, strict=True)
    return found + [perovskite(a, pure(cation, "Ti", anion)) for a, (cation, anion) in edges]


def network():
    return SiteNet(site_width=8, crystal_width=8, hidden=16)


OBJECTIVES = {
    **{type(each).__name__: partial(DeepInfoMax, estimator=each) for each in (JensenShannon(), InfoNCE(), NWJ())},
    **{type(each).__name__: partial(DeepInfoMax, estimator=each) for each in (DonskerVaradhan(), Smile())},
    **{
        type(each).__name__: partial(Contrastive, views=Rebuilt((ThermalDisplacement(),), AllPairs()), contrast=each)
        for each in (NTXent(), BarlowTwins(), VICReg())
    },
    "Reconstruction": Reconstruction,
    "Regression": partial(Regression, target="number"),
    "Mixture": partial(Mixture, parts=(DeepInfoMax, Reconstruction), automatic=True),
}


def made(name):
    """An objective and its geometry."""
    with seeded_weights(0):
        if name in RECIPES:
            parts = read_recipe(name)
            return build(parts["objective"]), build(parts["geometry"])
        return OBJECTIVES[name](network()), AllPairs()


def prepared(objective, crystals):
    numbered = [replace(canonical(one), targets={"number": float(i)}) for i, one in enumerate(crystals)]
    data = CrystalDataset.from_crystals(numbered)
    for part in objective.modules():
        if isinstance(part, Prepares):
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # what is mapped stays readable
                data = part.prepared(data, np.arange(len(data)), Path(folder))
    return data


def check_double(name, crystals):
    """Losses and vectors in float32 are those in float64, with the same draws."""
    objective, geometry = made(name)
    data = prepared(objective, crystals)
    single = geometry(data.batch(np.arange(len(data))))
    twin, double = copy.deepcopy(objective).double(), in_double(single)
    one, other = (o(b, torch.Generator().manual_seed(0)) for o, b in ((objective, single), (twin, double)))
    assert one.keys() == other.keys()
    for term, loss in other.items():
        assert loss.dtype == torch.float64
        assert one[term].item() == pytest.approx(loss.item(), abs=LOSSES, rel=LOSSES), term
    for level, exact in zip(objective.encoder(single).levels, twin.encoder(double).levels, strict=True):
        assert exact.summaries.dtype == torch.float64
        torch.testing.assert_close(level.summaries.double(), exact.summaries, atol=VECTORS, rtol=0)


@pytest.mark.parametrize("name", [*RECIPES, *OBJECTIVES])
def test_float32_gives_what_float64_gives(name):
    check_double(name, some_crystals() * 2)


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=5)
@given(crystals=st.lists(random_crystals(max_sites=4), min_size=3, max_size=4))
def test_also_for_crystals_without_symmetry(name, crystals):
    check_double(name, crystals)


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_in_bfloat16_have_the_losses_of_float32(name):
    histories = []
    for precision in ("32-true", "bf16-mixed"):
        objective, geometry = made(name)
        data = prepared(objective, salts())
        how = Training(epochs=10, sites_per_batch=32, precision=precision)
        histories.append(train(objective, data, Split(np.arange(20), np.arange(0)), how, geometry=geometry))
    terms = histories[0][0].keys() - {"epoch", "split", "crystals_per_second"}
    assert {row["epoch"] for row in histories[0]} == set(range(1, 11))
    for exact, mixed in zip(*histories, strict=True):
        assert any(exact[term] != mixed[term] for term in terms)
        for term in terms:
            assert mixed[term] == pytest.approx(exact[term], abs=BFLOAT16, rel=BFLOAT16), term


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("name", [*RECIPES, *OBJECTIVES])
def test_a_gpu_gives_what_the_cpu_gives(name):
    objective, geometry = made(name)
    data = prepared(objective, some_crystals() * 2)
    batch, twin = data.batch(np.arange(len(data))), copy.deepcopy(objective).to("cuda")
    one, other = geometry(batch), geometry(batch.to("cuda"))
    # Draws of a generator differ between devices, so both take those of one on the CPU.
    losses, found = (o(b, torch.Generator().manual_seed(0)) for o, b in ((objective, one), (twin, other)))
    for term, loss in losses.items():
        assert found[term].item() == pytest.approx(loss.item(), abs=LOSSES, rel=LOSSES), term
    for here, there in zip(objective.encoder(one).levels, twin.encoder(other).levels, strict=True):
        torch.testing.assert_close(there.summaries.cpu(), here.summaries, atol=VECTORS, rtol=0)
