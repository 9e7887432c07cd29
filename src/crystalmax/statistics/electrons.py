"""What follows from a composition by counting electrons: balanced charges, and the frontier levels of free atoms.

The numbers of the elements live in `data/electrons.csv`, whose header has units, sources and the few decided values.
"""

from functools import cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from crystalmax import elements

_ROWS = elements.rows_of("electrons.csv")

KINDS = "spdf"
CAPACITY = {kind: 4 * degree + 2 for degree, kind in enumerate(KINDS)}
"""Electrons that a shell of each kind can hold."""

_ELECTRONS = tuple(f"{kind}_electrons" for kind in KINDS)
_HOLES = tuple(f"{kind}_holes" for kind in KINDS)
_OTHERS = ("electron_affinity", "second_ionization_energy", "mendeleev_number", "melting_point", "van_der_waals_radius")

FEATURES = (*_ELECTRONS, "valence_electrons", *_HOLES, "holes", "highest_level", *_OTHERS)
"""Names of the features, in the order of the columns of `table`.

Holes are what the open shells of an atom lack; the highest level is that of its weakest bound electron, in eV.
"""

MOST_ASSIGNMENTS = 4096
"""Combinations that are tried at most: an element, rare ones last, that would make more has its first state only."""

TOLERANCE = 0.3
"""An anion may be less electronegative than a cation by at most this, on Pauling's scale, as in lead telluride."""

UNBALANCED = 4.0
"""Charge per atom that is reported as not balanced where no combination of oxidation states makes sense."""

MOST_ATOMS = 1000
"""Largest formula, in atoms, whose electrons are counted."""


class Shell(NamedTuple):
    """A shell of a free atom.

    Attributes:
        energy: In electronvolt.
        kind: 0 for s to 3 for f.
        capacity: Electrons that it can hold.
        electrons: Those that it does.
    """

    energy: float
    kind: int
    capacity: int
    electrons: int


@cache
def table() -> Float[np.ndarray, "elements features"]:
    """The features of every element, one row an element; read-only."""
    rows = []
    for atomic_number, row in enumerate(_ROWS, start=1):
        electrons = [int(row[name]) for name in _ELECTRONS]
        holes = [CAPACITY[kind] - held if held else 0 for kind, held in zip(KINDS, electrons, strict=True)]
        highest = max(shell.energy for shell in shells(atomic_number))
        others = [float(row[name]) for name in _OTHERS]
        rows.append([*electrons, sum(electrons), *holes, sum(holes), highest, *others])
    values = np.array(rows)
    values.flags.writeable = False
    return values


def columns(*names: str) -> Float[np.ndarray, "features elements"]:
    """These features of every element, a row each."""
    return table()[:, [FEATURES.index(name) for name in names]].T


@cache
def oxidation_states(atomic_number: int) -> tuple[int, ...]:
    """The common oxidation states of an element, ascending."""
    return tuple(int(state) for state in _ROWS[atomic_number - 1]["oxidation_states"].split())


@cache
def shells(atomic_number: int) -> tuple[Shell, ...]:
    """The outer shells of an atom."""
    found = []
    for text in _ROWS[atomic_number - 1]["shells"].split():
        name, energy, electrons = text.split(":")
        found.append(Shell(float(energy), KINDS.index(name[-1]), CAPACITY[name[-1]], int(electrons)))
    return tuple(found)


