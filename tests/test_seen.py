"""The list of structures that a model has learnt from: what is on it is found again, and nothing else."""

import io
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from crystalmax import seen
from crystalmax.checkpoint import Model, load
from crystalmax.encoders import SiteNet
from crystalmax.fingerprint import RANKS
from crystalmax.geometry import AllPairs
from crystalmax.learning.pretraining import pretrain
from crystalmax.objectives import Blend, Ensemble, Mixture, Reconstruction, Regression
from crystalmax.seen import Seen, caution, seen_before
from crystalmax.spec import describe
from crystalmax.storage.dataset import CrystalDataset
from crystals import perovskite, quartz, rock_salt, some_crystals


def test_structures_are_found_again_whatever_the_cell_and_small_relaxations(tmp_path):
    Seen.of([quartz(), rock_salt(), perovskite()]).save(tmp_path)
    found = Seen.load(str(tmp_path))
    assert len(found) == 3
    salt = rock_salt(5.7)
    doubled = replace(
        salt,
        lattice=salt.lattice * [[2], [1], [1]],
        positions=np.concatenate([salt.positions / [2, 1, 1], salt.positions / [2, 1, 1] + [0.5, 0, 0]]),
        species=np.tile(salt.species, 2),
    )
    asked = [doubled, rock_salt(kinds=("K", "Cl")), squeezed(rock_salt()), quartz()]
    structures, formulas = found.knows(asked)
    assert structures.tolist() == [True, False, False, True]
    assert formulas.tolist() == [True, False, True, True]
    model = model_in(tmp_path)
    assert seen_before(model, asked).startswith("2 of the 4 crystals were among the structures")
    assert seen_before(model, asked).endswith("(without labels), and 3 share a formula with one")
    assert seen_before(model, [rock_salt(kinds=("K", "Cl"))]).startswith("none of the 1 crystals")
    known_by_formula = "0 of the 1 crystals were among the structures that the vectors were learnt from"
    assert seen_before(model, [squeezed(rock_salt())]).startswith(known_by_formula)
    for elsewhere in (model_in(tmp_path / "elsewhere"), model_in(None), None):
        assert seen_before(elsewhere, asked).endswith("is not known")


def encoder():
    return SiteNet(site_width=3, crystal_width=4, hidden=4)


def model_in(folder, objective=None, **extra):
    return Model(objective or Reconstruction(encoder()), AllPairs(max_sites=8), extra, folder)


def supervised(target):
    """A mixture with a part that learns from labels."""
    return Mixture(encoder(), parts=(Reconstruction, partial(Regression, target=target)))


def test_what_a_model_learnt_with_labels_is_named_and_refused_for_crystals_that_it_knows(tmp_path):
    assert caution(None, some_crystals()) == caution(model_in(tmp_path), some_crystals()) == ""
    model = model_in(tmp_path, supervised("gap"), labels_of=["volume"])
    assert model.labels_of == ("gap", "volume")
    told = "The vectors were learnt with labels of 'gap', 'volume', of "
    assert caution(model, some_crystals()).startswith(f"{told}which crystals is not known: if of these")
    Seen.of([quartz(), rock_salt()]).save(tmp_path)
    assert caution(model, [perovskite()]) == f"{told}other crystals than these."
    asked = [perovskite(), replace(quartz(), key="my quartz")]
    assert "(with labels of 'gap', 'volume'), and 1 share" in seen_before(model, asked)
    with pytest.raises(
        ValueError, match=r"'gap', 'volume', and 1 of the 2 crystals, such as 'my quartz', .*leave them"
    ):
        caution(model, asked)


def test_what_was_fine_tuned_is_no_network_to_judge(tmp_path):
    networks = Ensemble([Regression(encoder(), target="gap")])
    for objective in (networks, Blend(networks, encoder(), labels=2, share=1.0)):
        with pytest.raises(
            ValueError, match=r"was fine-tuned: it has learnt with labels of 'gap'.*`crystalmax predict`"
        ):
            caution(model_in(tmp_path, objective, target="gap"), [quartz()])


