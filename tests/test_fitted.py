"""A model from few labels on disk: read back it is the same, and what was changed or is not one is refused."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crystalmax import CrystalFeaturizer, CrystalRegressor, SmallDataRegressor
from crystalmax.checkpoint import Model
from crystalmax.encoders import SiteNet
from crystalmax.fitted import Fitted, fit, holds_fit, load, predict, save
from crystalmax.geometry import AllPairs
from crystalmax.integrity import verify
from crystalmax.objectives import Regression
from crystalmax.reading.records import Record
from crystalmax.reading.records import labelled as gathered
from crystalmax.reading.structures import Refused
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.writing import check_free, hash_of
from crystals import perovskite, pure, rock_salt


def labelled():
    """Salts whose value is their edge, two of them polymorphs of one formula."""
    kinds = [("Na", "Cl"), ("K", "Cl"), ("Mg", "O"), ("Li", "F"), ("Pb", "S"), ("Ca", "O"), ("Na", "Cl")]
    edges = [5.64, 6.29, 4.21, 4.03, 5.99, 4.81, 5.1]
    salts = [rock_salt(edge, pair, key=f"salt {edge}") for edge, pair in zip(edges, kinds, strict=True)]
    return [replace(salt, targets={"edge": edge}) for salt, edge in zip(salts, edges, strict=True)]


def network():
    encoder = SiteNet(site_width=3, crystal_width=4, hidden=4)
    return Model(Regression(encoder, target="edge").eval(), AllPairs(max_sites=8), {})


def records():
    good = perovskite(4.0, pure("Sr", "Ti", "O"), key="perovskite")
    refused = Refused("broken", "it is empty", "fill it")
    return [Record("perovskite", "", good), Record("broken", "", refusal=refused)]


@pytest.fixture(scope="module")
def plain():
    """A fit to statistics, which no test may change."""
    return fit(labelled(), "edge")


@pytest.fixture(scope="module")
def with_vectors():
    """A fit to statistics and vectors, which no test may change."""
    return fit(labelled(), "edge", model=network())


@pytest.mark.parametrize("model", [None, network()], ids=["statistics", "and vectors"])
def test_what_is_read_back_predicts_the_same(tmp_path, model):
    found = fit(labelled(), "edge", model=model, seed=3)
    save(found, str(tmp_path / "fit"))
    assert holds_fit(tmp_path / "fit")
    again = load(str(tmp_path / "fit"))
    assert again.target == "edge"
    wide, table = (predict(records(), found, coverage=coverage) for coverage in (0.6, 0.3))
    assert table.equals(predict(records(), again, coverage=0.3))
    assert table.high[0] - table.low[0] < wide.high[0] - wide.low[0]
    assert table.key.tolist() == ["perovskite", "broken"]
    assert table[["prediction", "low", "high"]].notna().all(axis=1).tolist() == [True, False]
    assert "it is empty" in table.refusal[1]


def test_elements_that_no_labelled_crystal_has_are_noted(plain, with_vectors):
    known, new = (perovskite(4.0, pure("Ca", metal, "O"), key=metal) for metal in ("Pb", "Ti"))
    table = predict([Record("a", "", known, notes=("x",)), Record("b", "", new, notes=("y",))], plain)
    assert table.note.tolist() == ["x", "y; no labelled crystal has Ti"]
    refused = predict(records(), with_vectors)
    assert refused.note.tolist() == ["no labelled crystal has Ti, Sr", ""]


def test_it_is_the_regressor_on_what_the_featurizer_makes(plain):
    crystals = labelled()
    numbers = plain.numbers.astype(float)
    np.testing.assert_allclose(CrystalFeaturizer(None).transform(crystals), numbers, rtol=1e-5, atol=1e-5)
    values = np.array([crystal.targets["edge"] for crystal in crystals])
    direct = SmallDataRegressor(blocks=CrystalFeaturizer(None).blocks).fit(numbers, values, plain.groups)
    np.testing.assert_array_equal(plain.regressor.held_out_, direct.held_out_)
    elsewhere = 1.1 * numbers  # forests agree on what they learnt from
    np.testing.assert_array_equal(plain.regressor.predict(elsewhere), direct.predict(elsewhere))


def test_crystals_of_one_formula_are_left_out_together(plain):
    assert plain.groups.tolist().count(plain.groups[0]) == 2


def test_formulas_too_few_for_intervals_are_told_of(caplog):
    pairs = [("Na", "F"), ("K", "F"), ("Rb", "F")]
    more = [replace(rock_salt(5, pair, key=pair[0]), targets={"edge": 5.0}) for pair in pairs]
    fit(labelled() + labelled()[:2], "edge")  # nine labels
    fit([labelled()[0], *(replace(labelled()[0], key="again") for _ in range(4))], "edge")
    fit(labelled() + more[:2], "edge")
    assert caplog.messages == [
        "intervals of 90 % need 9 formulas; with 6 they are too narrow",
        "intervals of 90 % need 9 labels of one formula; with 5 they are too narrow",
        "intervals of 90 % need 9 formulas; with 8 they are too narrow",
    ]
    caplog.clear()
    found = fit(labelled() + more, "edge")
    fit(9 * labelled()[:1], "edge")
    predict([], found, coverage=0.9)
    assert caplog.messages == []
    predict([], found, coverage=0.95)
    assert caplog.messages == ["intervals of 95 % need 19 formulas; with 9 they are too narrow"]


def test_labels_so_many_that_a_fit_takes_minutes_are_told_of(caplog, monkeypatch):
    caplog.set_level("INFO")
    for most, told in ((7, 0), (6, 1)):
        monkeypatch.setattr("crystalmax.fitted._MANY", most)
        caplog.clear()
        assert fit(labelled(), "edge").regressor
        assert caplog.text.count("fitting to 7 labels takes minutes and about 0.5 GB of memory; ") == told


def test_what_is_saved_is_told_of_beside_the_median(plain, tmp_path):
    edges = np.array([5.64, 6.29, 4.21, 4.03, 5.99, 4.81, 5.1])
    assert save(plain, tmp_path / "fit") == (plain.regressor.error_, pytest.approx(np.abs(edges - 5.1).mean()))


def test_two_crystals_at_least_have_a_value_and_none_an_absurd_one():
    known = [Record(crystal.key, "", crystal, crystal.targets) for crystal in labelled()]
    assert len(gathered(known[:2], "edge").crystals) == 2
    with pytest.raises(ValueError, match=r"two crystals are needed, and only 'salt 5.64' has a value of 'edge'; the"):
        gathered(known[:1], "edge")
    with pytest.raises(ValueError, match=r"^no crystal has a value of 'gap'; the properties are: edge; a column of"):
        gathered(known, "gap")
    absurd = replace(known[0], targets={"edge": -1e308})
    with pytest.raises(ValueError, match=r"^'edge' of 'salt 5.64' is -1e\+308; correct it"):
        gathered([*known, absurd], "edge")


def test_one_formula_alone_is_left_out_crystal_by_crystal():
    salts = [replace(rock_salt(edge), targets={"edge": edge}) for edge in (5.0, 5.2, 5.4, 5.6)]
    assert np.isfinite(fit(salts, "edge").regressor.error_)


def changed(folder, *, hashed=True, **entries):
    """By somebody who knows how to compute a hash, or does not."""
    path = folder / "fit.json"
    *others, (_, old) = {**json.loads(path.read_text()), **entries}.items()
    path.write_text(json.dumps({**dict(others), "content_hash": hash_of(dict(others)) if hashed else old}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "fit.json").write_text("{"), "holds no fitted model"),
        (lambda folder: (folder / "fit.json").write_text("[]"), "does not describe a fitted model"),
        (lambda folder: changed(folder, format=7), "has format 7"),
        (lambda folder: changed(folder, target=None), "does not describe a fitted model"),
        (lambda folder: changed(folder, files={}), "does not describe a fitted model"),
        (lambda folder: changed(folder, columns=["another"]), "columns that this version does not make"),
        (lambda folder: changed(folder, hashed=False, target="another"), "fit.json is not as it was saved"),
        (lambda folder: (folder / "labels.safetensors").write_bytes(b"else"), "is not as it was saved"),
        (lambda folder: (folder / "labels.safetensors").unlink(), "labels.safetensors is missing; fit it again"),
    ],
)
def test_what_was_changed_is_refused(plain, tmp_path, break_it, message):
    save(plain, tmp_path / "fit")
    break_it(tmp_path / "fit")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "fit")


def test_columns_that_another_version_made_otherwise_are_refused(plain, tmp_path, monkeypatch):
    save(plain, tmp_path / "fit")
    assert load(tmp_path / "fit").target == "edge"
    monkeypatch.setattr("crystalmax.statistics.surroundings.SOFTENING", 4)
    with pytest.raises(ValueError, match="to columns that this version does not make; fit it again"):
        load(tmp_path / "fit")


@pytest.mark.parametrize(("kind", "n_compared"), [("plain", 1), ("with_vectors", 2)])
def test_damage_is_found(tmp_path, kind, n_compared, request):
    save(request.getfixturevalue(kind), tmp_path / "fit")
    sound = verify(tmp_path / "fit")
    assert (sound.n_compared, sound.n_read, sound.faults) == (n_compared, 0, ())
    (tmp_path / "fit" / "notes.csv").touch()
    (tmp_path / "fit" / "notes.csv.partial").touch()
    beside = verify(tmp_path / "fit")
    assert beside.n_read == 1
    assert "notes.csv.partial is left over" in beside.faults[0]
    (tmp_path / "fit" / "notes.csv.partial").unlink()
    path = tmp_path / "fit" / "labels.safetensors"
    *others, last = path.read_bytes()
    path.write_bytes(bytes([*others, last ^ 1]))
    assert "labels.safetensors is damaged" in verify(tmp_path / "fit").faults[0]
    changed(tmp_path / "fit", target=None)
    assert "does not describe a fitted model" in verify(tmp_path / "fit").faults[0]


@pytest.mark.parametrize("name", ["encoder", "encoder/spec.json", "encoder/weights.safetensors"])
def test_a_fit_without_its_encoder_is_not_sound(with_vectors, tmp_path, name):
    save(with_vectors, tmp_path / "fit")
    (tmp_path / "fit" / name).rename(tmp_path / "elsewhere")
    (fault,) = verify(tmp_path / "fit").faults
    assert fault == f"{tmp_path / 'fit' / name} is missing; make it again, or get another copy."


def test_nothing_is_overwritten(plain, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        save(plain, tmp_path)
    assert not holds_fit(tmp_path)


def test_a_file_of_that_name_is_in_the_way(tmp_path):
    (tmp_path / "fit").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        check_free(tmp_path / "fit")


@pytest.mark.parametrize("name", ["link", "nowhere", "mount", ".", os.devnull])
def test_what_no_whole_folder_can_replace_is_refused_before_the_work(name, tmp_path, monkeypatch):
    for folder in ("empty", "mount"):
        (tmp_path / folder).mkdir()
    check_free(tmp_path / "empty")
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "nowhere").symlink_to("missing")
    monkeypatch.setattr(os.path, "ismount", lambda path: path.name == "mount")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="exists already"):
        check_free(Path(name) if name == "." else tmp_path / name)


def test_a_description_comes_last(plain, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crystalmax.storage.writing.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save(plain, tmp_path / "fit")
    assert not (tmp_path / "fit").exists(), "it would be in the way of the next"
    assert isinstance(plain, Fitted)


@pytest.fixture(scope="module")
def networked():
    """A fit with networks that were fine-tuned for a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crystalmax.fitted.CrystalRegressor", partial(CrystalRegressor, epochs=4))
        return fit(2 * labelled(), "edge", model=network(), networks=True, seed=3)


