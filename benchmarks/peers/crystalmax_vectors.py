"""Our own vectors through the interface of the peers, for `benchmarks/featurisers.py`; else use `crystalmax represent`.

The time of a vector does not depend on the values of the weights, so there is an untrained Site-Net only.
"""

from collections.abc import Sequence

import numpy as np
from exchange import Vectors, main

from crystalmax.cells import canonical
from crystalmax.crystal import Crystal
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.learning.vectors import encode
from crystalmax.reading.cif import read_cif
from crystalmax.reading.structures import Refused
from crystalmax.spec import seeded_weights
from crystalmax.storage.dataset import CrystalDataset


def site_net(seed: int | None) -> Vectors:
    """A Site-Net of the size of our recipes."""
    with seeded_weights(seed or 0):
        encoder = SiteNet()

    def vectors(crystals: Sequence[Crystal]) -> np.ndarray:
        return encode(encoder, AllPairs(), CrystalDataset.from_crystals(crystals))

    return vectors


def canonical_crystal(cif: str) -> Crystal:
    """The one crystal of a CIF, in its canonical cell."""
    (outcome,) = read_cif(cif)
    if isinstance(outcome, Refused):
        raise outcome
    return canonical(outcome.crystal)


if __name__ == "__main__":
    main(__doc__, {"crystalmax": site_net}, packages=("crystalmax", "torch"), read=canonical_crystal)
