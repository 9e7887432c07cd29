"""Smooth overlap of atomic positions, SOAP (dscribe 2.1.2), averaged over the atoms of a crystal.

    python benchmarks/peers/dscribe_vectors.py crystals.parquet --out soap.parquet

One density for each element would give a vector of 800,000 numbers that are nearly all zero. So densities of all
elements are added up, three times: each atom counts as one, as its group, and as its period, which together tell the
element (the compression "mu2" of DOI 10.1038/s41524-022-00847-y). There are no weights, so there is no untrained twin.
"""

from collections.abc import Sequence

import numpy as np
from dscribe.descriptors import SOAP
from exchange import Vectors, main
from pymatgen.core import Element, Structure

ELEMENTS = [Element.from_Z(number) for number in range(1, 95)]
WEIGHTS = (lambda element: 1.0, lambda element: element.group / 18, lambda element: element.row / 7)


def soap(_: int | None) -> Vectors:
    """SOAP up to 6 angstrom, Gaussians of 0.5 angstrom, 6 radial functions and spherical harmonics up to 4."""
    how = {"species": [element.symbol for element in ELEMENTS], "periodic": True, "average": "outer"}
    size = {"r_cut": 6.0, "n_max": 6, "l_max": 4, "sigma": 0.5}
    descriptors = [
        SOAP(compression={"mode": "mu2", "species_weighting": {e.symbol: weight(e) for e in ELEMENTS}}, **how, **size)
        for weight in WEIGHTS
    ]

    def vectors(structures: Sequence[Structure]) -> np.ndarray:
        atoms = [structure.to_ase_atoms(msonable=False) for structure in structures]
        return np.array([np.concatenate([one.create(each) for one in descriptors]) for each in atoms])

    return vectors


if __name__ == "__main__":
    main(__doc__, {"soap": soap}, packages=("dscribe", "ase"), has_weights=False)
