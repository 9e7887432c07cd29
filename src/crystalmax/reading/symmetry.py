"""Symmetry operations of a CIF block, and the atoms that they make."""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import gemmi
import numpy as np
from gemmi import cif, find_spacegroup_by_name
from jaxtyping import Float, Int

from crystalmax.limits import MAX_WORDS

SPECIAL_POSITION = 0.05
"""Distance in angstrom below which an atom and its image are one atom on a special position."""
CELL_SLACK = 0.01
"""Part by which products of two cell vectors may change under an operation; lengths, by half of it."""
_GRID = 10**4

TRIPLETS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_NAMES = (
    ("_space_group_name_Hall", "_symmetry_space_group_name_Hall"),
    ("_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M"),
    ("_space_group_IT_number", "_symmetry_Int_Tables_number"),
    ("_space_group_IT_coordinate_system_code",),
)
_SPELLING = str.maketrans({"_": "", "~": "", "(": "", ")": "", "S": ":1", "Z": ":2"})  # the ICSD calls origins S and Z
_ORIGIN = re.compile(r"(?i)[\s,(]+(?:origin(?:\s+choice)?|O)\s*([12])\)?$")
_NUMBERED = re.compile(r"(?i)[\s,(]+no\.?\s*\d+\)?$")


class Operations(NamedTuple):
    """Symmetry operations on fractional coordinates: rotation, then translation."""

    rotations: Float[np.ndarray, "operations 3 3"]
    translations: Float[np.ndarray, "operations 3"]


def operations_of(block: cif.Block, alpha: float, gamma: float) -> tuple[Operations, str]:
    """The operations of a block, and a note where they had to be guessed.

    Explicit operations come first, then a Hall or Hermann-Mauguin symbol, then the number of the space group. The cell
    angles, in degrees, tell hexagonal from rhombohedral axes. An operation that gemmi does not understand is its
    RuntimeError.
    """
    every = (tuple(filter(None, map(cif.as_string, block.find_values(tag)))) for tag in TRIPLETS)
    triplets = next(filter(None, every), ())
    if len(triplets) > 1:
        return _parsed(triplets), ""
    values = ([cif.as_string(block.find_value(tag) or "?").strip()[:MAX_WORDS] for tag in tags] for tags in _NAMES)
    hall, symbol, number, code = (next(filter(None, found), "") for found in values)
    named, note = _named(hall, symbol, number, code, alpha, gamma)
    if not triplets:
        return named, note
    is_less = len(named.rotations) > 1
    group = symbol or hall or number
    return _parsed(triplets), f"space group {group!r} has more than the one operation: read as P1" if is_less else ""


def keep_cell(rotations: Float[np.ndarray, "operations 3 3"], lattice: Float[np.ndarray, "3 3"]) -> bool:
    """Whether operations with these rotations leave lengths and angles of a cell as they are."""
    metric = lattice @ lattice.T
    moved = rotations.transpose(0, 2, 1) @ metric @ rotations
    lengths = np.sqrt(metric.diagonal())
    return bool((np.abs(moved - metric) <= CELL_SLACK * np.outer(lengths, lengths)).all())


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
        positions = positions + np.einsum("ag,agi->ai", keeps, shift) / keeps.sum(axis=1)[:, None]
        images = _images(positions, operations)
    images, n_operations = images.reshape(-1, 3), len(operations.rotations)
    # Images are exact by now, so a grid tells them apart; its irrational offset keeps its borders away from the decimal
    # fractions at which atoms sit.
    cells = np.floor(images * _GRID + 0.3819660112).astype(np.int64) % _GRID
    codes = cells @ np.array([_GRID**2, _GRID, 1]) + np.arange(len(images)) // n_operations * _GRID**3
    new = np.sort(np.unique(codes, return_index=True)[1])
    return images[new] - np.floor(images[new]), new // n_operations


def _images(positions: Float[np.ndarray, "atoms 3"], operations: Operations) -> Float[np.ndarray, "atoms operations 3"]:
    images: Float[np.ndarray, "atoms operations 3"] = np.einsum("gij,aj->agi", operations.rotations, positions)
    images += operations.translations
    return images


@lru_cache(maxsize=1024)
def _parsed(triplets: tuple[str, ...]) -> Operations:
    return _arrays(map(gemmi.Op, triplets))


@lru_cache(maxsize=1024)
def _named(hall: str, symbol: str, number: str, code: str, alpha: float, gamma: float) -> tuple[Operations, str]:
    with suppress(RuntimeError):
        return _arrays(gemmi.symops_from_hall(hall)), ""

    def find(name: str) -> gemmi.SpaceGroup | None:
        return find_spacegroup_by_name(f"{name}:{code}", alpha, gamma) or find_spacegroup_by_name(name, alpha, gamma)

    spelt, code, note = _ORIGIN.sub(r":\1", _NUMBERED.sub("", symbol)).translate(_SPELLING), code.upper(), ""
    group = find(spelt)
    if group is None and number.isdecimal() and 1 <= int(number) <= 230:
        group = find(gemmi.find_spacegroup_by_number(int(number)).hm)
        note = f"symmetry was taken from space group number {number}"
    elif group and group.ext == "1" and code != "1" and ":" not in spelt:
        note = f"which origin of space group {symbol!r} is meant is not said"
    if group:
        return _arrays(group.operations()), note and f"{note}: read as {group.xhm()!r}"
    unread = f"space group {symbol or hall!r} is not known" if symbol or hall else "no symmetry is given"
    return _parsed(("x,y,z",)), f"{unread}: read as P1"


def _arrays(operations: Iterable[gemmi.Op]) -> Operations:
    rotations, translations = zip(*((operation.rot, operation.tran) for operation in operations), strict=True)
    return Operations(np.array(rotations) / gemmi.Op.DEN, np.array(translations) / gemmi.Op.DEN)
