"""Maps: the same unseen crystals for every network, and numbers that see planted order and no other."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from crystalmax.study import maps
from crystalmax.study.chemistry import CLASSES
from crystalmax.study.maps import cells, mapped, numbers, projections
from crystals import metal as one_site
from crystals import perovskite, pure, quartz, rock_salt


def test_crystals_are_told_apart_by_their_elements():
    (halogen, halogens), (metal, metals) = CLASSES["halogen"], CLASSES["metal"]
    assert [halogens[halogen(each)] for each in (rock_salt(), quartz())] == ["halogen", "no halogen"]
    lanthanum = perovskite(kinds=pure("La", "Mn", "O"))
    crystals = [quartz(), rock_salt(), one_site(pure("Sn")[0]), perovskite(), lanthanum]
    assert [metals[metal(each)] for each in crystals] == list(metals)


def clusters(n=60):
    """Two clouds far apart, of two classes, each with values that grow along it."""
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1], n // 2)
    points = rng.normal(size=(n, 3)) + 50 * of[:, None]
    return points, of, points[:, 0] - 50 * of


def by_quantity(found):
    return {row["quantity"]: row for row in found}


def test_numbers_see_planted_order():
    points, of, along = clusters()
    found = by_quantity(numbers(points, {"halogen": of}, {"along": along + 100 * of}))
    assert found["halogen purity"]["value"] == 1.0
    assert found["halogen purity"]["chance"] == 0.5
    assert found["halogen silhouette"]["value"] > 0.9
    assert found["error of neighbours"]["value"] < 0.05 * found["error of neighbours"]["chance"]


def test_numbers_see_no_order_where_there_is_none():
    points, of, along = clusters(400)
    order = np.random.default_rng(1).permutation(400)
    found = by_quantity(numbers(points, {"halogen": of[order]}, {"along": along[order]}))
    assert found["halogen purity"]["value"] == pytest.approx(0.5, abs=0.05)
    assert found["halogen silhouette"]["value"] == pytest.approx(0.0, abs=0.05)
    assert found["error of neighbours"]["value"] == pytest.approx(found["error of neighbours"]["chance"], rel=0.1)


def test_unknown_values_and_single_classes_are_left_out():
    points, of, along = clusters()
    along[::7] = np.nan
    found = by_quantity(numbers(points, {"halogen": of * 0}, {"along": along}))
    assert "halogen silhouette" not in found
    along[2:] = np.nan
    assert "error of neighbours" not in by_quantity(numbers(points, {}, {"along": along}))
    assert found["halogen purity"]["value"] == found["halogen purity"]["chance"] == 1.0
    assert np.isfinite(found["error of neighbours"]["value"])


def test_every_network_is_shown_the_same_unseen_crystals(study):
    salts = study.material("salts")
    found = {cell.name: cell.work() for cell in cells(study)}
    kinds = {result.rows.kind[0] for result in found.values()}
    assert kinds == {"pretrained", "untrained"}
    first = next(iter(found.values())).arrays
    for result in found.values():
        for name in ("rows", "halogen", "metal", "edge", "order"):
            np.testing.assert_array_equal(result.arrays[name], first[name])
        assert result.arrays["t-SNE"].shape == (len(first["rows"]), 2)
        assert {"halogen purity", "metal silhouette", "trustworthiness"} <= set(result.rows.quantity)
    assert set(first["rows"]) == set(study.parts(salts).test)
    assert not set(first["rows"]) & set(study.parts(salts).structures)
    spread = {name: result.arrays["t-SNE"].tobytes() for name, result in found.items()}
    assert len(set(spread.values())) == len(spread)


def test_a_large_test_split_is_thinned_out(study, monkeypatch):
    monkeypatch.setattr(maps, "MOST", 5)
    rows = mapped(study, study.material("salts"))
    assert len(rows) == 5
    assert set(rows) < set(study.parts(study.material("salts")).test)
    assert set(mapped(replace(study, seed=0), study.material("salts"))) == set(rows)


def test_a_map_is_the_same_every_time():
    points, _, _ = clusters()
    first, second = (projections(3)["t-SNE"](points) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_umap_is_drawn_where_it_is_installed_and_leaves_the_number_of_threads_alone(monkeypatch):
    n_threads = torch.get_num_threads()

    class Plane:
        def __init__(self, *, random_state, n_jobs):
            self.seed = random_state

        def fit_transform(self, vectors):
            torch.set_num_threads(n_threads + 1)  # as Numba does, below the real one
            return vectors[:, :2] + self.seed

    umap = ModuleType("umap")
    umap.UMAP = Plane
    monkeypatch.setitem(sys.modules, "umap", umap)
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    assert list(projections(3)) == ["t-SNE"]
    monkeypatch.setattr(maps, "find_spec", lambda name: umap)
    points, _, _ = clusters()
    np.testing.assert_array_equal(projections(3)["UMAP"](points), points[:, :2] + 3)
    assert torch.get_num_threads() == n_threads
