"""Models on disk: the same vectors after loading, nothing unpickled, misfits refused in a sentence."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crystalmax import elements
from crystalmax.checkpoint import FORMAT, Model, load, save
from crystalmax.encoders import GaussianBasis, SiteNet
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.geometry import AllPairs
from crystalmax.integrity import verify
from crystalmax.learning.training import Split, Training, train
from crystalmax.objectives import DeepInfoMax, Regression
from crystalmax.objectives.base import Objective
from crystalmax.spec import describe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.writing import checksums, hash_of, write_json
from crystals import some_crystals
from disks import full_disk

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
    return CrystalFeaturizer(model.encoder, geometry=model.geometry, statistics=False).transform(some_crystals())


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


def test_weights_of_a_training_that_was_stopped_are_told_of(saved, caplog):
    said = f"the training of {saved} was stopped before its end; go on with it by --resume"
    save(Model(objective(), GEOMETRY, {"finished": True}), saved)
    load(saved)
    assert (caplog.text, verify(saved).notes) == ("", ())
    save(Model(objective(), GEOMETRY, {"finished": False}), saved)
    load(saved)
    assert said in caplog.text
    assert said in verify(saved).notes[0]


def test_a_fine_tuned_model_comes_back_too(tmp_path, batch):
    with seeded_weights(0):
        made = Regression(objective().encoder, target="gap", mean=2.5, deviation=0.5, hidden=4)
    save(Model(made, GEOMETRY, {}), tmp_path)
    twin = load(tmp_path).objective
    assert torch.equal(twin.predict(batch), made.predict(batch))


class Twice(Objective):
    """Keeps its encoder under a second name, within a part, and shares weights between two layers."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.part = encoder, DeepInfoMax(encoder)
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.one.weight = self.other.weight

    def forward(self, batch, rng):
        return self.part(batch, rng)


def test_weights_that_are_shared_come_back_shared(tmp_path):
    made = Twice(objective().encoder)
    save(Model(made, GEOMETRY, {}), tmp_path / "run")
    twin = load(tmp_path / "run", trusted=(__name__,)).objective
    assert twin.encoder is twin.part.encoder
    assert twin.one.weight is twin.other.weight
    for name, weights in made.state_dict().items():
        assert torch.equal(weights, twin.state_dict()[name])


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
    """What a stranger can do, who knows how to compute a hash."""
    spec = {**json.loads((folder / "spec.json").read_text()), **entries}
    del spec["content_hash"]
    write_json(folder / "spec.json", {**spec, "content_hash": hash_of(spec)})


def other_weights(folder, weights):
    save_file(weights, folder / "weights.safetensors")
    change(folder, files=checksums([folder / "weights.safetensors"]))


def drop_a_weight(folder):
    weights = load_file(folder / "weights.safetensors")
    weights.pop("encoder.to_site.weight")
    other_weights(folder, weights)


def reshape_a_weight(folder):
    weights = load_file(folder / "weights.safetensors")
    other_weights(folder, {**weights, "encoder.to_site.bias": torch.zeros(9)})


def truncate(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def lead_to_a_device(path):
    """One that ends, unlike /dev/zero, which would be read until memory is full."""
    path.unlink()
    path.symlink_to(os.devnull)


def flip_a_bit(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def edit_by_hand(folder):
    path = folder / "spec.json"
    text = path.read_text()
    path.write_text(text.replace('"beta": 0.2', '"beta": 0.3'))
    assert path.read_text() != text


def nested(levels):
    spec = {"use": "AllPairs"}
    for _ in range(levels):
        spec = {"use": "DeepInfoMax", "encoder": spec}
    return spec


def ask_for_much(folder, **sizes):
    spec = json.loads((folder / "spec.json").read_text())["objective"]
    change(folder, objective={**spec, "encoder": {**spec["encoder"], **sizes}})


DAMAGES = {
    "another format": (lambda folder: change(folder, format=99), f"has format 99, but .* reads format {FORMAT}"),
    "another element table": (
        lambda folder: change(folder, element_table="0123456789ab"),
        "another element table .0123456789ab.*install crystalmax .* or train it again",
    ),
    "no spec": (lambda folder: (folder / "spec.json").unlink(), "holds no trained model .*crystalmax pretrain"),
    "half a spec": (lambda folder: (folder / "spec.json").write_text('{"format": 1'), "holds no trained model"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be loaded: .*No such"),
    "half the weights": (truncate, r"is not as it was saved: it has [\d,]+ bytes and had [\d,]+"),
    "a bit of the weights": (flip_a_bit, "weights.safetensors is not as it was saved"),
    "a spec that was edited": (edit_by_hand, "spec.json is not as it was saved; train the model again"),
    "weights that are no safetensors": (
        lambda folder: [
            (folder / "weights.safetensors").write_bytes(b"\x80\x04pickle"),
            change(folder, files=checksums([folder / "weights.safetensors"])),
        ],
        "the weights in .* cannot be loaded",
    ),
    "far too many weights": (
        lambda folder: [
            (folder / "weights.safetensors").write_bytes(bytes(2**21)),
            change(folder, files=checksums([folder / "weights.safetensors"])),
        ],
        r"has 2,097,152 bytes, but the parts in spec.json can need 1 to [\d,]+; train",
    ),
    "a spec that is a device": (
        lambda folder: lead_to_a_device(folder / "spec.json"),
        "spec.json has 0 bytes, not 1 to 16,777,216",
    ),
    "weights that are a device": (
        lambda folder: lead_to_a_device(folder / "weights.safetensors"),
        "has 0 bytes, but the parts in spec.json can need 1 to",
    ),
    "a list of files that is none": (lambda folder: change(folder, files={"../x": 3}), "cannot be compared with"),
    "a list of other files": (lambda folder: change(folder, files={}), "cannot be compared with"),
    "a missing entry": (lambda folder: change(folder, extra=None), "has no sound entry 'extra'"),
    "a bottomless spec": (lambda folder: change(folder, objective=nested(400)), "nested too deeply|no trained model"),
    "a network of 10^18 weights": (lambda folder: ask_for_much(folder, hidden=10**9), r"more than 100,000,000 in"),
    "a size beyond integers": (lambda folder: ask_for_much(folder, hidden=10**30), "cannot be made with these"),
    "a size that is none": (
        lambda folder: ask_for_much(folder, hidden="wide"),
        "hidden of SiteNet is 'wide'; give int",
    ),
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


@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk_leaves_the_model_that_was_there(nth, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with full_disk(nth) as disk, pytest.raises(OSError, match="No space left"):
        save(Model(objective(seed=1), GEOMETRY, {}), saved)
    assert disk.full
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with full_disk(nth), pytest.raises(OSError, match="No space left"):
        save(Model(objective(seed=1), GEOMETRY, {}), saved / "new")
    with pytest.raises(ValueError, match="holds no trained model"):
        load(saved / "new")


def test_saving_again_replaces_the_model(saved):
    save(Model(objective(seed=1), GEOMETRY, {"note": "again"}), saved)
    assert load(saved).extra == {"note": "again"}
    np.testing.assert_array_equal(vectors(load(saved)), vectors(Model(objective(seed=1), GEOMETRY, {})))