def test_networks_have_a_say_in_a_fit_that_is_read_back_the_same(networked, tmp_path, caplog):
    caplog.set_level("INFO")
    save(networked, tmp_path / "fit")
    share = networked.regressor.shares_[-1]
    assert f"fine-tuned networks have a share of {100 * share:.0f} % in predictions" in caplog.text
    again = load(tmp_path / "fit")
    table = predict(records(), networked)
    assert table.equals(predict(records(), again))
    assert networked.numbers.shape[1] == len(networked.featurizer.get_feature_names_out()) + 1
    assert (verify(tmp_path / "fit").n_compared, verify(tmp_path / "fit").faults) == (3, ())


def test_what_networks_say_of_a_label_is_of_those_that_have_not_seen_it(networked):
    tuned = CrystalRegressor(networked.model.encoder, geometry=AllPairs(max_sites=8), epochs=4, beside=False, seed=3)
    tuned.fit_crystals(2 * labelled(), "edge")
    np.testing.assert_array_equal(networked.numbers[:, -1], tuned.held_out_)
    np.testing.assert_array_equal(
        networked.numbers_of(CrystalDataset.from_crystals(labelled()))[:, -1], tuned.predict(labelled())
    )


def test_a_fit_whose_networks_are_missing_or_are_none_is_refused(networked, tmp_path):
    save(networked, tmp_path / "fit")
    (tmp_path / "fit" / "networks").rename(tmp_path / "elsewhere")
    (fault,) = verify(tmp_path / "fit").faults
    assert fault == f"{tmp_path / 'fit' / 'networks'} is missing; make it again, or get another copy."
    (tmp_path / "fit" / "encoder").rename(tmp_path / "fit" / "networks")
    (tmp_path / "elsewhere").rename(tmp_path / "fit" / "encoder")
    with pytest.raises(ValueError, match="networks holds no fine-tuned networks; fit it again"):
        load(tmp_path / "fit")


