"""Limits on what one structure may take in memory and time, since structure files may come from strangers.

An entry beyond a limit is refused, with a reason, before memory is taken for it; other entries are read all the same.
"""

import numpy as np
from jaxtyping import Float

MAX_FILE_BYTES = 2**26
"""Size above which a file, an entry of an archive once unpacked, or a cell of a table is refused."""
TOO_LARGE = f"it is larger than {MAX_FILE_BYTES >> 20} MiB", "split it into smaller files"
"""Reason and remedy for such a refusal."""
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size of an entry of an archive; for CIF files it is about ten."""
MAX_STRUCTURES = 10**5
"""Structures that one file or entry may hold; tables, folders and archives may hold any number."""
MAX_ATOMS = 10**5
"""Atoms that one structure may list."""
MAX_OPERATIONS = 1024
"""Symmetry operations that one structure may list; no space group has more than 192."""
MAX_IMAGES = 10**6
"""Largest product of the numbers of atoms and of symmetry operations of one structure."""
MAX_SLOW_BYTES, MAX_SLOW_LINE, MAX_SLOW_IMAGES = 2**21, 2048, 3000
"""Limits on CIF files that pymatgen reads, which is slow: bytes, characters in a line, atoms times operations."""
SITES_A_PLACE = 10
"""How many atoms may be listed for each site that is allowed, since several atoms can share a site."""
MAX_TOGETHER = 100
"""Most atoms in a cube with edges of 1 angstrom."""
MAX_LENGTH = 1e3
"""Largest length of a cell vector or coordinate, in angstrom: memory grows with it, and `geometry` relies on it."""
MAX_WORDS = 300
"""Longest name, reason or note, in characters; the rest is cut off."""
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "?")  # but tabs and new lines


class Refused(ValueError):
    """A structure is refused: its key, the reason, and what to do about it."""

    def __init__(self, key: str, reason: str, remedy: str) -> None:
        super().__init__(key, reason, remedy)
        self.key, self.reason, self.remedy = key, reason, remedy

    def __str__(self) -> str:
        return f"{self.key or 'this structure'}: {self.reason}; {self.remedy}."


def above(found: int, limit: int, what: str, key: str, remedy: str) -> Refused | None:
    """The refusal of an entry that has more of something than the limit; None if it has not."""
    reason = f"it has {found:,} {what}, more than the {limit:,} that one entry may have"
    return Refused(key, reason, remedy) if found > limit else None


def refuse_above(found: int, limit: int, what: str, key: str, remedy: str) -> None:
    """Refuse an entry that has more of something than the limit."""
    if refused := above(found, limit, what, key, remedy):
        raise refused


def too_many(found: int, what: str, key: str) -> Refused | None:
    """The refusal of an entry with more than `MAX_STRUCTURES` structures; None if it has not."""
    return above(found, MAX_STRUCTURES, what, key, "split it into smaller files")


def refuse_crowds(places: Float[np.ndarray, "atoms 3"], key: str, max_sites: int) -> None:
    """Refuse atoms that are far too many, or so crowded that finding close pairs would take too long; in angstrom."""
    refuse_far(places, key)
    if len(places) <= MAX_TOGETHER:
        return
    refuse_above(len(places), SITES_A_PLACE * max_sites, "atoms", key, "give a smaller cell, or allow more sites")
    finite = places[np.isfinite(places).all(axis=1)]
    _, together = np.unique(np.floor(finite), axis=0, return_counts=True)
    most = int(together.max(initial=0))
    refuse_above(most, MAX_TOGETHER, "atoms within 1 angstrom", key, "list each atom once")


def refuse_far(lengths: Float[np.ndarray, "rows 3"], key: str) -> None:
    """Refuse cell vectors and positions, in angstrom, that are too long for a crystal; NaN is left to other checks."""
    if (far := float(np.abs(lengths).max(initial=0.0))) > MAX_LENGTH:
        remedy = "lengths are in angstrom, coordinates are fractions of the cell"
        raise Refused(key, f"a cell vector or a place measures {far:.3g} angstrom, more than {MAX_LENGTH:g}", remedy)


def printable(text: str) -> str:
    """A text that can be written as UTF-8, unlike some names of files, and has no control characters for a terminal."""
    return text.encode("utf-8", "replace").decode().translate(_CONTROLS)


def shortened(text: str) -> str:
    """A printable text of at most `MAX_WORDS` characters, for tables and messages."""
    text = printable(text)
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}..."