def test_labels_of_the_start_of_a_start_are_not_forgotten(tmp_path):
    crystals = [replace(each, targets={"gap": 1.0}) for each in 2 * some_crystals()]
    data = CrystalDataset.from_crystals(crystals)
    alone, mixed = (
        {"objective": describe(each), "geometry": describe(AllPairs(max_sites=8))}
        for each in (Reconstruction(encoder()), supervised("gap"))
    )
    pretrain(data, tmp_path / "first", recipe=mixed, epochs=1)
    pretrain(data, tmp_path / "second", recipe=alone, start=tmp_path / "first", epochs=1)
    pretrain(data, tmp_path / "third", recipe=alone, start=tmp_path / "second", epochs=1)
    pretrain(data, tmp_path / "third", resume=True, epochs=2)
    pretrain(data, tmp_path / "other", recipe=alone, epochs=1)
    labels = {name: load(tmp_path / name).labels_of for name in ("first", "second", "third", "other")}
    assert labels == {"first": ("gap",), "second": ("gap",), "third": ("gap",), "other": ()}


def squeezed(crystal):
    """Another structure of the same formula: twice as long in one direction."""
    return replace(crystal, lattice=crystal.lattice @ np.diag([1, 1, 2.0]))


def test_of_several_structures_of_one_formula_each_is_found():
    polymorphs = [rock_salt(), squeezed(rock_salt())]
    assert Seen.of(polymorphs).knows(polymorphs)[0].all()


def test_every_crystal_is_on_the_list_of_itself(tmp_path):
    Seen.of(some_crystals()).save(tmp_path)
    structures, formulas = Seen.load(tmp_path).knows(some_crystals())
    assert structures.all()
    assert formulas.all()


def test_what_has_more_distances_is_another_structure_even_if_they_begin_alike():
    one = Seen.of([quartz()])
    longer = Seen(one.formula, 2 * one.end, np.tile(one.distance, 2))
    structures, formulas = longer.knows([quartz()])
    assert formulas.all()
    assert not structures.any()


def test_a_list_of_nothing_knows_nothing(tmp_path):
    Seen.of([]).save(tmp_path)
    structures, formulas = Seen.load(tmp_path).knows(some_crystals())
    assert not structures.any()
    assert not formulas.any()
    assert Seen.load(tmp_path / "nothing") is None


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_list_of_other_neighbours_is_none_that_is_known(tmp_path):
    Seen.of(some_crystals()).save(tmp_path)
    with np.load(tmp_path / seen.FILE) as arrays:
        of_now = dict(arrays)
    for ranks in ({}, {"ranks": np.arange(1, 9)}):
        (tmp_path / seen.FILE).write_bytes(packed(**{key: of_now[key] for key in ONE if key != "ranks"}, **ranks))
        assert Seen.load(tmp_path) is None
        assert "not known" in seen_before(model_in(tmp_path), some_crystals())


ONE = {
    "formula": np.zeros(1, np.uint64),
    "end": np.array([2]),
    "distance": np.zeros(2, np.uint8),
    "ranks": np.array(RANKS),
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a zip file"),
        (packed(**ONE)[:-30], "zip file"),
        (packed(formula=ONE["formula"], ranks=ONE["ranks"]), "end"),
        (packed(**{**ONE, "end": np.array([3])}), "do not fit together"),
        (packed(**{**ONE, "end": np.array([-1])}), "do not fit together"),
        (packed(**{**ONE, "end": np.array([1])}), "do not fit together"),
        (packed(**{**ONE, "formula": np.zeros(2, np.uint64)}), "do not fit together"),
        (packed(**{**ONE, "formula": np.zeros(2, np.uint64), "end": np.array([-1, 2])}), "do not fit together"),
        (packed(**{**ONE, "formula": np.zeros(3, np.uint64), "end": np.array([2, 1, 2])}), "do not fit together"),
        (packed(**{**ONE, "formula": np.zeros((1, 1), np.uint64)}), "do not fit together"),
        (packed(**{**ONE, "formula": np.array([{}], dtype=object)}), "allow_pickle"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, content, reason):
    (tmp_path / seen.FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"seen.npz is no list of structures \(.*{reason}.*remove it"):
        Seen.load(tmp_path)


def test_a_list_that_would_unpack_to_more_than_allowed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / seen.FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("formula.npy", bytes(1001))
    with pytest.raises(ValueError, match="1,001 bytes are more than 1,000"):
        Seen.load(tmp_path)


def test_a_run_keeps_a_list_of_what_it_has_learnt_from(tmp_path, monkeypatch):
    crystals = [*some_crystals(), *some_crystals()]
    pretrain(CrystalDataset.from_crystals(crystals), tmp_path / "run", epochs=1)
    assert Seen.load(tmp_path / "run").knows(crystals)[0].all()
    monkeypatch.setattr(seen, "MOST", 3)
    pretrain(CrystalDataset.from_crystals(crystals), tmp_path / "more", epochs=1)
    assert Seen.load(tmp_path / "more") is None
