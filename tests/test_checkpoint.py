"""Models on disk: the same vectors after loading, nothing unpickled, misfits refused in a sentence."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crystalmax import checkpoint, elements
from crystalmax.checkpoint import FORMAT, Model, load, save, write_json
from crystalmax.dataset import CrystalDataset
from crystalmax.encoders import GaussianBasis, SiteNet
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.geometry import AllPairs
from crystalmax.objectives import DeepInfoMax, Regression
from crystalmax.spec import describe
from crystalmax.training import Split, Training, seeded_weights, train
from crystals import some_crystals

GEOMETRY = AllPairs(max_sites=12)


def objective(seed=0):
    with seeded_weights(seed):
        net = SiteNet(site_width=4, crystal_width=6, hidden=8, distance=GaussianBasis(width=3))
        return DeepInfoMax(net, beta=0.2)


@pytest.fixture
def saved(tmp_path):
    save(Model(objective(), GEOMETRY, {"note": "by hand"}), tmp_path / "run")
    return tmp_path / "run"


def vectors(model):
    return CrystalFeaturizer(model.encoder, geometry=model.geometry).transform(some_crystals())


def test_a_model_comes_back_bit_for_bit(saved):
    model = load(saved)
    assert model.geometry == GEOMETRY
    assert model.extra == {"note": "by hand"}
    assert describe(model.objective) == describe(objective())
    assert not model.objective.training
    for name, weights in objective().state_dict().items():
        assert torch.equal(weights, model.objective.state_dict()[name])
    np.testing.assert_array_equal(vectors(model), vectors(Model(objective(), GEOMETRY, {})))
    assert not np.array_equal(vectors(model), vectors(Model(objective(seed=1), GEOMETRY, {})))


def test_a_fine_tuned_model_comes_back_too(tmp_path, batch):
    with seeded_weights(0):
        made = Regression(objective().encoder, target="gap", mean=2.5, deviation=0.5, hidden=4)
    save(Model(made, GEOMETRY, {}), tmp_path)
    twin = load(tmp_path).objective
    assert torch.equal(twin.predict(batch), made.predict(batch))


def test_loading_draws_no_random_numbers(saved):
    state = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_unpickles_nothing(saved, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, forbidden)
    load(saved)


def test_a_model_needs_two_files_that_are_no_pickles(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["spec.json", "weights.safetensors"]
    json.loads((saved / "spec.json").read_text())
    load_file(saved / "weights.safetensors")


def test_logs_and_training_state_of_a_run_are_not_needed_to_load_it(tmp_path):
    run, made = tmp_path / "run", objective()
    data = CrystalDataset.from_crystals(some_crystals())
    rows = np.arange(len(data))
    train(made, data, Split(rows, rows[:0]), Training(epochs=1), geometry=GEOMETRY, folder=run)
    save(Model(made, GEOMETRY, {}), run)
    for path in [path for path in run.rglob("*") if path.is_file()]:
        if path.name not in ("spec.json", "weights.safetensors"):
            path.unlink()
    np.testing.assert_array_equal(vectors(load(run)), vectors(Model(made, GEOMETRY, {})))


def change(folder, **entries):
    spec = json.loads((folder / "spec.json").read_text())
    write_json(folder / "spec.json", {**spec, **entries})


def drop_a_weight(folder):
    weights = load_file(folder / "weights.safetensors")
    weights.pop("encoder.to_site.weight")
    save_file(weights, folder / "weights.safetensors")


def reshape_a_weight(folder):
    weights = load_file(folder / "weights.safetensors")
    save_file({**weights, "encoder.to_site.bias": torch.zeros(9)}, folder / "weights.safetensors")


def truncate(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {
    "another format": (lambda folder: change(folder, format=99), f"has format 99, but .* reads format {FORMAT}"),
    "another element table": (
        lambda folder: change(folder, element_table="0123456789ab"),
        "another element table .0123456789ab.*install crystalmax .* or train it again",
    ),
    "no spec": (lambda folder: (folder / "spec.json").unlink(), "holds no trained model .*crystalmax pretrain"),
    "half a spec": (lambda folder: (folder / "spec.json").write_text('{"format": 1'), "holds no trained model"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be loaded: .*No such"),
    "half the weights": (truncate, "weights in .* cannot be loaded"),
    "a missing weight": (drop_a_weight, "cannot be loaded: .*Missing key.*encoder.to_site.weight"),
    "a weight of another shape": (reshape_a_weight, "cannot be loaded: .*size mismatch.*encoder.to_site.bias"),
    "parts that are no objective": (
        lambda folder: change(folder, objective={"use": "AllPairs"}),
        "names parts that are not an objective and a geometry",
    ),
    "parts from elsewhere": (
        lambda folder: change(folder, objective={"use": "os.system", "command": "true"}),
        "refusing to import 'os.system'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_refused_in_a_sentence(damage, saved):
    spoil, sentence = DAMAGES[damage]
    spoil(saved)
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        load(saved)


def test_the_element_table_travels_with_the_weights(saved, monkeypatch):
    monkeypatch.setattr(elements, "features_hash", lambda: "ffffffffffff")
    with pytest.raises(ValueError, match=r"than this version has \(ffffffffffff\)"):
        load(saved)


def test_a_spec_is_whole_or_not_there(tmp_path, monkeypatch):
    """Weights come first, so a save that dies in between leaves no folder that looks like a model."""
    monkeypatch.setattr(checkpoint, "write_json", lambda path, data: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(Model(objective(), GEOMETRY, {}), tmp_path)
    with pytest.raises(ValueError, match="holds no trained model"):
        load(tmp_path)


def test_saving_again_replaces_the_model(saved):
    save(Model(objective(seed=1), GEOMETRY, {"note": "again"}), saved)
    assert load(saved).extra == {"note": "again"}
    np.testing.assert_array_equal(vectors(load(saved)), vectors(Model(objective(seed=1), GEOMETRY, {})))
