"""Classes of crystals that a chemist would draw by their elements alone."""

from crystalmax.crystal import Crystal
from crystalmax.elements import SYMBOLS

HALOGENS = ("no halogen", "halogen")
"""Names of the classes of `halogen`."""

METALS = ("no metal", "alkali or alkaline earth", "post-transition", "transition", "lanthanide or actinide")
"""Names of the classes of `metal`."""

_HALOGENS = frozenset(["F", "Cl", "Br", "I", "At"])
_BLOCKS = (
    frozenset(["Li", "Na", "K", "Rb", "Cs", "Fr", "Be", "Mg", "Ca", "Sr", "Ba", "Ra"]),
    frozenset(["Al", "Ga", "In", "Tl", "Sn", "Pb", "Bi", "Po"]),
    frozenset(SYMBOLS[20:30] + SYMBOLS[38:48] + SYMBOLS[71:80]),
    frozenset(SYMBOLS[56:71] + SYMBOLS[88:103]),
)


def halogen(crystal: Crystal) -> int:
    """Whether there is a halogen: a row of `HALOGENS`."""
    return int(any(SYMBOLS[number - 1] in _HALOGENS for number in crystal.composition()))


def metal(crystal: Crystal) -> int:
    """The last of `METALS` that one of its elements belongs to."""
    symbols = {SYMBOLS[number - 1] for number in crystal.composition()}
    return max((row for row, block in enumerate(_BLOCKS, 1) if not symbols.isdisjoint(block)), default=0)
