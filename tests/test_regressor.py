"""Fine-tuning: learns what is planted, the same way every time, and leaves the given encoder alone."""

import copy
import pickle
from dataclasses import replace
from itertools import product
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score
from sklearn.utils import estimator_checks

from crystalmax import SmallDataRegressor
from crystalmax.cells import canonical
from crystalmax.checkpoint import Model, load, save
from crystalmax.crystal import CrystalBatch, formula
from crystalmax.encoders import SiteNet
from crystalmax.few_labels.small_data import SHARPNESS, weighed_shares
from crystalmax.geometry import AllPairs
from crystalmax.learning.saving import Interrupted
from crystalmax.learning.vectors import encode
from crystalmax.objectives import Blend, DeepInfoMax, Ensemble, Regression
from crystalmax.objectives.base import Objective
from crystalmax.prediction import finetune
from crystalmax.reading.structures import Refused
from crystalmax.regressor import CrystalRegressor, predict
from crystalmax.spec import build, describe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset
from crystals import crystal, perovskite, pure, rock_salt, rotated, some_crystals, supercell

GEOMETRY = AllPairs(max_sites=6)


def planted(n=14):
    """Two salts of many sizes: the value says which one it is, and a little of its size."""
    edges = np.random.default_rng(0).uniform(4.2, 6.4, n)
    salts = [("Na", "Cl"), ("K", "Br")]
    crystals = [rock_salt(a, salts[i % 2], key=f"salt {i}") for i, a in enumerate(edges)]
    return crystals, np.array([100 + 20 * (i % 2) + 2 * a for i, a in enumerate(edges)])


CRYSTALS, VALUES = planted()


def encoder(seed=0):
    with seeded_weights(seed):
        return SiteNet(site_width=8, crystal_width=8, hidden=16)


def regressor(**options):
    return CrystalRegressor(
        encoder(),
        **{"geometry": GEOMETRY, "epochs": 7, "folds": 2, "learning_rate": 4e-3, "sites_per_batch": 16, **options},
    )


@pytest.fixture(scope="module")
def fitted():
    return regressor().fit(CRYSTALS, VALUES)


def test_it_predicts_new_crystals_better_than_the_mean(fitted):
    new, truth = (column[len(CRYSTALS) :] for column in planted(28))
    error = np.abs(fitted.predict(new) - truth).mean()
    assert error < 0.5 * np.abs(VALUES.mean() - truth).mean()


def test_structures_may_come_from_a_generator():
    expected = regressor(folds=0, epochs=1).fit(CRYSTALS, VALUES).predict(CRYSTALS)
    again = regressor(folds=0, epochs=1).fit((one for one in CRYSTALS), VALUES)
    np.testing.assert_array_equal(again.predict(iter(CRYSTALS)), expected)


def test_a_prediction_is_shared_by_the_copies_and_by_frozen_vectors_and_the_median_beside(fitted):
    made = fitted.objective_
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    each = [predict(member, GEOMETRY, data) for member in made.networks.members]
    assert len(each) == 2
    assert not np.allclose(*each)
    vectors = encode(encoder(), GEOMETRY, data)
    rows = np.arange(len(CRYSTALS))
    beside = SmallDataRegressor().fit(vectors, VALUES, rows)
    tuned, guessed = np.empty((2, len(CRYSTALS)))
    for member, (inside, outside) in zip(made.networks.members, folds(), strict=True):
        tuned[outside] = predict(member, GEOMETRY, CrystalDataset.from_crystals(data.crystals(outside)))
        guessed[outside] = np.median(VALUES[inside])
    weights, total = np.zeros(3), 0.0
    for share in product(range(5), repeat=3):
        if sum(share) == 4:
            left_out = (share[0] * tuned + share[1] * beside.held_out_ + share[2] * guessed) / 4
            weight = np.abs(left_out - VALUES).mean() ** -SHARPNESS
            weights, total = weights + weight * np.array(share) / 4, total + weight
    of_copies, of_beside, of_median = weights / total
    assert (made.share, made.of_median) == (pytest.approx(of_copies), pytest.approx(of_median))
    expected = of_copies * np.mean(each, axis=0) + of_beside * beside.predict(vectors) + of_median * np.median(VALUES)
    np.testing.assert_allclose(fitted.predict(CRYSTALS), expected, rtol=1e-6)
    told = of_copies * tuned + of_beside * beside.held_out_ + of_median * guessed
    np.testing.assert_allclose(fitted.held_out_, told, rtol=1e-6)


