"""What the benchmarks of few labels test, and on which properties."""

import sys
from pathlib import Path

import numpy as np

from crystals import metal, pure, rock_salt

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from properties import BLIND, PROPERTIES, draws_of, families, plans_of, wanted

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


def test_nothing_was_chosen_on_a_blind_property():
    chosen_on, blind = ({target for _, target, _ in some} for some in (PROPERTIES, BLIND))
    assert not chosen_on & blind
    assert wanted(chosen_on) == list(PROPERTIES)
    assert wanted(blind) == list(BLIND)