def charges(fractions: Float[np.ndarray, " elements"]) -> dict[str, float]:
    """How well common oxidation states balance, and what they are then.

    Every combination of one common state for each element is tried in which no anion is clearly less electronegative
    than a cation. The one with the smallest total charge is taken; of several, the one with the smallest sum of
    absolute charges. If there is no such combination, as in an alloy, atoms are taken to have no charges.

    Args:
        fractions: Fraction of the atoms that each element makes up, for Z = 1 to 103; they sum to 1.
    """
    # Rounded, so that which of several that are alike comes first does not hang on the last digit.
    present = np.argsort(-fractions.round(9), kind="stable")[: np.count_nonzero(fractions)]
    share, electronegativity = fractions[present], elements.columns("electronegativity")[0, present]
    states = _assignments(present)
    charge, either_sign = np.abs(states @ share), np.abs(states) @ share
    cation = np.where(states > 0, electronegativity, -np.inf).max(axis=1)
    anion = np.where(states < 0, electronegativity, np.inf).min(axis=1)
    sensible = (cation <= anion + TOLERANCE) & (states.min(axis=1) <= 0) & (states.max(axis=1) >= 0)
    best = int(np.lexsort((either_sign.round(6), charge.round(6), ~sensible))[0])
    ionic = bool(sensible[best])
    # The most electronegative element takes electrons; the others give as many as their oxidation states say.
    taker = int(electronegativity.argmax())
    needed = share[taker] * _taken()[present[taker]]
    givers, share_of_givers = np.delete(present, taker), np.delete(share, taker)
    positive = [[state for state in oxidation_states(int(z) + 1) if state > 0] or [0] for z in givers]
    most = share_of_givers @ np.array([max(states) for states in positive], float)
    least = share_of_givers @ np.array([min(states) for states in positive], float)
    return {
        "charge that does not balance": float(charge[best]) if ionic else UNBALANCED,
        "mean charge of either sign": float(either_sign[best]) if ionic else 0.0,
        "highest oxidation state": float(states[best].max()) if ionic else 0.0,
        "lowest oxidation state": float(states[best].min()) if ionic else 0.0,
        "no charges": float(not ionic),
        "electrons needed beyond the most that are given": float(needed - most),
        "electrons needed beyond the least that are given": float(needed - least),
    }


def frontier_levels(fractions: Float[np.ndarray, " elements"]) -> dict[str, float]:
    """The frontier levels when all electrons fill the levels of the free atoms from below.

    Args:
        fractions: Fraction of the atoms that each element makes up, for Z = 1 to 103; they sum to 1.
    """
    levels = sorted(
        (shell.energy, shell.kind, share * shell.capacity, share * shell.electrons)
        for z, share in zip(np.flatnonzero(fractions).tolist(), fractions[fractions > 0].tolist(), strict=True)
        for shell in shells(z + 1)
    )
    levels.append((0.0, 0, 1.0, 0.0))  # an electron above all levels is free
    energy, kind, capacity, electrons = np.array(levels).T
    filled = np.clip((electrons.sum() - (np.cumsum(capacity) - capacity)) / capacity, 0, 1).round(6)
    highest = int(np.flatnonzero(filled)[-1])
    lowest = highest + 1 if filled[highest] == 1 else highest  # a level that is partly filled is both
    return {
        "highest occupied level": energy[highest],
        "lowest unoccupied level": energy[lowest],
        "gap of levels": energy[lowest] - energy[highest],
        "kind of the highest occupied level": kind[highest],
        "kind of the lowest unoccupied level": kind[lowest],
        "filling of the highest occupied level": filled[highest],
        "odd number of electrons": _odd(fractions),
        "elements": float(np.count_nonzero(fractions)),
    }


def _odd(fractions: Float[np.ndarray, " elements"]) -> float:
    """1 if the smallest whole-number formula has an odd number of valence electrons, 0 if even, 0.5 without one."""
    present = np.flatnonzero(fractions)
    atoms = np.arange(1, MOST_ATOMS + 1)[:, None] * fractions[present]
    whole = np.flatnonzero(np.abs(atoms - atoms.round()).max(axis=1) < 1e-6)
    if not len(whole):
        return 0.5
    (electrons,) = columns("valence_electrons")
    return float(atoms[whole[0]].round() @ electrons[present] % 2)


def _assignments(present: Int[np.ndarray, " elements"]) -> Float[np.ndarray, "assignments elements"]:
    """Combinations of one common oxidation state for each of these elements, at most `MOST_ASSIGNMENTS`."""
    choices = [oxidation_states(int(z) + 1) for z in present]
    for i in range(len(choices)):
        if prod(map(len, choices[: i + 1])) > MOST_ASSIGNMENTS:
            choices[i] = choices[i][:1]
    return np.array(list(product(*choices)), dtype=float)


@cache
def _taken() -> Float[np.ndarray, " elements"]:
    """Electrons that an atom takes to fill its outer shell: p electrons, or one for hydrogen."""
    taken: Float[np.ndarray, " elements"] = columns("p_holes")[0]
    taken[0] = 1
    return taken
