"""The value of each block of statistics: all of them against all but one, with the recommended regressor."""

from functools import partial

import numpy as np

from crystalmax.judging.assessment import small_data
from crystalmax.statistics.baselines import BLOCKS, statistics_widths
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.networks import Features
from crystalmax.study.representation import ALL_STATISTICS, Method, all_drawn, all_statistics, method_cells, scored
from crystalmax.study.settings import Study

MOST_LABELS = 250
"""With more, a fit takes a quarter of a minute, and blocks matter less."""


def cells(study: Study) -> list[Cell]:
    """A cell for each property and set of blocks."""
    return method_cells(study, study.materials, "blocks", sets, _scored)


def sets(study: Study, material: Material) -> list[Method]:
    """All statistics, and all but each block; what follows the comma in a name is the change."""
    without = [_set(study, material, f"{ALL_STATISTICS}, without {name}", name) for name in BLOCKS]
    return [_set(study, material, ALL_STATISTICS, ""), *without]


def _set(study: Study, material: Material, name: str, left_out: str) -> Method:
    widths = [width for block, width in zip(BLOCKS, statistics_widths(), strict=True) if block != left_out]
    return Method(name, "joint", partial(_without, study, material, left_out), models=small_data(widths))


def _without(study: Study, material: Material, left_out: str) -> Features:
    kept = np.repeat([block != left_out for block in BLOCKS], statistics_widths())
    return all_statistics(study, material)[:, kept]


def _scored(study: Study, material: Material, name: str, method: Method) -> Result:
    return scored(study, material, name, method, all_drawn(study, material, name, MOST_LABELS), "blocks", models=())