def say_of_labels_left_out(held_out, monkeypatch):
    """The regressor on frozen vectors has predicted this of the labels that it was not told."""
    frozen = mock.Mock(held_out_=held_out)
    frozen.fit.return_value = frozen
    monkeypatch.setattr("crystalmax.regressor.SmallDataRegressor", lambda **_: frozen)


def test_shares_follow_from_what_each_part_said_of_labels_left_out(fitted, monkeypatch):
    """The labels of `fitted` are told by frozen vectors alone; here all parts err about as much."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    of_copies, of_frozen, of_medians = left_out = values + rng.normal(size=(3, 40)) * [[1.0], [1.1], [1.2]]
    data = CrystalDataset.from_crystals([canonical(CRYSTALS[0])] * 40)
    say_of_labels_left_out(of_frozen, monkeypatch)
    copies = fitted.objective_.networks
    blend, held_out = fitted._beside(copies, of_copies, of_medians, data, values, np.arange(40))
    shares = np.array(weighed_shares(3, lambda shares: np.array(shares) @ left_out - values))
    assert shares.min() > 0.1
    assert (blend.share, blend.of_median) == (pytest.approx(shares[0]), pytest.approx(shares[2]))
    np.testing.assert_allclose(held_out, shares @ left_out)


@pytest.mark.parametrize(("labels", "expected"), [(50, SHARPNESS), (10 * SHARPNESS, SHARPNESS), (1000, 100)])
def test_many_labels_leave_less_to_what_is_poor(fitted, monkeypatch, labels, expected):
    copies = fitted.objective_.networks
    data = CrystalDataset.from_crystals([canonical(CRYSTALS[0])] * labels)
    ones = np.ones(labels)
    say_of_labels_left_out(ones, monkeypatch)
    weighed = mock.Mock(return_value=(0.5, 0.5, 0.0))
    monkeypatch.setattr("crystalmax.regressor.weighed_shares", weighed)
    fitted._beside(copies, ones, ones, data, ones, np.arange(labels))
    assert weighed.call_args.args[2] == expected


def test_the_median_of_the_labels_has_its_share(fitted):
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    blend = copy.deepcopy(fitted.objective_)
    of_each = []
    for blend.share, blend.of_median in ((1.0, 0.0), (0.0, 0.0), (0.2, 0.5)):
        of_each.append(predict(blend, GEOMETRY, data))
    of_copies, of_beside, of_all = of_each
    assert len(VALUES) % 2 == 0  # so the median lies between two labels
    expected = 0.2 * of_copies + 0.3 * of_beside + 0.5 * np.median(VALUES)
    np.testing.assert_allclose(of_all, expected, rtol=1e-6)


def test_of_many_labels_the_copies_stand_alone(monkeypatch):
    monkeypatch.setattr("crystalmax.regressor._FEW", len(CRYSTALS) - 1)
    model = regressor(epochs=2).fit(CRYSTALS, VALUES)
    assert isinstance(model.objective_, Ensemble)
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    each = [predict(member, GEOMETRY, data) for member in model.objective_.members]
    np.testing.assert_allclose(model.predict(CRYSTALS), np.mean(each, axis=0), rtol=1e-6)
    assert (np.abs(model.held_out_ - each).min(axis=0) < 1e-4).all()


def folds():
    """As the labels of `fitted` are cut: two formulas are too few to leave one out."""
    rows = np.arange(len(CRYSTALS))
    return GroupKFold(2, shuffle=True, random_state=0).split(rows, groups=rows)


def test_labels_of_one_formula_are_left_out_together():
    salts = [
        rock_salt(5.0 + 0.1 * i, pair, key=f"{i}")
        for i, pair in enumerate(2 * list(product(("Na", "K", "Rb"), ("F", "Cl", "Br"))))
    ]
    told = clone(regressor(epochs=1)).fit(salts, np.arange(len(salts)) / 7)
    names = [formula(canonical(one)) for one in salts]
    groups = told.objective_.groups.numpy()
    assert len(set(zip(groups.tolist(), names, strict=True))) == len(set(names)) == len(salts) // 2


def test_a_label_left_out_is_predicted_by_a_copy_that_has_not_seen_it(fitted):
    changed = VALUES.copy()
    changed[3] += 1000
    again = clone(fitted).fit(CRYSTALS, changed)
    number = next(number for number, (_, outside) in enumerate(folds()) if 3 in outside)
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    same, other = (
        [predict(model.objective_.networks.members[copy], GEOMETRY, data) for model in (again, fitted)]
        for copy in (number, 1 - number)
    )
    np.testing.assert_array_equal(*same)
    assert (other[0] != other[1]).all()
    # In the order of the labels: those of one salt are nearer to each other than to the other's.
    assert np.abs(fitted.held_out_ - VALUES).mean() < np.abs(VALUES - np.median(VALUES)).mean()


def test_without_folds_one_copy_learns_from_all_labels():
    model = regressor(folds=0, epochs=3).fit(CRYSTALS, VALUES)
    assert len(model.objective_.members) == 1
    assert len(model.held_out_) == 0
    assert model.objective_.members[0].mean == pytest.approx(VALUES.mean())


@pytest.mark.parametrize("number", [1, -2])
def test_one_fold_or_less_than_none_is_refused_by_its_name(number):
    with pytest.raises(ValueError, match=f"folds is {number}; give 2 or more, or 0 for one copy"):
        regressor(folds=number).fit(CRYSTALS, VALUES)


def members(model):
    """The copies; one that was trained without folds has nothing beside it."""
    return (model.objective_.networks if model.folds else model.objective_).members


def moved(model):
    """How far the encoders of all copies went from where they began, the longest step of any number."""
    start = encoder().state_dict()
    ends = [member.encoder.state_dict() for member in members(model)]
    return max((end[name] - start[name]).abs().max().item() for end in ends for name in start)


def test_at_a_rate_of_0_the_encoder_stays_and_the_head_learns():
    model = regressor(encoder_rate=0.0).fit(CRYSTALS, VALUES)
    assert moved(model) == 0
    assert np.abs(model.predict(CRYSTALS) - VALUES).mean() < np.abs(VALUES - np.median(VALUES)).mean()


def test_at_a_lower_rate_the_encoder_goes_less_far():
    slow, fast = (moved(regressor(folds=0, epochs=2, encoder_rate=rate).fit(CRYSTALS, VALUES)) for rate in (0.1, 1.0))
    assert 0 < slow < 0.3 * fast


def test_a_saved_model_predicts_the_same(fitted, tmp_path):
    save(Model(fitted.objective_, GEOMETRY, {}), tmp_path / "model")
    loaded = load(tmp_path / "model")
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    np.testing.assert_allclose(predict(loaded.objective, GEOMETRY, data), fitted.predict(CRYSTALS), rtol=1e-6)
    assert loaded.encoder is loaded.objective.networks.members[0].encoder


def test_the_given_encoder_is_not_changed(fitted):
    for name, weights in encoder().state_dict().items():
        assert torch.equal(weights, fitted.encoder.state_dict()[name])
    tuned = fitted.objective_.encoder.state_dict()
    assert not all(torch.equal(weights, tuned[name]) for name, weights in encoder().state_dict().items())


def test_it_starts_from_the_weights_of_the_given_encoder():
    still = regressor(folds=0, epochs=1, learning_rate=1e-30).fit(CRYSTALS, VALUES)
    for name, weights in encoder().state_dict().items():
        torch.testing.assert_close(weights, still.objective_.encoder.state_dict()[name], rtol=0, atol=1e-20)


def test_the_same_seed_gives_the_same_model_and_another_one_another():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(models))
        models.append(regressor(seed=seed, epochs=2).fit(CRYSTALS, VALUES))
    first, second, other = models
    np.testing.assert_array_equal(first.predict(CRYSTALS), second.predict(CRYSTALS))
    np.testing.assert_array_equal(first.held_out_, second.held_out_)
    data = CrystalDataset.from_crystals([canonical(one) for one in CRYSTALS])
    of_networks = [predict(model.objective_.networks, GEOMETRY, data) for model in (first, other)]
    assert (of_networks[0] != of_networks[1]).all()
    assert first.objective_.seed != other.objective_.seed


def test_predictions_do_not_depend_on_company_cell_or_order(fitted):
    alone = np.array([fitted.predict([one])[0] for one in CRYSTALS[:4]])
    rng = np.random.default_rng(0)
    doubled = [rotated(supercell(one, (2, 1, 1)), rng) for one in CRYSTALS[3::-1]]
    np.testing.assert_allclose(fitted.predict(doubled)[::-1], alone, rtol=1e-5)
    np.testing.assert_allclose(fitted.predict(CRYSTALS)[:4], alone, rtol=1e-5)


def test_values_far_from_zero_are_scaled_back():
    crystals, values = CRYSTALS[:8], VALUES[:8]
    plain = regressor(folds=0, epochs=2).fit(crystals, values).predict(crystals)
    moved = regressor(folds=0, epochs=2).fit(crystals, 1e3 * values - 5e4).predict(crystals)
    np.testing.assert_allclose(moved, 1e3 * plain - 5e4, rtol=1e-3)


def test_equal_values_are_predicted_as_they_are():
    model = regressor(folds=0, epochs=2).fit(CRYSTALS[:4], [3.0] * 4)
    assert np.abs(model.predict(CRYSTALS) - 3.0).max() < 3.0


def test_structures_and_values_may_be_columns_of_a_table():
    table = pd.DataFrame({"structure": CRYSTALS[:4], "value": VALUES[:4]}, index=[7, 3, 5, 1])
    quick = regressor(folds=0, epochs=1)
    from_lists = clone(quick).fit(CRYSTALS[:4], VALUES[:4].tolist()).predict(CRYSTALS)
    from_table = clone(quick).fit(table["structure"], table["value"]).predict(CRYSTALS)
    np.testing.assert_array_equal(from_table, from_lists)


def test_what_cannot_be_read_is_nan_when_predicting_and_raises_when_fitting(fitted):
    flat = crystal("flat", np.zeros((3, 3)), [[0, 0, 0]], [0], pure("Fe"))
    predicted = fitted.predict([CRYSTALS[0], flat])
    assert np.isfinite(predicted).tolist() == [True, False]
    assert list(fitted.refusals_) == [1]
    assert "volume" in fitted.refusals_[1]
    assert fitted.predict([]).shape == (0,)
    with pytest.raises(Refused, match="row 1"):
        regressor().fit([CRYSTALS[0], flat, *CRYSTALS], [1.0, 2.0, *VALUES])


@pytest.mark.parametrize(
    ("crystals", "values", "sentence"),
    [
        (CRYSTALS[:3], VALUES[:4], r"3 structures but values of shape \(4,\)"),
        (CRYSTALS[:4], VALUES[:4, None], r"4 structures but values of shape \(4, 1\)"),
        (CRYSTALS[:4], [1.0, np.nan, 2.0, 3.0], r"value 1 is nan, not within 1e\+100; leave such rows out"),
        (CRYSTALS[:4], [1.0, 2.0, -1e120, 3.0], r"value 2 is -1e\+120, not within 1e\+100; leave such rows out"),
        (CRYSTALS[:3], VALUES[:3], "3 labels are too few for 2 folds; give at least 4"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(crystals, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        regressor().fit(crystals, values)
    with pytest.raises(ValueError, match="encoder is 'shipped'; give an encoder, or call `from_pretrained`"):
        regressor().set_params(encoder="shipped").fit(CRYSTALS, VALUES)


def test_predicting_before_fitting_says_so():
    with pytest.raises(Exception, match="not fitted"):
        regressor().predict(CRYSTALS)


def test_a_pickle_predicts_the_same(fitted):
    twin = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(twin.predict(CRYSTALS), fitted.predict(CRYSTALS))


def test_it_works_in_cross_validation():
    quick = regressor(folds=0, epochs=2)
    predicted = cross_val_predict(quick, CRYSTALS, VALUES, cv=2)
    assert np.isfinite(predicted).all()


def test_who_interrupts_a_cross_validation_ends_it(monkeypatch):
    training = mock.Mock(side_effect=Interrupted)
    monkeypatch.setattr(CrystalRegressor, "_train", training)
    with pytest.raises(Interrupted):
        cross_val_score(regressor(), CRYSTALS, VALUES, cv=2)  # it takes an `Exception` for a failed fit, and goes on
    assert training.call_count == 1


CHECKS = (
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_valid_tag_types,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sklearn_finds_nothing_wrong(check):
    check("CrystalRegressor", regressor())


def test_it_starts_from_a_run_folder(tmp_path, caplog):
    made = DeepInfoMax(encoder())
    save(Model(made, AllPairs(max_sites=9), {}), tmp_path)
    model = CrystalRegressor.from_pretrained(str(tmp_path), folds=0, epochs=1)
    assert caplog.messages == []
    assert (model.geometry, model.folds, model.epochs) == (AllPairs(max_sites=9), 0, 1)
    assert torch.equal(model.encoder.to_site.weight, made.encoder.to_site.weight)


def test_a_start_that_knows_labels_is_told_of(tmp_path, caplog):
    save(Model(head(), AllPairs(max_sites=9), {}), tmp_path)
    CrystalRegressor.from_pretrained(tmp_path)
    (said,) = caplog.messages
    assert said.endswith("has learnt with labels of 'value': errors of crystals that had them are too low")


# ---- the objective below it


def head(**options):
    with seeded_weights(0):
        return Regression(encoder(), target="value", **{"mean": 10.0, "deviation": 2.0, "hidden": 4, **options})


def labelled_batch(values):
    labelled = [replace(one, targets={"value": value}) for one, value in zip(some_crystals(), values, strict=True)]
    return GEOMETRY(CrystalBatch.collate(labelled))


def test_the_error_is_absolute_in_units_of_the_deviation_over_known_values():
    values = [9.0, float("nan"), 12.0, 10.5, float("nan"), 11.0]
    batch, made = labelled_batch(values), head()
    predicted = made.predict(batch).tolist()
    expected = [abs(p - value) / 2.0 for p, value in zip(predicted, values, strict=True) if value == value]
    terms = made(batch, torch.Generator())
    assert list(terms) == ["error"]
    assert terms["error"].item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    terms["error"].backward()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    # Fine-tuning reaches the whole encoder: nothing is cut here.
    assert all(p.grad is not None for p in made.parameters())


def test_one_value_alone_counts_whole():
    batch, made = labelled_batch([9.0] + [float("nan")] * 5), head()
    expected = abs(made.predict(batch)[0].item() - 9) / 2
    assert made(batch, torch.Generator())["error"].item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_values_has_no_error():
    batch, made = labelled_batch([float("nan")] * 6), head()
    assert made(batch, torch.Generator())["error"].item() == 0


def test_the_objective_keeps_the_protocol_and_survives_a_description():
    made = head()
    assert isinstance(made, Objective)
    twin = build(describe(made))
    assert describe(twin) == describe(made)
    twin.load_state_dict(copy.deepcopy(made.state_dict()))
    batch = labelled_batch([1.0] * 6)
    assert torch.equal(twin.predict(batch), made.predict(batch))


def test_a_whole_data_set_is_predicted_in_its_order():
    crystals = [canonical(one) for one in [perovskite(), *CRYSTALS[:3], perovskite(4.1)]]
    made = head().eval()
    together = predict(made, GEOMETRY, CrystalDataset.from_crystals(crystals), sites_per_batch=4)
    alone = [made.predict(GEOMETRY(CrystalBatch.collate([one]))).item() for one in crystals]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_an_ensemble_keeps_the_protocol_and_survives_a_description():
    members = [head(mean=mean) for mean in (1.0, 4.0)]
    made = Ensemble(members)
    assert isinstance(made, Objective)
    twin = build(describe(made))
    twin.load_state_dict(copy.deepcopy(made.state_dict()))
    batch = labelled_batch([1.0] * 6)
    assert torch.equal(twin.predict(batch), made.predict(batch))
    torch.testing.assert_close(made.predict(batch), (members[0].predict(batch) + members[1].predict(batch)) / 2)
    terms = [member(batch, torch.Generator())["error"] for member in members]
    torch.testing.assert_close(made(batch, torch.Generator())["error"], sum(terms) / 2)


def test_an_ensemble_of_nothing_is_refused():
    with pytest.raises(ValueError, match="give at least one regression"):
        Ensemble([])


def test_a_blend_keeps_the_protocol_and_survives_a_description():
    made = Blend(Ensemble([head()]), encoder(1), labels=6, share=0.25)
    assert isinstance(made, Objective)
    batch = labelled_batch([9.0, 8.0, 12.0, 10.5, 7.0, 11.0])
    with torch.inference_mode():
        made.vectors.copy_(made.start(batch).crystals)
        made.values.copy_(batch.targets["value"])
        made.groups.copy_(torch.arange(6))
        twin = build(describe(made))
        twin.load_state_dict(copy.deepcopy(made.state_dict()))
        torch.testing.assert_close(twin.predict(batch), made.predict(batch))
        beside = torch.from_numpy(made.regressor.predict(made.vectors.numpy()))
        torch.testing.assert_close(made.predict(batch), 0.25 * made.networks.predict(batch) + 0.75 * beside.float())
    assert made.encoder is made.networks.members[0].encoder
    assert torch.equal(made(batch, torch.Generator())["error"], made.networks(batch, torch.Generator())["error"])


def test_finetuning_tells_mean_errors_of_labels_left_out_and_of_their_median(tmp_path):
    values = np.where(np.arange(len(VALUES)) < 3, 10 * VALUES, VALUES)  # so that mean and median differ
    labelled = [replace(canonical(one), targets={"v": value}) for one, value in zip(CRYSTALS, values, strict=True)]
    made = regressor(epochs=1)
    told = finetune(labelled, "v", made, tmp_path / "model")
    guessed = np.abs(values - np.median(values)).mean()
    assert told == pytest.approx((np.abs(made.held_out_ - values).mean(), guessed))


def test_each_copy_has_its_own_seed_and_learns_as_is_promised(monkeypatch):
    calls = []
    monkeypatch.setattr("crystalmax.learning.training.train", lambda *a, **_: calls.append((a[2], a[3])))
    for seed in (0, 1):
        regressor(sites_per_batch=400, seed=seed).fit(CRYSTALS, VALUES)
    assert len({how.seed for _, how in calls}) == 4
    for _, how in calls:  # seven salts of two sites: at least eight steps an epoch
        assert (how.schedule, how.weight_decay, how.sites_per_batch) == ("cosine", 1e-2, 1)
    assert set(calls[0][0].train) not in [set(split.train) for split, _ in calls[2:]]


def test_frozen_vectors_leave_out_labels_of_one_formula_together():
    salts = [
        rock_salt(5 + 0.1 * i, pair, key=f"{i}")
        for i, pair in enumerate(2 * list(product(("Na", "K", "Rb"), ("F", "Cl"))))
    ]
    values = np.arange(len(salts)) % 6 + 0.01 * np.arange(len(salts))
    made = regressor(epochs=1).fit(salts, values).objective_
    expected = SmallDataRegressor().fit(made.vectors.numpy(), values, made.groups.numpy())
    np.testing.assert_array_equal(made.regressor.held_out_, expected.held_out_)


def test_vectors_of_any_scale_are_alike_to_the_head():
    made, vectors = head(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.head(100 * vectors), made.head(vectors), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("folds", [0, 2])
def test_labels_far_from_zero_keep_their_digits(folds):
    near = regressor(folds=folds, epochs=2).fit(CRYSTALS, VALUES)
    far = regressor(folds=folds, epochs=2).fit(CRYSTALS, VALUES + 2.0**30)  # float32 has steps of 64 there
    for one, other in zip(members(near), members(far), strict=True):
        data = CrystalDataset.from_crystals([canonical(salt) for salt in CRYSTALS])
        expected = predict(one, GEOMETRY, data)
        np.testing.assert_allclose(predict(other, GEOMETRY, data) - 2.0**30, expected, atol=1e-3)
    assert len(np.unique(far.predict(CRYSTALS))) > 10
