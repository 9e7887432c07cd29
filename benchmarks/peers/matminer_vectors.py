"""Descriptors of matminer 0.10.1: orbital field matrix, X-ray powder pattern, Magpie statistics of the composition.

    python benchmarks/peers/matminer_vectors.py crystals.parquet --out ofm.parquet --kind ofm
    python benchmarks/peers/matminer_vectors.py crystals.parquet --out xrd.parquet --kind xrd
    python benchmarks/peers/matminer_vectors.py crystals.parquet --out magpie.parquet --kind magpie

There are no weights, so there is no untrained twin.
"""

from collections.abc import Sequence

import numpy as np
from exchange import Vectors, main
from matminer.featurizers.base import BaseFeaturizer
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.structure import OrbitalFieldMatrix, XRDPowderPattern
from pymatgen.core import Structure


def orbital_field_matrix(_: int | None) -> Vectors:
    """The orbital field matrix, flattened (DOI 10.1080/14686996.2017.1378060)."""
    return _each(OrbitalFieldMatrix())


def powder_pattern(_: int | None) -> Vectors:
    """The X-ray powder pattern, one number a degree."""
    return _each(XRDPowderPattern())


def magpie(_: int | None) -> Vectors:
    """Statistics of elemental properties (DOI 10.1038/npjcompumats.2016.28)."""
    featurizer = ElementProperty.from_preset("magpie", impute_nan=False)
    of_composition = _each(featurizer)
    return lambda structures: of_composition([structure.composition for structure in structures])


def _each(featurizer: BaseFeaturizer) -> Vectors:
    def vectors(inputs: Sequence[Structure]) -> np.ndarray:
        return np.array([np.ravel(featurizer.featurize(one)) for one in inputs], dtype=float)

    return vectors


if __name__ == "__main__":
    kinds = {"ofm": orbital_field_matrix, "xrd": powder_pattern, "magpie": magpie}
    main(__doc__, kinds, packages=("matminer", "pymatgen-core"), has_weights=False)
