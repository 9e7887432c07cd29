"""A Matern kernel with a length scale for each column, and the search for its hyperparameters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

BOUNDS = (1e-3, 1e3)
"""Bounds of a length scale of a block, and of that of a column as a multiple of it."""

VARIANCES = (1e-5, 1e5)
"""Bounds of the variances of the signal and of the noise, for labels with a variance of 1."""

JITTER = 1e-6
"""Added to the variance of each label, so that rows that are alike can be told apart."""

PRIORS = ((1.0, 1.4), (5.0, 1.0))
"""Log-normal priors of the length scale of a block, for fast and for slow variation: mode, as a multiple of the value
that a search begins with, and standard deviation of the logarithm."""

APART = 0.5
"""Standard deviation of the logarithm of a column's length scale over that of its block, where each has its own."""

Columns = Float[np.ndarray, "rows columns"]
Labels = Float[np.ndarray, " rows"]
Parameters = Float[np.ndarray, " parameters"]


@dataclass(frozen=True)
class Likely:
    """Hyperparameters of a constant times a Matern kernel (nu = 3/2), and noise: those that labels make most likely.

    One length scale for all columns lets the block with most of them decide; one for each column cannot be learnt from
    few labels. So each block has one, and where columns stand `apart`, each has one near that of its block, by a
    log-normal prior (automatic relevance determination: Rasmussen and Williams, Gaussian Processes for Machine
    Learning, section 5.1 and eqs. 5.8 and 5.9).

    Attributes:
        widths: Number of columns in each block; blocks lie side by side.
        prior: The prior of the length scale of a block, one of `PRIORS`.
        theta: Logarithms of the constant, of the noise, of the scale of each block, for distances divided by the square
            root of its width, and of that of each column as a multiple of it.
        apart: Whether a search moves the scales of columns, too.
    """

    widths: tuple[int, ...]
    prior: tuple[float, float]
    theta: Parameters
    apart: bool = False

    @classmethod
    def before(cls, widths: Sequence[int], prior: tuple[float, float]) -> "Likely":
        """Where a search begins, whatever the prior: with rows a deviation apart in every column at distance 1."""
        theta = np.repeat(np.log([1, 0.1, len(widths) ** 0.5, 1]), (1, 1, len(widths), sum(widths)))
        return cls(tuple(widths), prior, theta)

    def _parts(self, theta: Parameters) -> tuple[float, float, Float[np.ndarray, " columns"]]:
        """The constant, the noise, and the length scale of each column, for distances in all of them."""
        (constant,), (noise,), blocks, columns = np.split(np.exp(theta), (1, 2, 2 + len(self.widths)))
        return constant, noise, columns * np.repeat(blocks * np.sqrt(self.widths), self.widths)

    @property
    def kernel(self) -> Kernel:
        """The kernel, as scikit-learn has it."""
        constant, noise, scales = self._parts(self.theta)
        return ConstantKernel(constant) * Matern(scales, nu=1.5) + WhiteKernel(noise)

    def search(self, X: Columns, y: Labels) -> "Likely":
        """What these labels make most likely, searched from here on; columns and labels are standardised."""
        times, doubt = self.prior
        counts = 1, 1, len(self.widths), sum(self.widths)
        likely = np.repeat(np.log([1, 0.1, times * len(self.widths) ** 0.5, 1]), counts)
        doubts = np.repeat([np.inf, np.inf, doubt, APART], counts)
        reach = BOUNDS if self.apart else (1, 1)
        bounds = np.log(np.repeat([VARIANCES, VARIANCES, BOUNDS, reach], counts, axis=0))

        def objective(theta: Parameters) -> tuple[float, Parameters]:
            constant, noise, scales = self._parts(theta)
            scaled = X / scales
            norms = (scaled**2).sum(axis=1)
            distance = np.sqrt(3 * (norms[:, None] + norms - 2 * scaled @ scaled.T).clip(min=0))
            decay = np.exp(-distance)
            signal = constant * (1 + distance) * decay
            try:
                factor = cho_factor(signal + (noise + JITTER) * np.eye(len(y)), lower=True, check_finite=False)
            except np.linalg.LinAlgError:  # rounding, where the signal is far greater than the noise
                return 1e10, np.zeros_like(theta)
            alpha = cho_solve(factor, y, check_finite=False)
            # ibid., eq. 5.9: the gradient is the trace of `half` times the derivative of the covariance.
            half = (cho_solve(factor, np.eye(len(y)), check_finite=False) - np.outer(alpha, alpha)) / 2
            by_square = -1.5 * constant * half * decay
            # Sums over pairs of rows, without a matrix for each column.
            by_column = 4 * ((scaled * (by_square @ scaled)).sum(axis=0) - by_square.sum(axis=1) @ scaled**2)
            by_block = [part.sum() for part in np.split(by_column, np.cumsum(self.widths)[:-1])]
            away = (theta - likely) / doubts
            value = y @ alpha / 2 + np.log(np.diag(factor[0])).sum() + away @ away / 2
            gradient = np.concatenate([[(half * signal).sum(), noise * half.trace()], by_block, by_column])
            return float(value), gradient + away / doubts

        found = minimize(objective, self.theta, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-6})
        return replace(self, theta=found.x)
