"""How a distance becomes a vector."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class DistanceBasis(Protocol):
    """How a distance in angstrom becomes a vector of `width` numbers."""

    @property
    def width(self) -> int:
        """Length of the vector."""

    @property
    def step(self) -> float:
        """Spacing of knots, in angstrom, at which cubic interpolation of networks on the vector is exact to float32."""

    def __call__(self, distance: Float[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """The vector of each distance."""


class ScaledDistance(nn.Module):
    """The distance itself, as in the paper, shifted and scaled to be of order one.

    Args:
        center: Subtracted, in angstrom.
        scale: Divided by, in angstrom.
    """

    width = 1

    def __init__(self, *, center: float = 5.0, scale: float = 2.5) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"distances cannot be divided by {scale} angstrom; give a scale above 0")
        self.center, self.scale = center, scale
        self.step = scale / 50

    def forward(self, distance: Float[Tensor, " rows"]) -> Float[Tensor, "rows 1"]:
        """Shifted and scaled distances."""
        return ((distance - self.center) / self.scale)[:, None]


class GaussianBasis(nn.Module):
    """Gaussians centered at equal steps from `start` to `stop`, their width equal to the step.

    Args:
        width: How many Gaussians.
        start: First center, in angstrom.
        stop: Last center, in angstrom.
    """

    centers: Tensor

    def __init__(self, *, width: int = 32, start: float = 0.5, stop: float = 10.0) -> None:
        super().__init__()
        if width < 2 or not start < stop:
            raise ValueError(f"{width} Gaussians from {start} to {stop} are no basis; give 2 or more, and start < stop")
        self.width, self.start, self.stop = width, start, stop
        self.step = (stop - start) / (width - 1) / 32
        self.register_buffer("centers", torch.linspace(start, stop, width), persistent=False)

    def forward(self, distance: Float[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
        """The value of each Gaussian at each distance."""
        step = (self.stop - self.start) / (self.width - 1)
        return torch.exp(-0.5 * ((distance[:, None] - self.centers) / step) ** 2)
