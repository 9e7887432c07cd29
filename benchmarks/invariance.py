"""Claim: a crystal has one vector, whichever cell, orientation, origin and order of sites it is written in.

    python benchmarks/invariance.py --data mp_cgcnn.parquet --crystals 200

Takes crystals with at most 50 sites from a table with a `cif` column, rewrites each (doubled along two axes, sheared
cell, rotated, shifted, shuffled, with explicit occupancies) and prints the largest difference of an untrained Site-Net
vector. About a minute; expected: all below 1e-5.
"""

from dataclasses import replace

import numpy as np
from machine import about, parser_of, publish

from crystalmax.crystal import Crystal, Occupant
from crystalmax.encoders import SiteNet
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.sources import read
from crystalmax.training import seeded_weights


def rewritten(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The same crystal in a supercell of a sheared cell, rotated, shifted, its sites shuffled."""
    shear = np.eye(3) + np.triu(rng.integers(-1, 2, (3, 3)), 1)
    cell = np.diag([2, 2, 1]) @ shear
    cells = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = cells @ np.linalg.inv(cell)
    cells = cells[np.all((inside > -1e-9) & (inside < 1 - 1e-9), axis=1)]
    positions = ((crystal.positions[:, None] + cells) @ np.linalg.inv(cell)).reshape(-1, 3) + rng.random(3)
    order = rng.permutation(len(positions))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    kinds = tuple(
        tuple(Occupant(o.atomic_number, float(o.occupancy), o.oxidation_state) for o in k) for k in crystal.kinds
    )
    return replace(
        crystal,
        lattice=cell @ crystal.lattice @ rotation,
        positions=(positions % 1.0)[order],
        species=np.repeat(crystal.species, len(cells))[order],
        kinds=kinds,
    )


def main() -> None:
    """Measure, print, write JSON."""
    options = parser_of(__doc__, crystals=200).parse_args()
    rng = np.random.default_rng(0)
    with seeded_weights(0):
        featurizer = CrystalFeaturizer(SiteNet())
    crystals = [r.crystal for r in read(options.data) if r.crystal is not None and r.crystal.n_sites <= 50]
    chosen = [crystals[row] for row in rng.permutation(len(crystals))[: options.crystals]]
    first = featurizer.transform(chosen)
    again = featurizer.transform([rewritten(crystal, rng) for crystal in chosen])
    difference = np.abs(first - again).max(axis=1)
    result = {
        "data": options.data.name,
        "crystals": len(chosen),
        "largest_difference": float(difference.max()),
        "above_1e-5": [crystal.key for crystal, far in zip(chosen, difference, strict=True) if far > 1e-5],
        **about(),
    }
    publish(result, options.out)


if __name__ == "__main__":
    main()
