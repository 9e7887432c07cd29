"""Claim: a crystal has one vector, whichever cell, orientation, origin and order of sites it is written in.

    python benchmarks/invariance.py --data mp_cgcnn.parquet --crystals 200

Takes crystals with at most 50 sites from a table with a `cif` column, rewrites each (doubled along two axes, sheared
cell, rotated, shifted, shuffled, with explicit occupancies) and prints the largest difference of any number of an
untrained vector, for the encoder and the geometry of each recipe; `blocks` is Site-Net with three blocks of four heads.
Vectors are those of `CrystalFeaturizer`; where the geometry is one of neighbors, also those without canonical cells, so
that networks see four times the sites. About a minute; expected: all below 1e-5.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from machine import about, parser_of, publish

from crystalmax.crystal import Crystal, Occupant
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.learning.vectors import encode
from crystalmax.neighbors import Neighbors
from crystalmax.reading.sources import read
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset

ENCODERS = ("infomax", "blocks", "cgcnn", "megnet", "alignn")


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


def featurizer_of(name: str) -> CrystalFeaturizer:
    """The untrained encoder of a recipe with its geometry."""
    recipe: Any = read_recipe("infomax" if name == "blocks" else name)
    parts = recipe["objective"]["encoder"] | ({"blocks": 3, "heads": 4} if name == "blocks" else {})
    with seeded_weights(0):
        return CrystalFeaturizer(build(parts), geometry=build(recipe["geometry"]), statistics=False)


def compared(
    crystals: list[Crystal], first: Float[np.ndarray, "crystals width"], again: Float[np.ndarray, "crystals width"]
) -> dict[str, Any]:
    """How far two tables of vectors are apart, and which crystals are farther than they should be."""
    difference = np.abs(first - again).max(axis=1)
    above = [crystal.key for crystal, far in zip(crystals, difference, strict=True) if not far < 1e-5]
    return {"largest_difference": float(difference.max()), "above_1e-5": above}


def measured(name: str, crystals: list[Crystal], others: list[Crystal]) -> dict[str, Any]:
    """The differences that an encoder sees between crystals and the same crystals, rewritten."""
    featurizer = featurizer_of(name)
    first = featurizer.transform(crystals)
    result = {
        "spread_over_crystals": float(first.std(axis=0).mean()),
        **compared(crystals, first, featurizer.transform(others)),
    }
    if isinstance(featurizer.geometry, Neighbors):
        vectors = [
            encode(featurizer.encoder, featurizer.geometry, CrystalDataset.from_crystals(each), 1200)
            for each in (crystals, others)
        ]
        result["in_cells_as_they_come"] = compared(crystals, *vectors)
    return result


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=200)
    parser.add_argument(
        "--encoder", action="append", metavar="RECIPE", help="several times for several; all unless given"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    crystals = [r.crystal for r in read(options.data) if r.crystal is not None and r.crystal.n_sites <= 50]
    chosen = [crystals[row] for row in rng.permutation(len(crystals))[: options.crystals]]
    others = [rewritten(crystal, rng) for crystal in chosen]
    result = {
        "data": options.data.name,
        "crystals": len(chosen),
        "encoders": {name: measured(name, chosen, others) for name in options.encoder or ENCODERS},
        **about(),
    }
    publish(result, options.out)


if __name__ == "__main__":
    main()
