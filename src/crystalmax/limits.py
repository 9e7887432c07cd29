"""How much one entry of a source may ask for; structures come from strangers, who may ask for anything.

What is beyond a limit is refused before it is made, in a sentence, and spoils nothing else.
"""

import numpy as np
from jaxtyping import Float

MAX_FILE_BYTES = 2**26
"""Size above which a file, an entry of an archive once unpacked, or a cell of a table is refused."""
TOO_LARGE = f"it is larger than {MAX_FILE_BYTES >> 20} MiB", "split it into smaller files"
"""Reason and remedy of that."""
MAX_RATIO = 200
"""How much smaller packing may have made an entry of an archive; CIF files become some ten times smaller."""
MAX_STRUCTURES = 10**5
"""Structures that one file or entry may hold; tables, folders and archives may hold any number."""
MAX_ATOMS = 10**5
"""Atoms that one structure may list."""
MAX_OPERATIONS = 1024
"""Symmetry operations that one structure may list; no space group has more than 192."""
MAX_IMAGES = 10**6
"""Atoms times operations."""
MAX_SLOW_BYTES, MAX_SLOW_LINE, MAX_SLOW_IMAGES = 2**21, 2048, 3000
"""The same for what pymatgen reads, which is slow: bytes, characters a line (as CIF has it), atoms times operations."""
SITES_A_PLACE = 10
"""Atoms may be listed this many times as often as there may be sites, since several can share one."""
MAX_TOGETHER = 100
"""Atoms that one cube of 1 angstrom may hold."""
MAX_LENGTH = 1e3
"""Angstrom that a cell or a place may measure: memory grows with it, and `geometry` sorts distances up to there."""
MAX_WORDS = 300
"""Letters of a name, a reason or a note; the rest is cut off."""
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "?")  # but tabs and new lines


class Refused(ValueError):
    """A structure that is not taken, with the reason and what would help."""

    def __init__(self, key: str, reason: str, remedy: str) -> None:
        super().__init__(key, reason, remedy)
        self.key, self.reason, self.remedy = key, reason, remedy

    def __str__(self) -> str:
        return f"{self.key or 'this structure'}: {self.reason}; {self.remedy}."


def above(found: int, limit: int, what: str, key: str, remedy: str) -> Refused | None:
    """The refusal of an entry that has more of something than the limit; none if it does not."""
    reason = f"it has {found:,} {what}, more than the {limit:,} that one entry may have"
    return Refused(key, reason, remedy) if found > limit else None


def refuse_above(found: int, limit: int, what: str, key: str, remedy: str) -> None:
    """Refuse an entry that has more of something than the limit."""
    if refused := above(found, limit, what, key, remedy):
        raise refused


def too_many(found: int, what: str, key: str) -> Refused | None:
    """The refusal of an entry that holds more structures than one may; none if it does not."""
    return above(found, MAX_STRUCTURES, what, key, "split it into smaller files")


def refuse_crowds(places: Float[np.ndarray, "atoms 3"], key: str, max_sites: int) -> None:
    """Refuse atoms, at places in angstrom, that are far too many, or so close that all would be compared with all."""
    refuse_far(places, key)
    if len(places) <= MAX_TOGETHER:
        return
    refuse_above(len(places), SITES_A_PLACE * max_sites, "atoms", key, "give a smaller cell, or allow more sites")
    finite = places[np.isfinite(places).all(axis=1)]
    _, together = np.unique(np.floor(finite), axis=0, return_counts=True)
    most = int(together.max(initial=0))
    refuse_above(most, MAX_TOGETHER, "atoms within 1 angstrom", key, "list each atom once")


def refuse_far(lengths: Float[np.ndarray, "rows 3"], key: str) -> None:
    """Refuse cell vectors and places, in angstrom, that no crystal has; what is no number is for others to judge."""
    far = float(np.abs(lengths).max(initial=0.0))
    if far > MAX_LENGTH:
        remedy = "lengths are in angstrom, coordinates are fractions of the cell"
        raise Refused(key, f"a cell vector or a place measures {far:.3g} angstrom, more than {MAX_LENGTH:g}", remedy)


def printable(text: str) -> str:
    """A text that can be written as UTF-8, which names of files need not be, and commands no terminal."""
    return text.encode("utf-8", "replace").decode().translate(_CONTROLS)


def shortened(text: str) -> str:
    """A text of a stranger, for a table that people read."""
    text = printable(text)
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}..."
