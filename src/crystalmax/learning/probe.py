"""A measure of pre-training that needs no label: how well linear maps of the vectors predict plain statistics."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crystalmax.crystal import Crystal
from crystalmax.statistics import baselines

FEWEST = 100
"""With fewer crystals than this, pre-training reports no such share."""

MOST = 1000
"""Of more crystals than this, pre-training takes a random part."""

NUMBERS = frozenset(baselines.BLOCKS) - {"bands"}
"""Blocks of statistics that are predicted: all but bands, which take longest, and by which no network was judged."""

_ROUNDING = 1e-9
_FARTHEST = 4.0  # standard deviations at which numbers are clipped, as in `intrinsic.Statistics`


def told(vectors: Float[np.ndarray, "crystals width"], crystals: Sequence[Crystal]) -> float:
    """Share of the variance of `baselines.statistics` that vectors explain: R2 of ridge regression, fitted to one half.

    Each number counts alike. Among 44 networks of many recipes, a larger share went with lower errors for labels of
    eight properties (rank correlation -0.92); for one network, more epochs need not improve both
    (docs/research/levers.md). NaN where the crystals do not differ, or a vector is not finite.
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