class OurPairs(AllPairs):
    """A part of another package."""


def test_a_fit_may_use_parts_of_a_package_that_is_trusted(networked, tmp_path):
    ours, tuned = (replace(each, geometry=OurPairs(max_sites=8)) for each in (networked.model, networked.networks))
    save(replace(networked, model=ours, networks=tuned), tmp_path / "fit")
    with pytest.raises(ValueError, match="refusing to import"):
        load(tmp_path / "fit")
    again = load(tmp_path / "fit", trusted=(__name__,))
    assert isinstance(again.model.geometry, OurPairs)
    assert isinstance(again.networks.geometry, OurPairs)


def test_networks_are_fine_tuned_from_one():
    with pytest.raises(ValueError, match="networks start from the one that makes the vectors: give a model, without"):
        fit(2 * labelled(), "edge", networks=True)


def test_a_coverage_in_percent_is_refused_before_anything_is_read(plain):
    unread = iter(records())
    with pytest.raises(ValueError, match="a coverage of 90 was asked for"):
        predict(unread, plain, coverage=90)
    assert len(list(unread)) == len(records())


def test_a_fit_has_the_seed_the_blocks_the_formulas_and_the_coverage_that_were_asked_for():
    found, featurizer = fit(labelled(), "edge", seed=3), CrystalFeaturizer(None)
    direct = SmallDataRegressor(blocks=featurizer.blocks, random_state=3)
    direct.fit(found.numbers.astype(float), found.values, found.groups)
    np.testing.assert_array_equal(found.regressor.held_out_, direct.held_out_)
    assert found.regressor.blocks == featurizer.blocks
    for coverage in (0.3, 0.6):
        expected = direct.predict_interval(
            featurizer.numbers(CrystalDataset.from_crystals([records()[0].crystal])), coverage
        )
        told = predict(records(), found, coverage=coverage)
        np.testing.assert_allclose(told.loc[0, ["low", "high"]].astype(float), expected[0])
