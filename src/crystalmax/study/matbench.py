"""The data sets of Matbench (DOI 10.1038/s41524-020-00406-3) by their names, where the user has matminer."""

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

FOLDS = "matbench_test_fold"
"""Column with the number of the official test fold."""

N_FOLDS, SEED = 5, 18012019
"""How Matbench cuts its regression tasks: see its documentation."""

LEADERBOARD = {
    "phonons": {
        "lowest of all (MegNet, kgcnn 2.1.0)": 28.76,
        "MODNet 0.1.12": 34.28,
        "CGCNN": 57.76,
        "random forest on Magpie and sine matrix": 67.61,
    }
}
"""Mean absolute errors that the leaderboard of Matbench v0.1 lists for a task, means over its five folds."""


def folds(n_rows: int) -> np.ndarray:
    """Number of the official test fold of each row of a regression task, in the order in which it is distributed."""
    found = np.empty(n_rows, dtype=np.int64)
    for fold, (_, test) in enumerate(KFold(N_FOLDS, shuffle=True, random_state=SEED).split(found)):
        found[test] = fold
    return found


def matbench(name: str) -> pd.DataFrame:
    """Structures and labels of a task such as mp_gap; matminer downloads it on first use.

    Raises:
        ImportError: matminer is not installed.
        ValueError: Matbench has no such task with structures.
    """
    try:
        from matminer.datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            f"the data of Matbench come with matminer, which is not installed ({error}); install it beside crystalmax "
            "by `pip install matminer`, or give a folder with your own copy of the data"
        ) from None
    table: pd.DataFrame = load_dataset(f"matbench_{name}")
    if "structure" not in table:
        raise ValueError(
            f"matbench_{name} has no structures, but {', '.join(map(str, table))}; choose a task with structures"
        )
    n_digits = len(str(len(table)))
    keys = [f"mb-{name.replace('_', '-')}-{number:0{n_digits}}" for number in range(1, len(table) + 1)]
    return table.assign(key=keys, **{FOLDS: folds(len(table))})
