"""Elastic moduli of a crystal whose atoms are held by springs, after all sites have relaxed.

The springs are those of `surroundings`. A homogeneous strain e stretches a spring of length d along the unit vector n
by d n.e.n. The sites then relax until no force is left (Born and Huang, Dynamical Theory of Crystal Lattices, 1954,
chapter III). Strain and stiffness are in Voigt notation. The moduli grow with the cutoff of the springs, so they can be
compared with each other only.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve

from crystalmax.statistics.surroundings import CUTOFF, Surroundings, sums

MOST_RELAXED = 1000
"""In cells with more sites these do not relax: the time, seconds here, grows with the cube of their number."""

_FIRST, _SECOND = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]

_ALL_WAYS = np.diag([2, 2, 2, 1, 1, 1]) / 15 + np.pad(np.ones((3, 3)), (0, 3)) / 15
"""Mean of n_i n_j n_k n_l over all directions."""


def of_springs(around: Surroundings, volume: float) -> dict[str, float]:
    """Bulk and shear modulus, Poisson's ratio, the effect of relaxation on the bulk modulus, and the anisotropy.

    Moduli are means of those of Voigt and Reuss (Hill, Proc. Phys. Soc. A 65, 349, 1952), in a unit that is the same
    for all crystals, as logarithms; anisotropy is that of Ranganathan and Ostoja-Starzewski (DOI
    10.1103/PhysRevLett.101.055504).

    Args:
        around: The surroundings of all sites of a cell.
        volume: Volume of the cell, in cubic angstrom.
    """
    clamped, relaxing = _stiffness(around)
    stiffness = (clamped - relaxing) / volume
    compliance = np.linalg.inv(stiffness)
    bulk, shear = _voigt(stiffness)
    bulk_of_reuss = 1 / compliance[:3, :3].sum()
    shear_of_reuss = 15 / (6 * np.trace(compliance[:3, :3]) - 2 / bulk_of_reuss + 3 * np.trace(compliance[3:, 3:]))
    mean_bulk, mean_shear = (bulk + bulk_of_reuss) / 2, (shear + shear_of_reuss) / 2
    anisotropy = 5 * shear / shear_of_reuss + bulk / bulk_of_reuss - 6
    return {
        "bulk modulus of springs": np.log(mean_bulk),
        "shear modulus of springs": np.log(mean_shear),
        "Poisson's ratio of springs": (3 * mean_bulk - 2 * mean_shear) / (6 * mean_bulk + 2 * mean_shear),
        "relaxing of springs": np.log(mean_bulk * volume / _voigt(clamped)[0]),
        "anisotropy of springs": np.log1p(max(anisotropy, 0)),  # rounding makes it negative where there is none
    }


def _stiffness(around: Surroundings) -> tuple[Float[np.ndarray, "6 6"], Float[np.ndarray, "6 6"]]:
    """Stiffness times volume without relaxation, and how much relaxation reduces it."""
    n_sites, along = len(around.atoms), around.displacement / around.distance[:, None]
    strength = around.atoms[around.center] * around.atoms[around.neighbor] * around.spring
    longer = along[:, _FIRST] * along[:, _SECOND] * around.distance[:, None]
    # Each spring is counted from both of its ends. Those of `itself` hold a site equally in all directions.
    clamped = (longer.T @ (strength[:, None] * longer) + around.itself.sum() * CUTOFF**2 * _ALL_WAYS) / 2
    if n_sites > MOST_RELAXED:
        return clamped, np.zeros((6, 6))
    pull = strength[:, None] * along
    forces = _matrix_sums(pull[:, :, None] * longer[:, None, :], around.center, n_sites)
    to_others = _matrix_sums(
        pull[:, :, None] * along[:, None, :], around.center * n_sites + around.neighbor, n_sites**2
    )
    held = -to_others.reshape(n_sites, n_sites, 3, 3)
    held[range(n_sites), range(n_sites)] -= held.sum(axis=1) - around.itself[:, None, None] * np.eye(3)
    moved = solve(held.transpose(0, 2, 1, 3).reshape(3 * n_sites, -1), forces.reshape(-1, 6), assume_a="pos")
    return clamped, forces.reshape(-1, 6).T @ moved


def _matrix_sums(
    values: Float[np.ndarray, "pairs rows columns"], at: Int[np.ndarray, " pairs"], n_sums: int
) -> Float[np.ndarray, "sums rows columns"]:
    _, rows, columns = values.shape
    each = [sums(values[:, row, column], at, n_sums) for row in range(rows) for column in range(columns)]
    return np.stack(each, axis=1).reshape(n_sums, rows, columns)


def _voigt(stiffness: Float[np.ndarray, "6 6"]) -> tuple[float, float]:
    """Bulk and shear modulus of a polycrystal in which all grains have the same strain (Voigt)."""
    bulk = stiffness[:3, :3].sum() / 9
    return bulk, (np.trace(stiffness[:3, :3]) - 3 * bulk + 2 * np.trace(stiffness[3:, 3:])) / 10
