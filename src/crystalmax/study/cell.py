"""Cells, the units of work of a study: each is a small computation that can run once, anywhere and in any order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ("part", "dataset", "property", "split", "method", "kind", "model", "labels", "draw", "seed", "mae")
"""Columns of the results of all parts, as far as they apply; a part may add others."""


class Result(NamedTuple):
    """The result of a cell: rows for the table of the study, and arrays for its figures and statistics."""

    rows: pd.DataFrame
    arrays: Mapping[str, np.ndarray] = {}  # never changed


@dataclass(frozen=True)
class Cell:
    """One computation of a study.

    Attributes:
        name: A path below the folder of cells, such as "representation/mp_cgcnn/band_gap_eV/50/paper recipe".
        work: The computation, which depends on the settings of the study only. Other processes run it, so it has to be
            a function of a module, with its arguments in a `functools.partial`.
        cost: Expected time, in any unit that the cells of a part share; for the forecast.
    """

    name: str
    work: Callable[[], Result] = field(compare=False)
    cost: float = 1.0
