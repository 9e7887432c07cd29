"""What the benchmarks of few labels test, and on which properties."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import AllPairs
from crystals import metal, pure, rock_salt

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from fine_tuning import plan_of
from lab import LearntElements
from properties import BLIND, LATER, PROPERTIES, TENSORS, draws_of, earlier, families, plans_of, wanted

(CARBON,) = pure("C")
GROUPS = np.arange(600) // 2


def rows_tested(draw):
    return frozenset(draw.parts[0][1].tolist())


def test_all_draws_test_the_same_crystals_unless_each_is_to_test_others():
    same, other = (draws_of(plans_of(4, anew=anew), GROUPS) for anew in (False, True))
    assert [draw.labels for draw in same] == [draw.labels for draw in other] == [250] * 4 + [100] * 4 + [50] * 4
    assert len(set(map(rows_tested, same))) == 1
    assert len(set(map(rows_tested, other))) == 4
    for draw in other:
        ((learnt_from, test),) = draw.parts
        assert not set(GROUPS[learnt_from]) & set(GROUPS[test])


def test_crystals_are_tested_together_by_formula_but_not_where_there_is_only_one():
    polymorphs = [metal(CARBON, key="a"), metal(CARBON, a=5.0, key="b")]
    assert families([*polymorphs, rock_salt()])[:2] == ["C1.0000", "C1.0000"]
    assert families(polymorphs) == ["a", "b"]


def test_blind_properties_are_others_than_those_that_were_developed_on():
    sets = PROPERTIES, BLIND, TENSORS, LATER
    targets = [{target for _, target, _ in some} for some in sets]
    assert sum(map(len, targets)) == len(set.union(*targets))
    assert [wanted(each) for each in targets] == list(map(list, sets))


def test_trials_of_fine_tuning_test_the_same_crystals_unless_each_is_to_test_others():
    crystals = [metal(CARBON, a=4 + 0.1 * number, key=f"{number}") for number in range(30)]
    for anew, n_tested in ((False, 1), (True, 3)):
        parts = [[{one.key for one in part} for part in plan_of(crystals, 10, trial, anew=anew)] for trial in range(3)]
        assert len({frozenset(tested) for _, tested in parts}) == n_tested
        assert len({frozenset(drawn) for drawn, _ in parts}) == 3
        for drawn, tested in parts:
            assert (len(drawn), len(tested)) == (10, 6)
            assert not drawn & tested


def test_a_file_of_results_is_not_mixed_with_results_on_other_crystals(tmp_path):
    out = tmp_path / "results.json"
    for written, anew, other in (({}, False, True), ({"anew": True}, True, False)):
        out.write_text(json.dumps({"properties": {}, "commit": "1234567", **written}))
        assert earlier(out, anew=anew)["properties"] == {}
        with pytest.raises(ValueError, match="must not be mixed"):
            earlier(out, anew=other)
    assert earlier(tmp_path / "none.json", anew=True)["anew"]


@pytest.mark.parametrize("tabulated", [True, False])
def test_vectors_of_elements_are_learnt_where_a_recipe_asks_for_them(tabulated):
    encoder = LearntElements(tabulated=tabulated)
    encoder(AllPairs()(CrystalBatch.collate([rock_salt()]))).levels[-1].summaries.square().sum().backward()
    assert max(weight.grad.abs().max() for weight in encoder.vectors.parameters() if weight.grad is not None) > 0
