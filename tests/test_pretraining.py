"""Pre-training from a recipe that has to prepare the data set first."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalmax.checkpoint import load
from crystalmax.crystal import N_KIND_COLUMNS
from crystalmax.encoders import SiteNet
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.geometry import AllPairs
from crystalmax.integrity import verify
from crystalmax.learning import pretraining
from crystalmax.learning.pretraining import parts_of, pretrain, untrained
from crystalmax.learning.saving import Interrupted
from crystalmax.learning.training import Split, train
from crystalmax.learning.vectors import encode
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.seen import FILE, Seen
from crystalmax.segments import segment_mean
from crystalmax.shipped import SHIPPED
from crystalmax.spec import read_recipe
from crystalmax.statistics import baselines
from crystalmax.statistics.intrinsic import Density
from crystalmax.storage.dataset import CrystalDataset
from crystals import rock_salt, some_crystals


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
    (tmp_path / "in two parts" / "history.jsonl.0a1b2c3d.partial").write_bytes(b"{")  # as a kill leaves it
    pretrain(data, tmp_path / "in two parts", resume=True, epochs=3)
    assert verify(tmp_path / "in two parts").faults == ()
    one, other = (load(tmp_path / name).objective.state_dict() for name in ("at once", "in two parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load(tmp_path / "at once").extra["data"] == data.content_hash


def test_data_may_be_the_folder_of_a_data_set(data, tmp_path):
    stored = ingest(canonical_records(list(data)), tmp_path / "data", made_from=["memory"]).data
    pretrain(str(tmp_path / "data"), tmp_path / "run", recipe="intrinsic", epochs=1)
    assert load(tmp_path / "run").extra["data"] == stored.content_hash


def test_other_crystals_in_memory_do_not_go_on_with_a_run(data, tmp_path):
    pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    with pytest.raises(ValueError, match="began with other crystals"):
        pretrain(CrystalDataset.from_crystals(list(data)[::-1]), tmp_path / "run", resume=True, epochs=2)


def test_a_run_goes_on_only_as_it_began(data, tmp_path, monkeypatch):
    pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    for other, said in (({"recipe": "paper"}, "another recipe than paper"), ({"start": SHIPPED}, "did not start from")):
        with pytest.raises(ValueError, match=said):
            pretrain(data, tmp_path / "run", resume=True, epochs=2, **other)
    given = read_recipe("intrinsic")
    other = {**given, "training": {**given["training"], "learning_rate": 0.5}}
    with pytest.raises(ValueError, match="another recipe"):
        pretrain(data, tmp_path / "run", resume=True, epochs=2, recipe=other)
    pretrain(data, tmp_path / "run", resume=True, epochs=2, recipe="intrinsic")
    monkeypatch.setattr("crystalmax.elements.features_hash", lambda: "another")
    with pytest.raises(ValueError, match="began with another element table"):
        pretrain(data, tmp_path / "run", resume=True, epochs=3)


def test_the_default_is_another_recipe_too_when_it_is_asked_for(data, tmp_path):
    pretrain(data, tmp_path / "run", recipe="fast", epochs=1)
    with pytest.raises(ValueError, match="another recipe than default"):
        pretrain(data, tmp_path / "run", resume=True, epochs=2, recipe="default")
    pretrain(data, tmp_path / "run", resume=True, epochs=2)


def test_too_few_crystals_leave_nothing_in_the_way(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="at least 2 crystals, but there are 1"):
            pretrain(CrystalDataset.from_crystals(some_crystals()[:1]), tmp_path / "run", recipe="fast", epochs=1)


def test_two_jobs_do_not_write_one_run(data, tmp_path, monkeypatch):
    run, refused = tmp_path / "run", []

    def meanwhile(*given, **how):
        with pytest.raises(BlockingIOError, match="another job is writing") as error:
            pretrain(data, run, resume=True, epochs=7)
        refused.append(error)
        assert json.loads((run / "run.json").read_bytes())["training"]["epochs"] == 1
        return train(*given, **how)

    monkeypatch.setattr(pretraining, "train", meanwhile)
    pretrain(data, run, recipe="intrinsic", epochs=1)
    monkeypatch.undo()
    assert refused
    assert len(pretrain(data, run, resume=True, epochs=2)) == 2, "it is held no longer"


@pytest.fixture(scope="module")
def known(data, tmp_path_factory):
    """A run on the first data set."""
    run = tmp_path_factory.mktemp("known") / "run"
    pretrain(data, run, recipe="intrinsic", epochs=2)
    return run


@pytest.fixture(scope="module")
def others():
    pairs = [("K", "Br"), ("Li", "F"), ("Mg", "O"), ("Rb", "I"), ("Ca", "S")]
    return CrystalDataset.from_crystals([rock_salt(5 + i / 9, pair, key=f"{i}") for i, pair in enumerate(pairs)])


def standing_still(name):
    """A recipe whose training changes nothing."""
    recipe = read_recipe(name)
    return {**recipe, "training": {"learning_rate": 1e-30, "weight_decay": 0.0}}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_starts_with_all_weights_of_a_model_or_with_those_of_its_encoder(known, others, tmp_path):
    before = load(known)
    after = load_after(others, tmp_path / "same", recipe=standing_still("intrinsic"), start=known)
    assert same(after.objective.state_dict(), before.objective.state_dict())
    after = load_after(others, tmp_path / "infomax", recipe=standing_still("infomax"), start=known)
    assert same(after.encoder.state_dict(), before.encoder.state_dict())
    without = load_after(others, tmp_path / "without", recipe=standing_still("intrinsic"))
    assert not same(without.encoder.state_dict(), before.encoder.state_dict())
    learnt = load_after(others, tmp_path / "learnt", recipe="intrinsic", start=known)
    assert not same(learnt.encoder.state_dict(), before.encoder.state_dict())


def load_after(data, run, **how):
    pretrain(data, run, epochs=1, **how)
    return load(run)


def test_another_encoder_is_refused_before_anything_is_written(known, others, tmp_path):
    with pytest.raises(ValueError, match="the encoder of the recipe is not that of"):
        pretrain(others, tmp_path / "run", recipe="cgcnn", start=known)
    with pytest.raises(ValueError, match="holds no trained model"):
        pretrain(others, tmp_path / "run", start=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_run_that_started_from_a_model_needs_it_no_more(known, others, tmp_path):
    """Killed before it saved anything, it still begins where it was to begin, and one that had no plan begins anew."""
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(known, model)
    pretrain(others, run, epochs=2, start=model)
    weights = load(run).objective.state_dict()
    for name in ("last.ckpt", "spec.json", "weights.safetensors"):
        (run / name).unlink()
    shutil.rmtree(model)
    pretrain(others, run, epochs=2, resume=True)
    assert same(load(run).objective.state_dict(), weights)
    for path in [path for path in run.iterdir() if path.name != "start"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / ".start.lock").touch()  # as it is while the start is copied
    pretrain(others, run, epochs=2, start=known)
    assert same(load(run).objective.state_dict(), weights)


def test_what_a_model_had_seen_counts_as_seen_by_what_started_from_it(data, known, others, tmp_path, caplog):
    pretrain(others, tmp_path / "run", epochs=1, start=known)
    seen = Seen.load(tmp_path / "run")
    both = [*data, *others]
    assert len(seen) == len(both)
    assert all(seen.knows(both)[0])
    assert not any(Seen.load(known).knows(list(others))[0])
    nameless = tmp_path / "nameless"
    shutil.copytree(known, nameless, ignore=shutil.ignore_patterns(FILE))
    with caplog.at_level("INFO"):
        pretrain(others, tmp_path / "unknown", epochs=1, start=nameless)
    assert Seen.load(tmp_path / "unknown") is None
    assert "not known which ones" in caplog.text


def test_a_run_goes_on_as_it_began_or_says_why_not(data, tmp_path):
    run = tmp_path / "run"
    pretrain(data, run, recipe="intrinsic", epochs=2)
    plan = (run / "run.json").read_bytes()
    with pytest.raises(ValueError, match="has 2 epochs behind it, more than 1"):
        pretrain(data, run, resume=True, epochs=1)
    with pytest.raises(ValueError, match="began with seed = 0, not 9"):
        pretrain(data, run, resume=True, seed=9)
    assert (run / "run.json").read_bytes() == plan
    for text in ("{}", "[]", plan.decode().replace('"epochs": 2', '"epochs": 3')):
        (run / "run.json").write_text(text)
        with pytest.raises(ValueError, match="holds no run to resume"):
            pretrain(data, run, resume=True)


def test_a_checkpoint_with_another_byte_is_no_start(data, tmp_path):
    run = tmp_path / "run"
    pretrain(data, run, recipe="intrinsic", epochs=1)
    content = bytearray((run / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt was cut short or damaged"):
        pretrain(data, run, resume=True, epochs=2)


@pytest.mark.parametrize("content", ["{", '{"split": "train"}\n', "[]\n", "\udcff"])
def test_a_damaged_history_is_named(content, data, tmp_path):
    pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    (tmp_path / "run" / "history.jsonl").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"history\.jsonl is damaged \(.*\); remove it, and training writes it anew"):
        pretrain(data, tmp_path / "run", resume=True, epochs=2)
    (tmp_path / "run" / "history.jsonl").unlink()
    assert pretrain(data, tmp_path / "run", resume=True, epochs=2)[-1]["epoch"] == 2


def test_a_run_goes_on_with_the_split_that_it_began_with(data, tmp_path):
    rows = np.arange(len(data))
    split = Split(rows[:20], rows[20:])
    pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1, split=split)
    for other in (None, Split(rows[20:], rows[:20]), Split(rows[:19], rows[19:])):
        with pytest.raises(ValueError, match="began with another split of the crystals"):
            pretrain(data, tmp_path / "run", resume=True, epochs=2, split=other)
    assert pretrain(data, tmp_path / "run", resume=True, epochs=2, split=split)[-1]["epoch"] == 2


def test_a_run_whose_state_is_gone_says_that_it_begins_anew(data, tmp_path, caplog):
    pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    assert "begins anew" not in caplog.text
    (tmp_path / "run" / "last.ckpt").unlink()
    history = pretrain(data, tmp_path / "run", resume=True, epochs=2)
    assert "last.ckpt is missing, so training begins anew" in caplog.text
    assert [row["epoch"] for row in history if row["split"] == "train"] == [1, 2]


class Forgets(Density):
    """Does not store what it is made with."""

    def __init__(self, depth=3):
        pass


def test_what_could_not_be_saved_is_refused_before_training(data, tmp_path):
    recipe = read_recipe("intrinsic")
    forgets = {"use": f"{__name__}.Forgets"}
    content = {**recipe, "objective": {**recipe["objective"], "intrinsics": [forgets]}}
    with pytest.raises(ValueError, match=r"Forgets does not store its argument 'depth'"):
        pretrain(data, tmp_path / "run", recipe=content, trusted=(__name__,))
    assert not (tmp_path / "run").exists()


def test_objects_among_what_a_recipe_holds_are_refused_before_anything_is_written(data, tmp_path):
    objective = {"use": "DeepInfoMax", "encoder": {"use": "SiteNet"}}
    for others in ({"encoder": SiteNet()}, {"beta": np.float32(0.1)}):
        with pytest.raises(ValueError, match=r"cannot be written to a file .*(SiteNet|float32).*; give describe.it."):
            pretrain(data, tmp_path / "run", recipe={"objective": {**objective, **others}})
    with pytest.raises(ValueError, match=r"cannot be written to a file .*AllPairs"):
        pretrain(data, tmp_path / "run", recipe={"objective": objective, "geometry": AllPairs()})
    assert not (tmp_path / "run").exists()


class Activated(SiteNet):
    """Holds a part of a package that nobody said they trust."""

    def __init__(self, *, site_width=4, crystal_width=6, hidden=8, activation=torch.nn.SiLU):
        super().__init__(site_width=site_width, crystal_width=crystal_width, hidden=hidden)
        self.activation = activation


class Bare(torch.nn.Module):
    """No objective, as it inherits none."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder


