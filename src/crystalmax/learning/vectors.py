"""Vectors of a whole data set, by any encoder."""

import logging
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from crystalmax.encoding import Encoder, width_of
from crystalmax.geometry import Geometry
from crystalmax.memory import keep_freed_memory
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites

log = logging.getLogger(__name__)


def encode(
    encoder: Encoder, geometry: Geometry, data: CrystalDataset, sites_per_batch: int = 4800
) -> Float[np.ndarray, "crystals width"]:
    """Crystal vectors of a whole data set, one in each row.

    Args:
        encoder: Any encoder; it is used in evaluation mode on the device of its weights, and is not changed.
        geometry: Makes the pairs; the one that the encoder was trained with.
        data: The crystals, in their canonical cells.
        sites_per_batch: Sites that are encoded at once; changes memory and speed, not results.
    """
    keep_freed_memory()
    out = np.empty((len(data), width_of(encoder)), dtype=np.float32)
    if isinstance(encoder, nn.Module) and encoder.training:
        encoder = deepcopy(encoder).eval()
    weights = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    device = next((each.device for each in weights), torch.device("cpu"))
    with torch.inference_mode():
        for rows in batches_of_sites(data.n_sites, sites_per_batch):
            found = encoder(geometry(data.batch(rows).to(device))).crystals
            if found.shape != (wanted := (len(rows), out.shape[1])):  # a single row would be taken for all
                said = f"gives crystal vectors of shape {tuple(found.shape)}, not {wanted}"
                raise ValueError(f"{type(encoder).__name__} {said}; let its last level have one a crystal")
            out[rows] = found.float().cpu().numpy()
    if n_endless := int((~np.isfinite(out).all(1)).sum()):
        log.warning(
            "%s gives %d of %d crystals vectors that are not finite", type(encoder).__name__, n_endless, len(data)
        )
    return out
