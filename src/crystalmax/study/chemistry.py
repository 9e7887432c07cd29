"""Classes of crystals that follow from their elements alone, such as those with a halogen."""

from collections.abc import Callable, Mapping

from crystalmax.crystal import Crystal
from crystalmax.elements import SYMBOLS

_HALOGENS = frozenset(["F", "Cl", "Br", "I", "At"])
_BLOCKS = (
    frozenset(["Li", "Na", "K", "Rb", "Cs", "Fr", "Be", "Mg", "Ca", "Sr", "Ba", "Ra"]),
    frozenset(["Al", "Ga", "In", "Tl", "Sn", "Pb", "Bi", "Po"]),
    frozenset(SYMBOLS[20:30] + SYMBOLS[38:48] + SYMBOLS[71:80]),
    frozenset(SYMBOLS[56:71] + SYMBOLS[88:103]),
)


def _halogen(crystal: Crystal) -> int:
    return int(any(SYMBOLS[number - 1] in _HALOGENS for number in crystal.composition()))


def _metal(crystal: Crystal) -> int:
    """The last class that one of its elements belongs to."""
    symbols = {SYMBOLS[number - 1] for number in crystal.composition()}
    return max((row for row, block in enumerate(_BLOCKS, 1) if not symbols.isdisjoint(block)), default=0)


CLASSES: Mapping[str, tuple[Callable[[Crystal], int], tuple[str, ...]]] = {
    "halogen": (_halogen, ("no halogen", "halogen")),
    "metal": (
        _metal,
        ("no metal", "alkali or alkaline earth", "post-transition", "transition", "lanthanide or actinide"),
    ),
}
"""Classes that crystals on a map are told apart by: a function that gives the number of the class, and their names."""
