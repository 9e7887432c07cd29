"""Vectors of CHGNet (weights 0.3.0, in the package chgnet 0.4.2): the mean of its atom features after the last layer.

    python benchmarks/peers/chgnet_vectors.py crystals.parquet --out chgnet.parquet
    python benchmarks/peers/chgnet_vectors.py crystals.parquet --out chgnet_untrained_0.parquet --seed 0

CHGNet's own crystal vector is the sum over the atoms, which doubles with the cell.
"""

from collections.abc import Sequence

import numpy as np
import torch
from chgnet.model import CHGNet
from exchange import Vectors, main
from pymatgen.core import Structure


def chgnet(seed: int | None) -> Vectors:
    """CHGNet with its published weights, or with the same architecture and random ones."""
    model = CHGNet.load(use_device="cpu", verbose=False)
    if seed is not None:
        torch.manual_seed(seed)
        model = CHGNet(**model.model_args)

    def vectors(structures: Sequence[Structure]) -> np.ndarray:
        graphs = [model.graph_converter(structure) for structure in structures]
        with torch.no_grad():
            found = model.predict_graph(graphs, task="e", return_crystal_feas=True, batch_size=len(graphs))
        found = [found] if isinstance(found, dict) else found
        return np.stack([one["crystal_fea"] / len(structure) for one, structure in zip(found, structures, strict=True)])

    return vectors


if __name__ == "__main__":
    main(__doc__, {"chgnet": chgnet}, packages=("chgnet", "torch"))
