"""Vectors of SevenNet-0 (package sevenn 0.13.0): the mean of its invariant atom features before the energy is read out.

python benchmarks/peers/sevennet_vectors.py crystals.parquet --out sevennet.parquet
python benchmarks/peers/sevennet_vectors.py crystals.parquet --out sevennet_untrained_0.parquet --seed 0
"""

from collections.abc import Sequence

import numpy as np
import torch
from exchange import Vectors, main
from pymatgen.core import Structure
from sevenn.atom_graph_data import AtomGraphData
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import load_checkpoint
from torch_geometric.data import Batch

READOUT = "reduce_input_to_hidden"


def sevennet(seed: int | None) -> Vectors:
    """SevenNet-0 with its published weights, or with the same architecture and random ones."""
    checkpoint = load_checkpoint("7net-0")
    model = checkpoint.build_model()
    if seed is not None:
        constants = {name: value for name, value in model.state_dict().items() if name.endswith(".denominator")}
        torch.manual_seed(seed)
        model = build_E3_equivariant_model(checkpoint.config)
        # Not learnt: the mean number of neighbors, which the configuration leaves at zero.
        model.load_state_dict(constants, strict=False)
    model.eval().set_is_batch_data(True)
    model.key_grad = None  # of forces, which nobody asks for here
    names = [name for name, _ in model.named_children()]
    for name in names[names.index(READOUT) :]:
        model.delete_module_by_key(name)

    def vectors(structures: Sequence[Structure]) -> np.ndarray:
        graphs = [unlabeled_atoms_to_graph(one.to_ase_atoms(msonable=False), model.cutoff) for one in structures]
        batch = Batch.from_data_list([AtomGraphData.from_numpy_dict(graph) for graph in graphs])
        with torch.no_grad():
            atoms = model(batch)["x"]
        sizes = [len(one) for one in structures]
        return torch.stack([part.mean(0) for part in atoms.split(sizes)]).numpy()

    return vectors


if __name__ == "__main__":
    main(__doc__, {"sevennet": sevennet}, packages=("sevenn", "torch"))
