"""A Matern kernel with a length scale for each block of columns, and the search for its hyperparameters."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel, StationaryKernelMixin

BOUNDS = (1e-3, 1e3)
"""Bounds of a length scale; rows that differ by a standard deviation in each column of a block are at distance 1."""

VARIANCES = (1e-5, 1e5)
"""Bounds of the variances of the signal and of the noise, for labels with a variance of 1."""

PRIORS = ((1.0, 1.4), (5.0, 1.0))
"""Log-normal priors of a length scale, for fast and for slow variation: mode, as a multiple of the starting value, and
standard deviation of the logarithm."""

Columns = Float[np.ndarray, "rows columns"]


class BlockMatern(StationaryKernelMixin, Kernel):  # type: ignore[misc]  # sklearn has no types
    """A constant times a Matern kernel (nu = 3/2) whose blocks of columns have a length scale each, and noise.

    One scale for all columns lets the block with most of them decide; one for each column cannot be learnt from few
    labels (Rasmussen and Williams, Gaussian Processes for Machine Learning, eqs. 4.17 and 5.1). It is the same as
    `ConstantKernel() * matern + WhiteKernel()`, which with fewer than a hundred rows spends half of the time of a
    search on handing hyperparameters from kernel to kernel.

    Args:
        widths: Number of columns in each block; blocks lie side by side.
        length_scale: Of each block, for distances divided by the square root of its width.
        constant: Variance of the signal.
        noise: Variance of the noise of each row.
    """

    hyperparameter_constant = Hyperparameter("constant", "numeric", VARIANCES)
    hyperparameter_noise = Hyperparameter("noise", "numeric", VARIANCES)

    def __init__(
        self,
        widths: Sequence[int],
        length_scale: Float[np.ndarray, " blocks"],
        constant: float = 1.0,
        noise: float = 0.1,
    ) -> None:
        self.widths, self.length_scale, self.constant, self.noise = widths, length_scale, constant, noise

    @property
    def hyperparameter_length_scale(self) -> Hyperparameter:
        """As scikit-learn asks for it, by this name."""
        return Hyperparameter("length_scale", "numeric", BOUNDS, len(self.widths))

    @property
    def theta(self) -> Float[np.ndarray, " parameters"]:
        """Logarithms of the constant, of the length scales and of the noise."""
        logarithms: np.ndarray = np.log(np.hstack([self.constant, self.length_scale, self.noise]))
        return logarithms

    @theta.setter
    def theta(self, theta: Float[np.ndarray, " parameters"]) -> None:
        self.constant, *_, self.noise = values = np.exp(theta)
        self.length_scale = values[1:-1]

    def diag(self, X: Columns) -> Float[np.ndarray, " rows"]:
        """The kernel of each row with itself."""
        return np.full(len(X), self.constant + self.noise)

    def __call__(
        self, X: Columns, Y: Float[np.ndarray, "others columns"] | None = None, eval_gradient: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The kernel between rows, and its gradient by `theta` if that is asked for; rows of `Y` have no noise."""
        plain = self._plain(X, X if Y is None else Y, keep=eval_gradient)
        scaled = zip(plain, self.widths, self.length_scale, strict=True)
        squares: Iterable[np.ndarray] = (square / (width * scale**2) for square, width, scale in scaled)
        if eval_gradient:
            squares = list(squares)  # else one after another: of 10,000 rows each takes 800 MB
        distance = np.sqrt(3 * reduce(np.add, squares))
        decay = np.exp(-distance)
        values: np.ndarray = self.constant * ((1 + distance) * decay)
        if eval_gradient:
            by_scale = (3 * decay * square * self.constant for square in squares)
            gradient = np.stack([values, *by_scale, self.noise * np.eye(len(X))], axis=2)
        if Y is None:
            values[np.diag_indices(len(X))] += self.noise
        return (values, gradient) if eval_gradient else values

    def _plain(self, X: Columns, Y: Float[np.ndarray, "others columns"], *, keep: bool) -> Iterable[np.ndarray]:
        """Squared distances in each block without length scales; kept, since a search needs them again and again."""
        kept: tuple[Columns, list[np.ndarray]] | None = getattr(self, "_kept", None)
        if keep and kept is not None and kept[0] is X:
            return kept[1]
        cuts = np.cumsum(self.widths)[:-1]
        blocks = zip(np.split(X, cuts, axis=1), np.split(Y, cuts, axis=1), strict=True)
        found = (cdist(of_x, of_y, "sqeuclidean") for of_x, of_y in blocks)
        if not keep:
            return found
        self._kept = (X, list(found))
        return self._kept[1]


def most_likely(
    negative_log_likelihood: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: Float[np.ndarray, " parameters"],
    bounds: Float[np.ndarray, "parameters 2"],
    *,
    scales: slice,
    prior: tuple[float, float],
) -> tuple[Float[np.ndarray, " parameters"], float]:
    """Search for the hyperparameters that labels make most likely, with a prior on length scales.

    Args:
        negative_log_likelihood: Gives it and its gradient for the logarithms of the hyperparameters.
        start: Logarithms to begin with.
        bounds: Bounds of each logarithm.
        scales: Which of the hyperparameters are length scales.
        prior: The prior of each length scale, one of `PRIORS`.
    """
    times, doubt = prior

    def objective(theta: Float[np.ndarray, " parameters"]) -> tuple[float, Float[np.ndarray, " parameters"]]:
        value, gradient = negative_log_likelihood(theta)
        away = np.zeros_like(theta)
        away[scales] = (theta - start - np.log(times))[scales] / doubt
        return float(value + away @ away / 2), gradient + away / doubt

    found = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return found.x, float(found.fun)
