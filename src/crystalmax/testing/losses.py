"""Contract of objectives, and so of their parts: critics, regularizers, contrasts and intrinsic properties."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import Crystal, CrystalBatch
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.objectives.base import Objective
from crystalmax.statistics.intrinsic import prepared
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.testing.claims import check_description, contract, demand, left_alone, own_chance, same, toy_crystals

_STEPS = 30
_RATE = 1e-3


@contract
def check_objective(
    objective: Objective, geometry: Geometry | None = None, crystals: Sequence[Crystal] | None = None
) -> None:
    """Raise if the terms of an objective are not finite, cannot be repeated, or do not train its encoder.

    A critic, a regularizer, a contrast or an intrinsic property is checked as part of an objective, as in
    `check_objective(DeepInfoMax(SiteNet(), critic=MyCritic))`.

    Args:
        objective: A module; one with dropout after `.eval()`.
        geometry: The geometry that it is meant for; `AllPairs(max_sites=20)` unless given.
        crystals: Crystals with the properties that it needs; `toy_crystals()` unless given.
    """
    name, geometry = type(objective).__name__, AllPairs(max_sites=20) if geometry is None else geometry
    where = f"{Objective.__module__}.{Objective.__name__}"
    demand(isinstance(objective, Objective), f"{name} does not inherit {where}; derive it from that")
    demand(isinstance(getattr(objective, "encoder", None), nn.Module), f"{name} has no module as its `encoder`")
    twin = cast(Objective, check_description(objective)).train(objective.training)
    twin.load_state_dict(objective.state_dict())
    batch, few = _batches(objective, geometry, toy_crystals() if crystals is None else crystals)
    with left_alone(batch, name, "work on new tensors, not in place"), own_chance(name):
        terms = _terms(objective, batch)
    again = same(terms, _terms(objective, batch))
    demand(again, f"{name} gives other terms for the same generator; draw all numbers from `rng`")
    what = f"{name} gives other terms once it is built again and has its weights back, as from a file"
    demand(same(terms, _terms(twin, batch)), f"{what}; register tensors that `__init__` makes as buffers")
    _terms(objective, few)
    _check_gradients(twin, batch)
    _check_learning(twin, batch)


def _batches(
    objective: Objective, geometry: Geometry, crystals: Sequence[Crystal]
) -> tuple[CrystalBatch, CrystalBatch]:
    """Batches of all crystals and of the first two, with the columns that the objective makes before training."""
    rows = np.arange(len(crystals))
    with TemporaryDirectory() as folder:
        data = prepared(objective.modules(), CrystalDataset.from_crystals(crystals), rows, Path(folder))
        return geometry(data.batch(rows)), geometry(data.batch(rows[:2]))


def _terms(objective: Objective, batch: CrystalBatch) -> dict[str, Float[Tensor, ""]]:
    terms, name = dict(objective.terms(batch, Generator().manual_seed(1))), type(objective).__name__
    for term, value in terms.items():
        found = f"{name} gives {value.item()} as {term!r} of {batch.n_crystals} small crystals"
        demand(bool(value.isfinite()), f"{found}; look for divisions by 0, and deviations of one row")
    return terms


def _total(objective: Objective, batch: CrystalBatch) -> Float[Tensor, ""]:
    """The sum that training minimises."""
    return torch.stack([*_terms(objective, batch).values()]).sum()


def _check_gradients(objective: Objective, batch: CrystalBatch) -> None:
    name, named = type(objective).__name__, [each for each in objective.named_parameters() if each[1].requires_grad]
    found = torch.autograd.grad(_total(objective, batch), [each for _, each in named], allow_unused=True)
    learns = {each: gradient for (each, _), gradient in zip(named, found, strict=True) if gradient is not None}
    endless = [each for each, gradient in learns.items() if not gradient.isfinite().all()]
    demand(
        not endless, f"{name} has endless gradients for {', '.join(endless[:3])}; look for roots and logarithms of 0"
    )
    # Compared by identity, since the objective may hold the encoder under another name, inside a part.
    encoder = {id(weight) for weight in cast(nn.Module, objective.encoder).parameters()}
    taught = any(each in learns and id(weight) in encoder for each, weight in named)
    demand(taught, f"{name} sends no gradient to its encoder; leave `detach` and `no_grad` out")
    # Weights of the encoder above the level that the objective uses may be idle.
    idle = [each for each, weight in named if each not in learns and id(weight) not in encoder]
    demand(not idle, f"{name} does not learn {', '.join(idle[:3])}; use these weights in a term, or drop them")


def _check_learning(objective: Objective, batch: CrystalBatch) -> None:
    optimizer = torch.optim.Adam(objective.parameters(), lr=_RATE)
    losses = []
    for _ in range(_STEPS):
        loss = _total(objective, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    name, rose = type(objective).__name__, f"from {losses[0]:.3g} to {losses[-1]:.3g} in {_STEPS} steps of Adam"
    advice = "let its gradients be those of its terms, and these be such that a network can lower them"
    demand(losses[-1] < losses[0], f"the terms of {name} rose {rose} with the same crystals and draws; {advice}")