def test_what_could_not_be_loaded_is_refused_before_training(data, tmp_path):
    encoder = {"use": f"{__name__}.Activated"}
    content = {"objective": {"use": "DeepInfoMax", "encoder": encoder}}
    with pytest.raises(ValueError, match=r"at encoder.activation: refusing to import 'torch.nn.modules.activation"):
        pretrain(data, tmp_path / "run", recipe=content, trusted=(__name__,))
    assert not (tmp_path / "run").exists()
    untrained(parts_of(content), 0, trusted=(__name__, "torch"))
    content = {"objective": {"use": f"{__name__}.Bare", "encoder": encoder}}
    with pytest.raises(ValueError, match=r"\[objective\] is Bare and \[geometry\] AllPairs; a recipe needs one that"):
        pretrain(data, tmp_path / "run", recipe=content, trusted=(__name__,))


class Odd(SiteNet):
    """Trains without an error, but for nothing."""

    def __init__(self, *, fault="none"):
        super().__init__(site_width=4, crystal_width=4, hidden=8)
        self.fault = fault
        self.layers = [torch.nn.Linear(4, 4)]
        self.shift = torch.rand(4)

    @property
    def widths(self):
        widths = super().widths
        return {"atom": widths["site"], "crystal": widths["crystal"]} if self.fault == "names" else widths

    def forward(self, batch, *, greedy=False):
        with torch.no_grad() if self.fault == "no_grad" else nullcontext():
            site, crystal = super().forward(batch, greedy=greedy).levels
        if self.fault == "layers":
            crystal = replace(crystal, summaries=self.layers[0](crystal.summaries))
        if self.fault == "tensor":
            crystal = replace(crystal, summaries=crystal.summaries + self.shift)
        if self.fault == "one row":
            crystal = replace(crystal, summaries=crystal.summaries[:1], crystal=crystal.crystal[:1])
        return Encoding((crystal, site) if self.fault == "order" else (site, crystal))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "order",
            r"Odd gives crystal vectors of shape \(\d+, 4\), not \(8, 4\); let its last level have one a crystal",
        ),
        ("one row", r"Odd gives crystal vectors of shape \(1, 4\), not \(8, 4\); let its last level"),
        ("names", r"Odd promises the levels \['atom', 'crystal'\] but returns \['site', 'crystal'\]; make `widths`"),
        ("no_grad", "crystal vectors of Odd depend on none of its weights; leave `detach` and `no_grad` out"),
        ("layers", "Odd gives other vectors once it is built again and has its weights back; keep layers in"),
        ("tensor", "Odd gives other vectors once it is built again .*, and other tensors by `register_buffer`"),
    ],
)
def test_an_encoder_that_would_be_trained_in_vain_is_refused_before_anything_is_written(fault, message, data, tmp_path):
    objective = {"use": "Reconstruction", "encoder": {"use": f"{__name__}.Odd", "fault": fault}}
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        pretrain(data, tmp_path / "run", recipe={"objective": objective}, trusted=(__name__,))
    assert not (tmp_path / "run").exists()
    assert torch.equal(before, torch.get_rng_state())
    objective["encoder"]["fault"] = "none"
    pretrain(data, tmp_path / "run", recipe={"objective": objective}, epochs=1, trusted=(__name__,))


