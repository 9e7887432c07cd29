"""Pre-training from a recipe that has to prepare the data set first."""

import numpy as np
import pytest
import torch

from crystalmax import baselines
from crystalmax.checkpoint import load
from crystalmax.dataset import CrystalDataset
from crystalmax.featurizer import encode
from crystalmax.pretraining import pretrain
from crystalmax.spec import read_recipe
from crystals import some_crystals


@pytest.fixture(scope="module")
def data():
    return CrystalDataset.from_crystals([crystal for _ in range(4) for crystal in some_crystals()])


def test_vectors_learn_to_tell_statistics_by_linear_maps(data, tmp_path):
    recipe = read_recipe("intrinsic")
    content = {**recipe, "training": {**recipe["training"], "sites_per_batch": 60}}
    history = pretrain(data, tmp_path / "run", recipe=content, epochs=40)
    losses = [row["Statistics"] for row in history if row["split"] == "train"]
    assert losses[-1] < 0.3 * losses[0]
    model = load(tmp_path / "run")
    (head,) = model.objective.heads
    vectors = encode(model.encoder, model.geometry, data)
    predicted = vectors @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    values, names = baselines.statistics(list(data))
    column = names.index("mean electronegativity step")
    assert np.corrcoef(predicted[:, column], values[:, column])[0, 1] > 0.9


def test_a_run_that_prepares_its_data_goes_on_as_if_nothing_had_happened(data, tmp_path):
    pretrain(data, tmp_path / "at once", recipe="intrinsic", epochs=3)
    pretrain(data, tmp_path / "in two parts", recipe="intrinsic", epochs=1)
    pretrain(data, tmp_path / "in two parts", resume=True, epochs=3)
    one, other = (load(tmp_path / name).objective.state_dict() for name in ("at once", "in two parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load(tmp_path / "at once").extra["data"] == data.content_hash
