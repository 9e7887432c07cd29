"""Symmetry operations of a CIF block, and the atoms that they make."""

from functools import lru_cache
from typing import NamedTuple

import gemmi
import numpy as np
from jaxtyping import Float, Int

SPECIAL_POSITION = 0.05
"""Distance in angstrom below which an atom and its image are one atom on a special position."""
_GRID = 10**6

_TRIPLETS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv.pos_as_xyz",
)
_NAMES = (
    "_space_group_name_Hall",
    "_symmetry_space_group_name_Hall",
    "_space_group_name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_space_group.name_Hall",
    "_space_group.name_H-M_alt",
)
_TABLE_NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number", "_space_group.IT_number")


class Operations(NamedTuple):
    """Symmetry operations on fractional coordinates: rotation, then translation."""

    rotations: Float[np.ndarray, "operations 3 3"]
    translations: Float[np.ndarray, "operations 3"]


def operations_of(block: gemmi.cif.Block, alpha: float, gamma: float) -> tuple[Operations | None, str]:
    """The operations of a block, and a note where they had to be guessed; none for P1.

    Explicit operations come first, then a Hall or Hermann-Mauguin symbol, then the number of the space group.

    Args:
        block: The data block.
        alpha: Cell angle in degrees; it and the next tell hexagonal from rhombohedral axes.
        gamma: Cell angle in degrees.

    Raises:
        RuntimeError: gemmi does not understand an operation.
    """
    for tag in _TRIPLETS:
        triplets = tuple(block.find_values(tag))
        if triplets:
            return _parsed(triplets), ""
    names = [gemmi.cif.as_string(block.find_value(tag) or "?") for tag in _NAMES]
    for tag, name in zip(_NAMES, names, strict=True):
        if name.strip():
            operations = _named(name.strip(), "Hall" in tag, alpha, gamma)
            if operations is not None:
                return operations
    for tag in _TABLE_NUMBERS:
        number = block.find_value(tag)
        if number and number.isdecimal() and 1 <= int(number) <= 230:
            group = gemmi.find_spacegroup_by_number(int(number))
            return _of_group(group), f"symmetry was taken from space group number {number}, in its standard setting"
    stated = next((name for name in names if name.strip()), "")
    return None, f"space group {stated!r} is not known: read as P1" if stated else "no symmetry is given: read as P1"


def orbits(
    positions: Float[np.ndarray, "atoms 3"], lattice: Float[np.ndarray, "3 3"], operations: Operations
) -> tuple[Float[np.ndarray, "sites 3"], Int[np.ndarray, " sites"]]:
    """Every distinct image of every atom within the cell, and the atom that each is an image of."""
    images = _images(positions, operations)
    # Averaging over the operations that keep an atom in place puts it exactly on its special position; the second
    # round serves atoms that the first one moved within reach of another operation.
    for _ in range(2):
        shift = images - positions[:, None]
        shift -= np.rint(shift)
        keeps = np.square(shift @ lattice).sum(axis=2) < SPECIAL_POSITION**2
        keepers = keeps.sum(axis=1)
        if (keepers == 1).all():
            break
        positions = positions + np.einsum("ag,agi->ai", keeps, shift) / keepers[:, None]
        images = _images(positions, operations)
    images = images.reshape(-1, 3)
    new = _first_occurrences(images, len(operations.rotations))
    return images[new] - np.floor(images[new]), new // len(operations.rotations)


def _images(positions: Float[np.ndarray, "atoms 3"], operations: Operations) -> Float[np.ndarray, "atoms operations 3"]:
    images: Float[np.ndarray, "atoms operations 3"]
    images = (positions @ operations.rotations.reshape(-1, 3).T).reshape(len(positions), -1, 3)
    images += operations.translations
    return images


def _first_occurrences(images: Float[np.ndarray, "images 3"], of_each_atom: int) -> Int[np.ndarray, " distinct"]:
    # Images are exact by now, so a fine grid tells them apart; its irrational offset keeps its borders away from
    # the decimal fractions at which atoms sit.
    cells = np.floor(images * _GRID + 0.3819660112).astype(np.int64) % _GRID
    codes = (cells @ np.array([_GRID**2, _GRID, 1])).reshape(-1, of_each_atom)
    order = np.argsort(codes, axis=1, kind="stable") + of_each_atom * np.arange(len(codes))[:, None]
    ranked = codes.ravel()[order]
    new = np.ones(order.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    return np.sort(order[new])


@lru_cache(maxsize=1024)
def _parsed(triplets: tuple[str, ...]) -> Operations | None:
    return _arrays([gemmi.Op(gemmi.cif.as_string(triplet)) for triplet in triplets])


@lru_cache(maxsize=1024)
def _named(name: str, is_hall: bool, alpha: float, gamma: float) -> tuple[Operations | None, str] | None:
    if is_hall:
        try:
            return _arrays(list(gemmi.symops_from_hall(name))), ""
        except RuntimeError:
            return None
    for spelling in (name, name.replace("_", "")):
        group = gemmi.find_spacegroup_by_name(spelling, alpha, gamma)
        if group is not None:
            return _of_group(group), ""
    return None


def _of_group(group: gemmi.SpaceGroup) -> Operations | None:
    return _arrays(list(group.operations()))


def _arrays(operations: list[gemmi.Op]) -> Operations | None:
    rotations = np.array([operation.rot for operation in operations]) / gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations]) / gemmi.Op.DEN
    if len(operations) == 1 and (rotations[0] == np.eye(3)).all():
        return None
    return Operations(rotations, translations)