class Doubled(SiteNet):
    """Stores another width than it is given."""

    def __init__(self, *, site_width=4):
        super().__init__(site_width=2 * site_width, crystal_width=4, hidden=8)


def test_a_part_that_would_be_read_back_as_another_is_refused_before_training(data, tmp_path):
    objective = {"use": "Reconstruction", "encoder": {"use": f"{__name__}.Doubled"}}
    with pytest.raises(ValueError, match=r"Reconstruction, or a part of it, is built differently from its description"):
        pretrain(data, tmp_path / "run", recipe={"objective": objective}, trusted=(__name__,))
    assert not (tmp_path / "run").exists()


class Counts(torch.nn.Module):
    """Knows a crystal by its kinds of sites, and has no weights."""

    widths = {"crystal": Widths(N_KIND_COLUMNS, N_KIND_COLUMNS)}  # noqa: RUF012

    def forward(self, batch, *, greedy=False):
        kinds, sites = batch.kinds[batch.species], torch.arange(batch.n_sites)
        whole = Constituents(kinds, sites, batch.crystal_of_site, torch.ones(batch.n_sites))
        means = segment_mean(kinds, batch.crystal_of_site, batch.n_crystals)
        return Encoding((Level("crystal", whole, means, torch.arange(batch.n_crystals)),))


