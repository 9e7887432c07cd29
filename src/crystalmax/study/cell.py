"""What a study is made of: cells, each one small computation that can be done anywhere, once, in any order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ("part", "dataset", "property", "split", "method", "kind", "model", "labels", "draw", "seed", "mae")
"""Columns that rows of every part share, as far as they apply; a part may add others."""


class Result(NamedTuple):
    """What a cell found: tidy rows for the table of the study, arrays for its figures and its statistics."""

    rows: pd.DataFrame
    arrays: Mapping[str, np.ndarray] = {}  # never changed


@dataclass(frozen=True)
class Cell:
    """One computation of a study.

    Attributes:
        name: A path below the folder of cells, such as "representation/mp_cgcnn/band_gap_eV/50/paper recipe".
        work: Does it. A pure function of the settings of the study: the same result whenever and wherever it runs.
            Other processes run it, so it is a module's function, with its arguments in a `functools.partial`.
        cost: About how long it takes, in any unit that the cells of a part share; for the forecast.
    """

    name: str
    work: Callable[[], Result] = field(compare=False)
    cost: float = 1.0
