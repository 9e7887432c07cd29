"""What pre-training has taught, before there is a label: how much of plain statistics linear maps of vectors tell."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crystalmax import baselines
from crystalmax.crystal import Crystal

FEWEST = 100
"""Crystals without which nothing is said."""

MOST = 1000
"""Crystals that are enough."""

NUMBERS = frozenset(baselines.BLOCKS) - {"bands"}
"""Blocks that are asked for. Bands take longer than all others, and no network was judged by them."""

_ROUNDING = 1e-9
_FARTHEST = 4.0  # deviations from the mean that an outlier counts as, as in `intrinsic.Statistics`


def told(vectors: Float[np.ndarray, "crystals width"], crystals: Sequence[Crystal]) -> float:
    """Share of the variance of `baselines.statistics` that ridge regression on half of the vectors tells of the others.

    Each number counts alike. Of 44 networks of many recipes, those that told more erred less with labels of eight
    properties (rank correlation -0.92); of one network, more epochs need not do both (docs/research/levers.md).
    NaN where the crystals do not differ, or a vector is not finite.
    """
    numbers = baselines.statistics(crystals, NUMBERS)[0]
    varied = numbers[:, numbers.std(axis=0) > _ROUNDING * np.abs(numbers).max(axis=0)]
    if not varied.size or not np.isfinite(vectors).all():
        return float("nan")
    scaler = StandardScaler().set_output(transform="default")
    scaled = scaler.fit_transform(varied).clip(-_FARTHEST, _FARTHEST)
    one, other = np.array_split(np.random.default_rng(0).permutation(len(vectors)), 2)
    ridge = make_pipeline(scaler, RidgeCV(alphas=np.logspace(-2, 5, 15)))
    missed = ridge.fit(vectors[one], scaled[one]).predict(vectors[other]) - scaled[other]
    return float(1 - (missed**2).sum() / (scaled[other] ** 2).sum())
