"""Sites that are too close to each other, across all periodic images."""

import math
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree


def close_pairs(
    lattice: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "sites 3"], cutoff: float
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, " pairs"]]:
    """Pairs of different sites closer than a cutoff across all periodic images, and their distances in angstrom."""
    # A vector shorter than the cutoff spans at most `reach` of a cell along each axis. Fractions become angles, so
    # that ordinary distances on a torus find the few candidates without looking at images.
    reach = [cutoff / spacing for spacing in plane_spacings(lattice)]
    torus = np.exp(2j * np.pi * np.ascontiguousarray(positions)).view(np.float64)
    bound = sum((2 * math.sin(math.pi * min(span, 0.5))) ** 2 for span in reach) * (1 + 1e-9) + 1e-12
    if len(positions) <= 256:
        near = torus @ torus.T > 3.0 - bound / 2
        if np.count_nonzero(near) == len(positions):
            return np.empty((0, 2), dtype=np.int64), np.empty(0)
        pairs = np.argwhere(np.triu(near, 1))
    else:
        pairs = cKDTree(torus).query_pairs(bound**0.5, output_type="ndarray").astype(np.int64)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    between = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    between -= np.rint(between)
    # Rounding finds the nearest image as long as the reach is below half a cell; otherwise its neighbors may be nearer.
    images = [range(-math.ceil(span - 0.5), math.ceil(span - 0.5) + 1) if span > 0.5 else (0,) for span in reach]
    nearest = np.full(len(pairs), np.inf)
    for image in product(*images):
        nearest = np.minimum(nearest, np.linalg.norm((between + np.array(image)) @ lattice, axis=1))
    kept = nearest < cutoff
    return pairs[kept], nearest[kept]


def plane_spacings(lattice: Float[np.ndarray, "3 3"]) -> list[float]:
    """Distances in angstrom between the three pairs of opposite faces of the cell."""
    # Nine numbers: plain arithmetic takes a tenth of the time of numpy.linalg.
    a, b, c = lattice.tolist()
    normals = [_cross(b, c), _cross(c, a), _cross(a, b)]
    volume = abs(sum(x * y for x, y in zip(a, normals[0], strict=True)))
    areas = [math.hypot(*normal) for normal in normals]
    return [volume / area if area > 0.0 else 0.0 for area in areas]


def _cross(u: list[float], v: list[float]) -> tuple[float, float, float]:
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