def test_an_encoder_without_weights_gives_vectors_too(data, tmp_path):
    objective = {"use": "Reconstruction", "encoder": {"use": f"{__name__}.Counts"}}
    pretrain(data, tmp_path / "run", recipe={"objective": objective}, epochs=1, trusted=(__name__,))
    model = load(tmp_path / "run", trusted=(__name__,))
    assert encode(model.encoder, model.geometry, data).shape == (len(data), N_KIND_COLUMNS)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has such a device")
def test_a_place_that_is_no_folder_is_refused_in_words(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is no folder; choose another place"):
        pretrain(data, tmp_path / "file" / "run", recipe="fast", epochs=1)


def test_a_device_that_there_is_not_is_refused_before_anything_is_written(data, tmp_path):
    with pytest.raises(ValueError, match="1 devices of accelerator 'gpu' cannot be used"):
        pretrain(data, tmp_path / "run", recipe="intrinsic", accelerator="gpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_a_signal_while_numbers_are_prepared_stops_and_the_run_goes_on(data, tmp_path, monkeypatch):
    made = baselines.statistics

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return made(*arguments)

    monkeypatch.setattr(baselines, "statistics", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(baselines, "statistics", made)
    assert pretrain(data, tmp_path / "run", resume=True)[-1]["epoch"] == 1
